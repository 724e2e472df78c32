"""`reestimate-batchnorm`: the statistics of a normalisation as the changed model has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.calib.finite import check_finite
from secateur.ir.errors import RefusedError
from secateur.ir.graph import Graph
from secateur.ir.node import Op
from secateur.passes.base import Pass
from secateur.passes.context import Context
from secateur.passes.facets import Effect, Facet
from secateur.passes.layers.evidence import Streams
from secateur.passes.layers.matrix import replace_constant
from secateur.passes.layers.stages import walk

Array: TypeAlias = NDArray[np.float64]

_MEAN, _VARIANCE = 3, 4


@dataclass(frozen=True)
class ReestimateBatchNorm(Pass):
    """Gives each BatchNormalization the mean and the variance that its inputs have on the calibration data.

    From the inputs of the model on, each after those before it: what was pruned, or otherwise changed, moved them (Li
    et al. 2020, "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning", section 3.3). A channel that
    hardly varies on the data keeps its old numbers, which may know of other data. Run it after `prune` without repair
    and before `fold-batchnorm`; what least squares repaired needs it less, and narrow data can do harm.
    """

    name: ClassVar[str] = "reestimate-batchnorm"
    changes: ClassVar[Facet] = Facet.WEIGHTS | Facet.TOPOLOGY
    effect: ClassVar[Effect] = Effect.LOSSY

    share: float = 1.0
    """How much of the way from the old statistics to those of the data is gone, in (0, 1]."""
    least: float = 1e-4
    """A channel whose variance on the data is below this share of the old one keeps its old numbers."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be in (0, 1], got {self.share}")
        if self.least < 0:
            raise ValueError(f"least must not be negative, got {self.least}")

    def run(self, graph: Graph, context: Context) -> int:
        """Measures and writes, in the order of the ops; returns how many normalisations have new statistics."""
        norms = [op for op in graph.ops() if _is_fixed(graph, op)]
        if not norms:
            return 0
        if context.source is None:
            raise RefusedError(
                f"{self} needs calibration data, but none was given", hint="give --data, or leave the pass out"
            )
        changed = 0

        def visit(which: int, streams: Streams) -> None:
            nonlocal changed
            context.progress(self.name, which, len(norms))
            if context.allow(self.name, norms[which]):
                changed += self._update(graph, norms[which], _measured(norms[which], streams, context), context)

        walk(graph, graph, [[op] for op in norms], context, visit)
        context.progress(self.name, len(norms), len(norms))
        context.manifest.exact &= not changed
        return changed

    def _update(self, graph: Graph, op: Op, found: _Channels, context: Context) -> bool:
        """Writes the new statistics; False where rounded to their type they are the old ones."""
        mean, variance = _array(graph, op, _MEAN), _array(graph, op, _VARIANCE)
        alive = found.variance > self.least * variance
        step = np.where(alive, self.share, 0.0)
        # Of a mixture of old and new inputs, the variance would count the step of the mean, too. Here both just move.
        new_mean, new_variance = mean + step * (found.mean - mean), variance + step * (found.variance - variance)
        written = [_write(graph, op, _MEAN, new_mean), _write(graph, op, _VARIANCE, new_variance)]
        spread = np.sqrt(np.maximum(variance, np.finfo(np.float32).tiny))
        context.row(
            norm=op.output.name,
            channels=len(mean),
            kept=int(np.count_nonzero(~alive)),
            shift=float(np.sqrt(np.mean(np.square((new_mean - mean) / spread)))),
            spread=float(np.exp(np.mean(np.log(np.sqrt(np.maximum(new_variance, 1e-30)) / spread)))),
        )
        return any(written)


def _is_fixed(graph: Graph, op: Op) -> bool:
    """True for a normalisation by constants."""
    if op.key != ("", "BatchNormalization") or op.attribute("training_mode", 0):
        return False
    return all(graph.constant(op.input(port)) is not None for port in (_MEAN, _VARIANCE))


def _write(graph: Graph, op: Op, port: int, numbers: Array) -> bool:
    value = op.input(port)
    assert value is not None
    assert value.const is not None
    old = value.const.numpy()
    new = numbers.astype(old.dtype)
    if np.array_equal(old, new):
        return False
    replace_constant(graph, op, port, new)
    return True


def _array(graph: Graph, op: Op, port: int) -> Array:
    tensor = graph.constant(op.input(port))
    assert tensor is not None
    return tensor.numpy().astype(np.float64)


def _measured(op: Op, streams: Streams, context: Context) -> _Channels:
    """Means and variances of the channels of what the op reads, over samples and positions."""
    value = op.input(0)
    assert value is not None
    factory, part, found = context.needed_runner("re-estimating statistics"), streams.present, _Channels()
    with factory(part.graph, inputs=part.inputs, outputs=[value.name]) as runner:
        for _, batch in part.walk():
            read = batch.feeds[value.name] if value.name in batch.feeds else runner.run(batch.feeds)[value.name]
            check_finite(read, value.name)
            found.update(np.moveaxis(read, 1, -1).reshape(-1, read.shape[1]), batch.weight)
    return found


class _Channels:
    """Running means and variances [channels] of rows, in float64 (Chan, Golub and LeVeque 1983)."""

    def __init__(self) -> None:
        self.count = 0.0
        self.mean: Array = np.zeros(1)
        self._squares: Array = np.zeros(1)

    @property
    def variance(self) -> Array:
        """Of all rows, 0 without any."""
        return self._squares / (self.count or 1.0)

    def update(self, rows: NDArray[Any], weight: float) -> None:
        """Adds rows [n, channels], each counting `weight`."""
        mean, count = rows.mean(axis=0, dtype=np.float64), weight * len(rows)
        share = count / (self.count + count)
        shift = mean - self.mean
        inside = weight * np.sum(np.square(rows - mean), axis=0)
        self._squares = self._squares + inside + self.count * share * np.square(shift)
        self.mean = self.mean + share * shift
        self.count += count
