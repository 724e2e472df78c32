"""The command lines of other tools that build the same engine, for those who want to leave this one out."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from secateur.backends.tensorrt.options import BuildOptions
from secateur.backends.tensorrt.profiles import Profile, Shape

_MIB = 1 << 20


@dataclass(frozen=True)
class Commands:
    """Lines for a shell. `trtexec` is called `tensorrt_rtx` in TensorRT-RTX. `missing`: what neither of them does."""

    trtexec: str
    polygraphy: str
    missing: tuple[str, ...]


def commands(model: str | os.PathLike[str], engine: str | os.PathLike[str], options: BuildOptions) -> Commands:
    """What builds the model with these options by NVIDIA's own tools; "auto" stands for TensorRT-RTX."""
    paths = (os.fspath(model), os.fspath(engine))
    rtx = options.flavor != "tensorrt"
    polygraphy = shlex.join(["polygraphy", "convert", *_polygraphy(*paths, options, rtx)])
    return Commands(
        trtexec=shlex.join(["tensorrt_rtx" if rtx else "trtexec", *_trtexec(*paths, options, rtx)]),
        polygraphy=f"POLYGRAPHY_USE_TENSORRT_RTX=1 {polygraphy}" if rtx else polygraphy,
        missing=tuple(_missing(options)),
    )


def _trtexec(model: str, engine: str, options: BuildOptions, rtx: bool) -> Iterator[str]:
    yield f"--onnx={model}"
    yield f"--saveEngine={engine}"
    yield "--skipInference"
    yield "--profilingVerbosity=detailed"
    if not rtx:
        yield "--stronglyTyped"
    if options.compute_capabilities:
        digits = (name.replace(".", "") for name in options.compute_capabilities)
        yield f"--computeCapabilities={','.join(digits)}"
    for number, profile in enumerate(options.profiles):
        if len(options.profiles) > 1:
            yield f"--profile={number}"
        for which in ("min", "opt", "max"):
            shapes = ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in _shapes(profile, which))
            yield f"--{which}Shapes={shapes}"
    if options.workspace_bytes is not None:
        yield f"--memPoolSize=workspace:{options.workspace_bytes / _MIB:g}"
    if options.optimization_level is not None:
        yield f"--builderOptimizationLevel={options.optimization_level}"
    flags = {
        "--sparsity=enable": options.sparse_weights or options.require_sparse,
        "--refit": options.refit,
        "--stripWeights": options.strip,
        "--versionCompatible": options.version_compatible,
        "--excludeLeanRuntime": options.version_compatible and rtx,
    }
    yield from (flag for flag, wanted in flags.items() if wanted)
    yield from (f"--staticPlugins={path}" for path in options.plugins)
    if options.timing_cache is not None:
        yield f"--timingCacheFile={options.timing_cache}"


def _polygraphy(model: str, engine: str, options: BuildOptions, rtx: bool) -> Iterator[str]:
    yield from (model, "--convert-to", "trt", "--output", engine, "--profiling-verbosity", "detailed")
    if not rtx:
        yield "--strongly-typed"
    if options.compute_capabilities:
        yield from ("--compute-capabilities", *options.compute_capabilities)
    for profile in options.profiles:
        for which in ("min", "opt", "max"):
            yield f"--trt-{which}-shapes"
            yield from (f"{name}:[{','.join(map(str, shape))}]" for name, shape in _shapes(profile, which))
    if options.workspace_bytes is not None:
        yield from ("--pool-limit", f"workspace:{options.workspace_bytes}")
    if options.optimization_level is not None:
        yield from ("--builder-optimization-level", str(options.optimization_level))
    flags = {
        "--sparse-weights": options.sparse_weights or options.require_sparse,
        "--refittable": options.refit,
        "--strip-plan": options.strip,
        "--version-compatible": options.version_compatible,
        "--exclude-lean-runtime": options.version_compatible and rtx,
    }
    yield from (flag for flag, wanted in flags.items() if wanted)
    if options.plugins:
        yield from ("--plugins", *options.plugins)
    if options.timing_cache is not None:
        yield from ("--load-timing-cache", options.timing_cache, "--save-timing-cache", options.timing_cache)


def _shapes(profile: Profile, which: str) -> Sequence[tuple[str, Shape]]:
    return [(one.input, getattr(one, which)) for one in profile.ranges]


def _missing(options: BuildOptions) -> Iterator[str]:
    if options.require_precision is not None:
        yield f"they do not check that nodes run {options.require_precision}"
    if options.require_sparse:
        yield "they do not check that weights are 2:4"
    yield "they write no metadata beside the engine, and leave half an engine when they are stopped"
