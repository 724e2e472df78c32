"""What calibration says of layers that are to change: moments of what they read and of what they should give.

Two streams, as He et al. (2017, section 3.2) take whole models: inputs come from the model as it is pruned so far,
targets from the dense one. Where a layer's output is added to a shortcut that has drifted, the target makes up for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.calib.batches import Source
from secateur.calib.capture import Part
from secateur.calib.gram import Gram, Moments
from secateur.calib.patches import ConvGeometry, Positions, iterate_patches, output_rows, sample_positions
from secateur.calib.solvers.least_squares import intercept, residual
from secateur.ir.graph import Graph
from secateur.ir.node import Value
from secateur.ir.rules.weights import WeightUse
from secateur.passes.context import Context
from secateur.passes.layers.matrix import added_bias
from secateur.passes.layers.rows import Rows

Array: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]

_Fetched: TypeAlias = Mapping[str, NDArray[Any]]

HELD_OUT = 5
"""One sample in this many is not fitted on, but judges the fit."""


@dataclass(frozen=True)
class Evidence:
    """Moments of a layer's inputs [rows, columns] and targets [rows, outputs], bias included.

    Coefficients are [columns, outputs], the transpose of a layer's matrix. Samples of the rows themselves, of those to
    fit and of those held out, are empty unless they were asked for.
    """

    fit: Gram
    held_out: Gram
    rows: Rows = field(default_factory=lambda: Rows(0, ()))
    held_out_rows: Rows = field(default_factory=lambda: Rows(0, ()))

    def together(self) -> Gram:
        """Moments of all samples, those that were held out among them."""
        both = Gram(self.fit.width, self.fit.target_width)
        both.merge(self.fit)
        both.merge(self.held_out)
        return both

    def moments(self, with_bias: bool) -> Moments:
        """What a fit is made from: about the means where a bias takes those up, about zero where there is none."""
        return self.fit.centered() if with_bias else self.fit.raw()

    def bias(self, coefficients: Array, columns: Indices | None = None) -> Array:
        """The bias [outputs] with which the mean output of the fitted samples is that of the targets."""
        return intercept(coefficients, self.fit.mean, self.fit.target_mean, columns)

    def error(self, coefficients: Array, bias: Array | None, columns: Indices | None = None) -> float:
        """1 - R² on the held-out samples (on the fitted ones where none were held out)."""
        gram = self.held_out if self.held_out.count else self.fit
        centered, used = gram.centered(), slice(None) if columns is None else columns
        # The squared error splits into that of the centred outputs and that of the means.
        offset = gram.target_mean - gram.mean[used] @ coefficients - (0.0 if bias is None else bias)
        squared = residual(centered.xx, centered.xy, centered.yy, columns, coefficients)
        squared += gram.count * float(offset @ offset)
        variance = float(np.sum(centered.yy))
        return squared / variance if variance > 0 else float(squared > 0)

    def judge(
        self, candidates: Sequence[tuple[Array, Array | None]], columns: Indices | None = None
    ) -> tuple[int, float]:
        """Which candidate (coefficients, bias) has the smallest error, and that error; of equals the first."""
        errors = [self.error(coefficients, bias, columns) for coefficients, bias in candidates]
        chosen = int(np.argmin(errors))
        return chosen, errors[chosen]

    def best(
        self, candidates: Sequence[tuple[Array, Array | None]], columns: Indices | None = None
    ) -> tuple[Array, Array | None, float]:
        """The candidate (coefficients, bias) of the smallest error, and that error; of equals the first."""
        chosen, error = self.judge(candidates, columns)
        return *candidates[chosen], error


@dataclass(frozen=True)
class _Target:
    """`target = dense[total] - present[shortcut] - constant`; without a shortcut, the dense output itself."""

    total: str
    shortcut: str | None = None
    constant: Array | None = None

    def of(self, now: _Fetched, then: _Fetched) -> NDArray[Any]:
        """The target, from what the present and the dense model have."""
        wanted = then[self.total]
        if self.shortcut is not None:
            wanted = wanted - now[self.shortcut]
        return wanted if self.constant is None else wanted - self.constant


@dataclass(frozen=True)
class Streams:
    """Where evidence comes from: the model as it is now, and as it was, each cut at the same place and fed there.

    Where both are the same object, everything is taken from one run of it.
    """

    present: Part
    dense: Part

    @classmethod
    def whole(cls, present: Graph, dense: Graph, source: Source) -> Streams:
        """Both models from their own inputs on."""
        part = Part(present, source)
        return cls(part, part if dense is present else Part(dense, source))


def gather(
    streams: Streams, uses: Sequence[WeightUse], context: Context, positions: int, rows: int = 0
) -> list[Evidence]:
    """Runs both models over the calibration data once, and gathers moments for each layer.

    Args:
        streams: inputs and shortcuts come from the present model, targets from the dense one, by the same names.
        uses: layers of the present model.
        context: runner and seed.
        positions: output positions to sample of each image (0 takes all); the same for inputs and targets.
        rows: how many rows to keep as they are beside the moments, and a quarter as many of those held out.

    Raises:
        DataError: a value is NaN or infinite, or there is no data.
        BackendError: no runtime was given.
    """
    targets = [_target(streams.present.graph, use) for use in uses]
    grams = [
        Evidence(_gram(use), _gram(use), Rows(rows, (context.seed, 0)), Rows(rows // 4, (context.seed, 1)))
        for use in uses
    ]
    reads = {use.data.name for use in uses}
    shortcuts = {target.shortcut for target in targets if target.shortcut is not None}
    totals = {target.total for target in targets}
    seen = 0
    for index, weight, now, then in _steps(streams, sorted(reads | shortcuts | totals), sorted(totals), context):
        samples = 0
        for use, target, evidence in zip(uses, targets, grams, strict=True):
            # Where a router sends other rows than it did, no two belong together: the layer's own output is the target.
            routed = now[target.total].shape != then[target.total].shape
            wanted = target.of(now, now if routed else then)
            read = now[use.data.name]
            samples = len(read)
            parts = ((False, evidence.fit, evidence.rows), (True, evidence.held_out, evidence.held_out_rows))
            for held_out, gram, kept in parts:
                chosen = (np.arange(seen, seen + samples) % HELD_OUT == HELD_OUT - 1) == held_out
                if chosen.any():
                    found = _rows(use, read[chosen], wanted[chosen], positions, (context.seed, index, int(held_out)))
                    for x, y in found:
                        gram.update(x, y, weight)
                        kept.update(x, y)
        seen += samples
    return grams


def _steps(
    streams: Streams, reads: list[str], totals: list[str], context: Context
) -> Iterator[tuple[int, float, _Fetched, _Fetched]]:
    """For each batch its number and weight, and what the present and the dense model have at these values."""
    factory, present, dense = context.needed_runner("gathering moments"), streams.present, streams.dense
    if dense is present:
        with factory(present.graph, inputs=present.inputs, outputs=sorted({*reads, *totals})) as runner:
            for index, batch in present.walk():
                found = runner.run(batch.feeds)
                yield index, batch.weight, found, found
        return
    with (
        factory(present.graph, inputs=present.inputs, outputs=reads) as now,
        factory(dense.graph, inputs=dense.inputs, outputs=totals) as then,
    ):
        for (index, batch), (_, other) in zip(present.walk(), dense.walk(), strict=True):
            yield index, batch.weight, now.run(batch.feeds), then.run(other.feeds)


def _rows(
    use: WeightUse, read: NDArray[Any], wanted: NDArray[Any], positions: int, seed: tuple[int, ...]
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """What a layer reads and should give as rows, in chunks."""
    if len(use.tensor.shape) == 2:
        x = np.moveaxis(read, use.data_axis, -1)
        y = np.moveaxis(wanted, use.output_axis, -1)
        yield x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
        return
    geometry = ConvGeometry.of(use.tensor.shape, {name: one.value for name, one in use.op.attributes.items()})
    chosen: Positions | None = None
    if positions:
        chosen = sample_positions(len(read), wanted.shape[2:], positions, seed)
    targets = output_rows(wanted, chosen)
    for rows, chunk in iterate_patches(read, geometry, chosen):
        yield chunk[0], targets[rows]


def _gram(use: WeightUse) -> Gram:
    return Gram(math.prod(use.tensor.shape) // use.outputs, use.outputs)


def _target(graph: Graph, use: WeightUse) -> _Target:
    """Where the layer's output, with a bias or without, is added to a tensor that is a shortcut, and goes nowhere else.

    The bias that an Add of its own gives a MatMul now is taken off again: targets are those of the op.
    """
    made, constant = use.op.output, None
    if (added := added_bias(graph, use)) is not None:
        made, constant = added.op.output, added.array
    readers = graph.uses(made)
    if len(readers) == 1 and made not in graph.outputs:
        op, port = readers[0]
        if op.key == ("", "Add"):
            other: Value | None = op.inputs[1 - port]
            if other is not None and graph.constant(other) is None:
                return _Target(op.output.name, other.name, constant)
    return _Target(made.name, None, constant)
