"""`compare`: how far a compressed model is from the original, and how much smaller and faster it is."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from secateur.backends.compare import CompareOptions, Comparison
from secateur.backends.compare import compare as compare_graphs
from secateur.backends.divergence import Divergence, DivergenceOptions
from secateur.calib.stored import map_array
from secateur.feeding import Loading, ModelLike, batch_of, graph_of, open_data, refuse_unknown, title_of
from secateur.inspection import macs_of
from secateur.ir.errors import DataError
from secateur.passes.context import Progress
from secateur.running import runner_of
from secateur.text import Shown, heading, notes, table

if TYPE_CHECKING:
    from rich.console import RenderableType


class Measuring(Loading, total=False):
    """How models are measured: `repeats` timed runs of each (20; 0 for none) on `threads` threads (1).

    Times are always those of onnxruntime; `runner` is what outputs are computed with. `engine` was built of the second
    model and gives its outputs instead, on an NVIDIA GPU.
    """

    repeats: int
    threads: int
    runner: str
    engine: str | os.PathLike[str] | None


@dataclass(frozen=True)
class ComparisonReport(Shown):
    """What `compare` found (`found`) between two models on some data; the first is the reference."""

    model: str
    other: str
    data: str
    found: Comparison

    def to_json(self) -> dict[str, Any]:
        """Everything; numbers that are not finite are None."""
        return {"model": self.model, "other": self.other, "data": self.data, **self.found.to_json()}

    def blocks(self) -> Iterable[RenderableType]:
        """Sizes and speed, then the error of each output, then that of inner values."""
        found = self.found
        yield heading(f"{self.other} against {self.model}, on {found.batches} batches of {self.data}", first=True)
        one, other = (self.model, self.other) if self.model != self.other else ("A", "B")
        sizes = [{"": what, one: a, other: b, "ratio": ratio} for what, a, b, ratio in found.size_rows()]
        yield table(sizes, gap=True)
        yield table(found.output_rows(), gap=True)
        if found.latency is not None:
            yield from notes([_timing(found)])
        if found.unmatched:
            yield from notes([f"outputs that only one of the models has: {', '.join(found.unmatched)}"])
        if found.inner is not None:
            yield from _inner_blocks(found.inner)


def compare(
    model: ModelLike,
    other: ModelLike,
    data: object,
    *,
    labels: str | os.PathLike[str] | ArrayLike | None = None,
    inner: bool = False,
    progress: Progress | None = None,
    **measuring: Unpack[Measuring],
) -> ComparisonReport:
    """Runs two models on the same data and compares what they give, how large they are and how fast they run.

    Args:
        model: the reference; a graph, or the path of an ONNX file.
        other: the other one; it takes the same inputs.
        data: whatever `secateur.open_source` takes.
        labels: the right class of each sample, as integers or an .npy file of them, for the accuracy of both.
        inner: also compare inner values, and name the first one whose error jumps.
        progress: told `(description, done, total)`; a total of 0 is one that nobody knows.
        measuring: `batch_size` and `limit` (samples at most) of the data; `repeats` and `threads` of the timing;
            `runner`, what outputs are computed with: "onnxruntime", "torch", "torch:cuda"; `engine`, the path of a
            TensorRT engine of the second model, to be judged in its place.

    Raises:
        ModelError: a file is no model.
        DataError: the data or the labels do not fit.
        GraphError: the models take different inputs, or share no output.
        BackendError: the runner is missing, or cannot run a model.
    """
    refuse_unknown(measuring, Measuring, "compare")
    runner = runner_of(measuring.get("runner", "onnxruntime"))
    first, second, limit = graph_of(model), graph_of(other), measuring.get("limit")
    if (engine := measuring.get("engine")) is not None:
        from secateur.backends.tensorrt.runner import EngineInstead

        second = second if second is not first else second.clone()
        runner = EngineInstead(second, Path(engine), runner)
    fixed = batch_of(first) or batch_of(second)
    source = open_data(first, data, batch_size=measuring.get("batch_size") or fixed, limit=limit)
    tell = None if progress is None else _told(progress)
    options = CompareOptions(
        labels=None if labels is None else _labels(labels, limit, fixed),
        inner=DivergenceOptions(progress=tell) if inner else None,
        repeats=measuring.get("repeats", 20),
        threads=measuring.get("threads", 1),
        macs=macs_of,
        progress=tell,
    )
    found = compare_graphs(first, second, source, runner, options)
    return ComparisonReport(title_of(model), title_of(other), source.name, found)


def _told(progress: Progress) -> Any:
    return lambda description, done, total: progress(description, done, total or 0)


def _labels(labels: str | os.PathLike[str] | ArrayLike, limit: int | None, fixed: int | None) -> NDArray[Any]:
    """The labels of the samples that are used: the first `limit`, in whole batches where their size is fixed."""
    if isinstance(labels, str | os.PathLike):
        if not Path(labels).is_file():
            raise DataError(f"{labels}: no such file", hint="give an .npy file of integers, one for each sample")
        array: NDArray[Any] = map_array(Path(labels)).array
    else:
        array = np.asarray(labels)
    if array.ndim != 1:
        return array  # refused, with its shape, by whoever compares
    used = array[:limit]
    return used[: len(used) - len(used) % (fixed or 1)]


def _timing(found: Comparison) -> str:
    timed = found.latency
    assert timed is not None
    low, high = (1e3 * second for second in timed.quartiles_b)
    return (
        f"latency on onnxruntime: median of {timed.repeats} runs, {timed.threads} thread(s), batches of {timed.batch}; "
        f"{timed.speedup:.2f} times as fast (quartiles {low:.3g} to {high:.3g} ms)"
    )


def _inner_blocks(inner: Divergence) -> Iterable[RenderableType]:
    yield heading("inner values")
    jump = inner.first_jump
    if jump is None:
        yield from notes(["the error jumps nowhere"])
    else:
        yield from notes([f"the error first jumps at {jump.value!r}, made by {jump.op}: {jump.before:.3g} before"])
    yield table([{"value": one.value, "op": one.op, "before": one.before, "after": one.after} for one in inner.values])
    if inner.incomparable:
        shown = ", ".join(inner.incomparable[:5])
        yield from notes([f"{len(inner.incomparable)} values have another shape in the other model: {shown}"])
