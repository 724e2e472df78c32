"""`build`: a model becomes a TensorRT engine on disk."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, Unpack

from secateur.backends.tensorrt import (
    BuildOptions,
    BuildReport,
    Origin,
    Precision,
    Profile,
    ShapeRange,
    kernel_types,
    parse_shape,
)
from secateur.backends.tensorrt import build as build_engine
from secateur.backends.tensorrt.progress import ProgressCallback
from secateur.feeding import ModelLike, graph_of, refuse_unknown, title_of
from secateur.ir import Graph
from secateur.ir.files import check_writable
from secateur.ir.scratch import scratch_folder
from secateur.payoff import payoff
from secateur.text import Shown, amount, heading, notes, pairs, table

if TYPE_CHECKING:
    from rich.console import RenderableType

Target: TypeAlias = Literal["tensorrt-rtx", "tensorrt"]
Sizes: TypeAlias = str | Sequence[int] | Sequence[Sequence[int]]


class Extras(TypedDict, total=False):
    """What else a build can be told; see `secateur.backends.tensorrt.BuildOptions`."""

    sparse_weights: bool
    workspace_bytes: int | None
    optimization_level: int | None
    require_precision: Precision | None
    require_sparse: bool
    refit: bool
    strip: bool
    version_compatible: bool
    plugins: Sequence[str | os.PathLike[str]]
    timing_cache: str | os.PathLike[str] | None
    manifest: str | os.PathLike[str] | None
    progress: ProgressCallback | None


@dataclass(frozen=True)
class EngineReport(Shown):
    """An engine that lies on disk, and what the builder says of it (`build`).

    `payoff` says of each target what 2:4 weights can be worth there at most, where kernels could take some.
    """

    build: BuildReport
    payoff: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Everything, with every layer."""
        return {**self.build.to_json(), "payoff": list(self.payoff)}

    def blocks(self) -> Iterable[RenderableType]:
        """Figures of the engine, kernels by kind, and what the builder says."""
        made = self.build
        yield heading(f"{made.model} -> {made.engine}", first=True)
        yield pairs(
            {
                "built with": f"{made.flavor} {made.version}, for {', '.join(made.targets) or 'its default targets'}",
                "engine": f"{made.bytes:,} bytes ({amount(made.bytes, 'B')})",
                "seconds": made.seconds,
                "shapes": "; ".join(map(str, made.profiles)),
                "layers": len(made.layers),
                "quantized nodes": _precision(made),
                "2:4 weights": _sparsity(made),
                "memory": ", ".join(f"{name} {amount(size, 'B')}" for name, size in made.memory.items()),
                "sha256": made.sha256,
            }
        )
        kernels = sorted(kernel_types(made).items(), key=lambda item: -item[1])
        if kernels:
            rows = [(*name.partition(" "), count) for name, count in kernels]
            yield table([{"kernel": kind, "reads": reads, "count": count} for kind, _, reads, count in rows], gap=True)
        yield from notes(made.sparsity_lines)
        yield from notes((*made.notes, *self.payoff))
        yield from notes(f"TensorRT warns: {warning}" for warning in made.warnings)


def _precision(made: BuildReport) -> str:
    if not made.precision:
        return "none" if made.precision is not None else "unknown"
    return f"{sum(one.is_honoured for one in made.precision)} of {len(made.precision)} run as quantized"


def _sparsity(made: BuildReport) -> str:
    sparse = [one for one in made.weights if one.is_sparse]
    return f"{len(sparse)} of {len(made.weights)}, {sum(one.eligible for one in sparse)} eligible for sparse kernels"


def build(
    model: ModelLike,
    output: str | os.PathLike[str],
    *,
    target: Target = "tensorrt-rtx",
    compute_capability: str | Sequence[str] = (),
    shapes: Mapping[str, Sizes] | Sequence[Mapping[str, Sizes]] | None = None,
    **extras: Unpack[Extras],
) -> EngineReport:
    """Builds an engine; TensorRT-RTX needs no GPU for that.

    Args:
        model: an ONNX file, or a graph.
        output: the engine file; it appears when it is complete, or not at all, and with it `output`.json, which says
            from what it was made and what is known of it.
        target: which of NVIDIA's two packages builds.
        compute_capability: the GPUs to build for, as "8.9"; TensorRT-RTX only.
        shapes: for inputs of no fixed size, by name: one shape, or the smallest, the most frequent and the largest.
            As numbers, `(1, 3, 224, 224)`, or as text, "1x3x224x224,4x3x224x224,8x3x224x224". A list of such mappings
            makes an engine with several profiles.
        extras: `sparse_weights` (let it take 2:4 kernels), `workspace_bytes`, `optimization_level`, `progress`; what
            must come true or the build fails, `require_precision` ("as-quantized", or a type) and `require_sparse`;
            `refit`, `strip`, `version_compatible`, `plugins` (paths), `timing_cache` (a path; "tensorrt" only), and
            `manifest`, a file whose checksum goes into `output`.json.

    Raises:
        ModelError: the file is no model.
        BackendError: TensorRT is missing, refuses an op (which is named), cannot build for a target, or the engine is
            not what was required.
        OutputError: the engine cannot be written.
    """
    check_writable(Path(output))
    options, origin = options_of(target, compute_capability, shapes, **extras)
    if not isinstance(model, Graph):
        return _reported(build_engine(model, output, options, origin=origin), model)
    with scratch_folder(Path(output).parent) as folder:
        path = folder / f"{title_of(model).replace(os.sep, '_')}.onnx"
        model.save(path)
        return _reported(build_engine(path, output, options, origin=replace(origin, title=title_of(model))), model)


def _reported(made: BuildReport, model: ModelLike) -> EngineReport:
    sparse = any(one.eligible for one in made.weights)
    return EngineReport(made, payoff(graph_of(model), made) if sparse else ())


def options_of(
    target: Target,
    compute_capability: str | Sequence[str] = (),
    shapes: Mapping[str, Sizes] | Sequence[Mapping[str, Sizes]] | None = None,
    **extras: Unpack[Extras],
) -> tuple[BuildOptions, Origin]:
    """What `build` takes, as the backend takes it.

    Raises:
        ProfileError, TargetError: a shape or a compute capability is none.
        TypeError: an argument is unknown.
    """
    refuse_unknown(extras, Extras, "build")
    several = [shapes] if isinstance(shapes, Mapping) else shapes or []
    ranges = [tuple(range_of(name, sizes) for name, sizes in one.items()) for one in several]
    capabilities = (compute_capability,) if isinstance(compute_capability, str) else tuple(compute_capability)
    rest: dict[str, Any] = {**extras}
    manifest, plugins, cache = rest.pop("manifest", None), rest.pop("plugins", ()), rest.pop("timing_cache", None)
    options = BuildOptions(
        flavor=target,
        compute_capabilities=capabilities,
        profiles=tuple(Profile(one) for one in ranges if one),
        plugins=tuple(os.fspath(path) for path in plugins),
        timing_cache=None if cache is None else os.fspath(cache),
        **rest,
    )
    return options, Origin(manifest=None if manifest is None else Path(manifest))


def range_of(name: str, sizes: Sizes) -> ShapeRange:
    """The sizes of one input, as `build` takes them, as a range.

    Raises:
        ProfileError: they are none.
    """
    if isinstance(sizes, str):
        return parse_shape(f"{name}={sizes}")
    shapes = [tuple(sizes)] if all(isinstance(size, int) for size in sizes) else [tuple(shape) for shape in sizes]  # type: ignore[arg-type]
    return parse_shape(f"{name}={','.join('x'.join(map(str, shape)) for shape in shapes)}")
