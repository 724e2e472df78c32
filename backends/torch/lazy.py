"""torch, loaded when it is first used: rules can be listed, and the package imported, where it is not installed."""

from __future__ import annotations

import importlib
from typing import Any

from secateur.ir.errors import BackendError


def load() -> Any:
    """The module `torch`.

    Raises:
        BackendError: it is not installed.
    """
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise BackendError(
            f"torch is needed to evaluate a graph in torch, and cannot be loaded: {error}",
            hint="pip install 'secateur[torch]'",
        ) from error


class _Lazy:
    """A module that is imported at the first look at one of its names; a name is looked up once."""

    def __init__(self, inner: str = "") -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        found: Any = load()
        for part in self._inner.split("."):
            found = getattr(found, part) if part else found
        found = getattr(found, name)
        setattr(self, name, found)
        return found


torch: Any = _Lazy()
functional: Any = _Lazy("nn.functional")
