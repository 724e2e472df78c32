"""Targets as text: `tensorrt-rtx`, `tensorrt-rtx,8.9`, `tensorrt-rtx,8.9,12.0`, `tensorrt`."""

from __future__ import annotations

import re

from secateur.backends.tensorrt.errors import TargetError
from secateur.backends.tensorrt.lint.site import Target

_EXAMPLE = "write a package and compute capabilities, as in tensorrt-rtx,8.9"


def parse_target(text: str) -> Target:
    """The target that a text names.

    Raises:
        TargetError: there is no such package, or what follows is no compute capability.
    """
    flavor, *rest = (word.strip() for word in text.split(","))
    capabilities = []
    for word in rest:
        match = re.fullmatch(r"(\d+)\.(\d)", word)
        if match is None:
            raise TargetError(f"{word!r} is no compute capability", hint=_EXAMPLE)
        capabilities.append((int(match[1]), int(match[2])))
    if flavor == "tensorrt-rtx":
        return Target("tensorrt-rtx", tuple(capabilities))
    if flavor == "tensorrt":
        return Target("tensorrt", tuple(capabilities))
    raise TargetError(f"there is no package {flavor!r} to build for", hint=_EXAMPLE)
