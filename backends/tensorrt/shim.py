"""NVIDIA's two Python packages, `tensorrt` (10 and 11) and `tensorrt_rtx`, behind one object.

What a package can do is asked of its attributes, never concluded from its version: the two packages and their releases
differ in enum members and methods, while the part that a build needs is the same in all of them.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, get_args

from secateur.backends.tensorrt.errors import BackendUnavailable

Flavor = Literal["tensorrt", "tensorrt-rtx"]
Choice = Literal["auto", "tensorrt", "tensorrt-rtx"]

_MODULES: dict[Flavor, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_NEEDED = (
    "Builder",
    "OnnxParser",
    "ILogger",
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
    "ProfilingVerbosity.DETAILED",
    "MemoryPoolType.WORKSPACE",
)


@dataclass(frozen=True)
class Trt:
    """One loaded package. `compute_capabilities` are those that it can be told to build for ("8.9"); () if none."""

    module: ModuleType
    flavor: Flavor
    version: str
    compute_capabilities: tuple[str, ...]
    streams: bool
    reports_progress: bool
    sparse_weights: bool

    def compute_capability(self, name: str) -> Any:
        """The enum member for "8.9", which must be one of `compute_capabilities`."""
        return getattr(self.module.ComputeCapability, "SM" + name.replace(".", ""))

    def implement(self, interface: str, **methods: Callable[..., object]) -> Any:
        """An object that implements NVIDIA's `interface` (ILogger, IStreamWriter, …) with plain functions.

        The interfaces exist only once the package is loaded, so no class of ours can name them as its base.
        """
        base = getattr(self.module, interface)
        members: dict[str, object] = {name: staticmethod(method) for name, method in methods.items()}
        members["__init__"] = lambda instance: base.__init__(instance)
        return type(f"Secateur{interface}", (base,), members)()


def load(flavor: Choice = "auto") -> Trt:
    """The package of that flavor; "auto" takes `tensorrt` where it is usable, `tensorrt_rtx` otherwise.

    Raises:
        BackendUnavailable: not installed, a shared library is missing, or it is only a stub or the lean runtime.
    """
    if flavor not in get_args(Choice):
        raise ValueError(f"flavor must be one of {', '.join(get_args(Choice))}, not {flavor!r}")
    if flavor != "auto":
        return _load(flavor)
    try:
        return _load("tensorrt")
    except BackendUnavailable as full:
        try:
            return _load("tensorrt-rtx")
        except BackendUnavailable as rtx:
            raise BackendUnavailable(f"{full.message}; {rtx.message}", hint=_hint("tensorrt-rtx")) from rtx


def _load(flavor: Flavor) -> Trt:
    name = _MODULES[flavor]
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendUnavailable(f"{flavor} cannot be loaded: {error}", hint=_hint(flavor)) from error
    missing = [path for path in _NEEDED if not _has(module, path)]
    if missing:
        raise BackendUnavailable(
            f"{flavor} cannot build engines: the installed package {name} {getattr(module, '__version__', '')} "
            f"has no {missing[0]} (a stub, a runtime without builder, or too old)",
            hint=_hint(flavor),
        )
    return Trt(
        module=module,
        flavor=flavor,
        version=str(getattr(module, "__version__", "unknown")),
        compute_capabilities=_compute_capabilities(module),
        streams=_has(module, "Builder.build_serialized_network_to_stream") and _has(module, "IStreamWriter"),
        reports_progress=_has(module, "IProgressMonitor") and _has(module, "IBuilderConfig.progress_monitor"),
        sparse_weights=_has(module, "BuilderFlag.SPARSE_WEIGHTS"),
    )


def _hint(flavor: Flavor) -> str:
    return f"pip install 'secateur[{flavor}]'"


def _has(module: ModuleType, path: str) -> bool:
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part, None)
    return found is not None


def _compute_capabilities(module: ModuleType) -> tuple[str, ...]:
    """SM75 … SM120 -> "7.5" … "12.0", in ascending order; members like CURRENT need a GPU and are left out."""
    if not _has(module, "IBuilderConfig.set_compute_capability"):
        return ()
    matches = (re.fullmatch(r"SM(\d+)(\d)", name) for name in dir(getattr(module, "ComputeCapability", None)))
    pairs = sorted((int(match[1]), int(match[2])) for match in matches if match)
    return tuple(f"{major}.{minor}" for major, minor in pairs)
