"""From options to a builder's configuration; and what is loaded before, and kept after, a build."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from secateur.backends.tensorrt import messages
from secateur.backends.tensorrt.errors import PluginError, TargetError, TensorRTError
from secateur.backends.tensorrt.network import Session
from secateur.backends.tensorrt.options import BuildOptions
from secateur.ir.errors import OutputError
from secateur.ir.files import write_atomically


def load_plugins(session: Session, options: BuildOptions) -> None:
    """Loads the plugin libraries, before a model is parsed that needs them.

    Raises:
        PluginError: a library cannot be loaded, or holds no plugins.
    """
    for path in options.plugins:
        before = len(session.log)
        if not Path(path).is_file():
            raise PluginError(f"plugin library {path}: no such file", log=session.log)
        handle = session.builder.get_plugin_registry().load_library(str(Path(path).absolute()))
        if handle is None:
            reasons = "; ".join(messages.errors(session.log[before:])) or "no reason given"
            raise PluginError(
                f"plugin library {path} cannot be loaded: {reasons}",
                hint=f"it must be built for {session.trt.flavor} {session.trt.version} and export its creators",
                log=session.log,
            )


def flags_of(session: Session, options: BuildOptions) -> tuple[str, ...]:
    """NVIDIA's names of the builder flags that the options come to."""
    return tuple(_flags(session.trt.flavor, options))


def _flags(flavor: str, options: BuildOptions) -> Iterator[str]:
    if options.sparse_weights or options.require_sparse:
        yield "SPARSE_WEIGHTS"
    if options.refit:
        yield "REFIT"
    if options.strip:
        yield "STRIP_PLAN"
    if options.version_compatible:
        yield "VERSION_COMPATIBLE"
        if flavor == "tensorrt-rtx":
            yield "EXCLUDE_LEAN_RUNTIME"  # this package has none that it could put into the engine


def configure(session: Session, options: BuildOptions) -> Any:
    """The configuration of one build.

    Raises:
        TargetError: the package refuses a compute capability.
        TensorRTError: the timing cache is that of another version or device.
    """
    trt, module = session.trt, session.trt.module
    config = session.builder.create_builder_config()
    # Only at this level does the builder write its layer table; the engine does not grow by it.
    config.profiling_verbosity = module.ProfilingVerbosity.DETAILED
    if options.compute_capabilities:
        config.num_compute_capabilities = len(options.compute_capabilities)
        for index, name in enumerate(options.compute_capabilities):
            if not config.set_compute_capability(trt.compute_capability(name), index):
                raise TargetError(f"{trt.flavor} {trt.version} refuses compute capability {name}", log=session.log)
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    for flag in flags_of(session, options):
        config.set_flag(getattr(module.BuilderFlag, flag))
    if options.timing_cache is not None:
        _use_timing_cache(session, config, Path(options.timing_cache))
    return config


def _use_timing_cache(session: Session, config: Any, path: Path) -> None:
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, False):
        raise TensorRTError(
            f"the timing cache {path} cannot be used by {session.trt.flavor} {session.trt.version} on this device",
            hint="delete it, or name another one: it is written anew",
            log=session.log,
        )


def keep_timing_cache(config: Any, options: BuildOptions) -> None:
    """Writes what was timed, and what was known before, for the next build.

    Raises:
        OutputError: it cannot be written.
    """
    if options.timing_cache is None:
        return
    cache = config.get_timing_cache()
    if cache is None:
        raise OutputError(f"cannot write {options.timing_cache}: the builder gave no timing cache")
    with write_atomically(options.timing_cache) as (temporary,):
        temporary.write_bytes(bytes(cache.serialize()))
