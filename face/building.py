"""`build`: a model becomes a TensorRT engine on disk."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, Unpack

from secateur.backends.tensorrt import BuildOptions, BuildReport, Profile, ShapeRange, parse_shape
from secateur.backends.tensorrt import build as build_engine
from secateur.backends.tensorrt.progress import ProgressCallback
from secateur.feeding import ModelLike, title_of
from secateur.ir import Graph
from secateur.ir.files import check_writable
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
    progress: ProgressCallback | None


@dataclass(frozen=True)
class EngineReport(Shown):
    """An engine that lies on disk, and what the builder says of it (`build`)."""

    build: BuildReport

    def to_json(self) -> dict[str, Any]:
        """Everything, with every layer."""
        return self.build.to_json()

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
                "memory": ", ".join(f"{name} {amount(size, 'B')}" for name, size in made.memory.items()),
                "sha256": made.sha256,
            }
        )
        kernels = Counter((layer.kind, ", ".join(layer.reads)) for layer in made.layers)
        if kernels:
            yield table(
                [{"kernel": kind, "reads": reads, "count": n} for (kind, reads), n in kernels.most_common()], gap=True
            )
        yield from notes(made.sparsity_lines)
        yield from notes(made.notes)
        yield from notes(f"TensorRT warns: {warning}" for warning in made.warnings)


def build(
    model: ModelLike,
    output: str | os.PathLike[str],
    *,
    target: Target = "tensorrt-rtx",
    compute_capability: str | Sequence[str] = (),
    shapes: Mapping[str, Sizes] | None = None,
    **extras: Unpack[Extras],
) -> EngineReport:
    """Builds an engine; TensorRT-RTX needs no GPU for that.

    Args:
        model: an ONNX file, or a graph.
        output: the engine file; it appears when it is complete, or not at all.
        target: which of NVIDIA's two packages builds.
        compute_capability: the GPUs to build for, as "8.9"; TensorRT-RTX only.
        shapes: for inputs of no fixed size, by name: one shape, or the smallest, the most frequent and the largest.
            As numbers, `(1, 3, 224, 224)`, or as text, "1x3x224x224,4x3x224x224,8x3x224x224".
        extras: `sparse_weights` (let it take 2:4 kernels), `workspace_bytes`, `optimization_level`, `progress`.

    Raises:
        ModelError: the file is no model.
        BackendError: TensorRT is missing, refuses an op (which is named), or cannot build for a target.
        OutputError: the engine cannot be written.
    """
    check_writable(Path(output))
    ranges = tuple(range_of(name, sizes) for name, sizes in (shapes or {}).items())
    targets = (compute_capability,) if isinstance(compute_capability, str) else tuple(compute_capability)
    options = BuildOptions(
        flavor=target,
        compute_capabilities=targets,
        profiles=(Profile(ranges),) if ranges else (),
        **extras,
    )
    if not isinstance(model, Graph):
        return EngineReport(build_engine(model, output, options))
    with tempfile.TemporaryDirectory(prefix=".secateur-", dir=Path(output).parent) as folder:
        path = Path(folder) / f"{title_of(model).replace(os.sep, '_')}.onnx"
        model.save(path)
        made = build_engine(path, output, options)
    return EngineReport(replace(made, model=Path(title_of(model))))


def range_of(name: str, sizes: Sizes) -> ShapeRange:
    """The sizes of one input, as `build` takes them, as a range.

    Raises:
        ProfileError: they are none.
    """
    if isinstance(sizes, str):
        return parse_shape(f"{name}={sizes}")
    shapes = [tuple(sizes)] if all(isinstance(size, int) for size in sizes) else [tuple(shape) for shape in sizes]  # type: ignore[arg-type]
    return parse_shape(f"{name}={','.join('x'.join(map(str, shape)) for shape in shapes)}")
