"""What calibration says of layers that are to change: moments of what they read and of what they should give.

Two streams, as He et al. (2017, section 3.2) take whole models: inputs come from the model as it is pruned so far,
targets from the dense one. Where a layer's output is added to a shortcut that has drifted, the target makes up for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.calib.batches import Source
from secateur.calib.capture import Part
from secateur.calib.gram import Gram, Moments
from secateur.calib.solvers.least_squares import intercept, residual
from secateur.ir.graph import Graph
from secateur.ir.node import Value
from secateur.ir.normalized import is_normalized
from secateur.ir.rules.known import Known
from secateur.ir.rules.weights import WeightUse
from secateur.passes.context import Context
from secateur.passes.layers.matrix import added_bias, bias_of, matrices_of
from secateur.passes.layers.reads import enough_positions, rows_of, samples_first
from secateur.passes.layers.row_counts import RowCounts
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

    def take(self, x: NDArray[Any], y: NDArray[Any], weight: float | Array, is_held: bool) -> None:
        """Adds rows [n, columns] and targets [n, outputs] to those to fit, or to those held out.

        `weight` is what each counts, or [n] what they count.
        """
        if len(x):
            gram, kept = (self.held_out, self.held_out_rows) if is_held else (self.fit, self.rows)
            gram.update(x, y, weight)
            kept.update(x, y)

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


def merged(some: Sequence[Evidence]) -> Evidence:
    """What several readers of one weight see, together."""
    if len(some) == 1:
        return some[0]
    fit, held_out = (Gram(some[0].fit.width, some[0].fit.target_width) for _ in range(2))
    for one in some:
        fit.merge(one.fit)
        held_out.merge(one.held_out)
    return Evidence(fit, held_out)


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


@dataclass(frozen=True)
class _Layer:
    """One layer, where its targets come from, what is gathered of each of its matrices, and how rows count there."""

    use: WeightUse
    target: _Target
    dense: _Dense | None
    slabs: tuple[Evidence, ...]
    counts: RowCounts | None = None


@dataclass(frozen=True)
class _Dense:
    """The layer of the dense model, where its output is no value: `rows @ matrices.T + biases` computes it."""

    matrices: Array
    """[slabs, outputs, columns]."""
    biases: Array
    """[slabs, outputs]."""

    def of(self, rows: NDArray[Any]) -> Array:
        """[slabs, rows, outputs] of what the dense model reads [slabs, rows, columns]."""
        made: Array = rows.astype(np.float64) @ self.matrices.swapaxes(1, 2) + self.biases[:, None]
        return made


def gather(
    streams: Streams, uses: Sequence[WeightUse], context: Context, positions: int, rows: int = 0
) -> list[Evidence]:
    """`gather_slabs` for layers that are one matrix each.

    Raises:
        ValueError: a layer is several matrices.
    """
    many = next((use for use in uses if use.slabs != 1), None)
    if many is not None:
        raise ValueError(f"{many.weight.name} is {many.slabs} matrices, not one")
    return [slabs[0] for slabs in gather_slabs(streams, uses, context, positions, rows)]


def gather_slabs(
    streams: Streams, uses: Sequence[WeightUse], context: Context, positions: int, rows: int = 0
) -> list[tuple[Evidence, ...]]:
    """Runs both models over the calibration data once, and gathers moments for each matrix of each layer.

    Every fifth sample is held out; where a layer's rows are no longer samples (experts, channels first), every fifth
    row.

    Args:
        streams: inputs and shortcuts come from the present model, targets from the dense one, by the same names.
        uses: layers of the present model whose `targets` can be seen.
        context: runner and seed.
        positions: output positions to sample of each image, more of few images (0 takes all); the same for inputs and
            targets.
        rows: how many rows to keep as they are beside the moments, and a quarter as many of those held out.

    Returns:
        For each layer evidence for each of its matrices, as `secateur.passes.layers.matrix.matrices_of` orders them.

    Raises:
        ValueError: what a layer reads or gives is no value of the graph.
        DataError: a value is NaN or infinite, or there is no data.
        BackendError: no runtime was given.
    """
    layers = [_layer(streams, use, context.seed, rows) for use in uses]
    positions = enough_positions(streams.present, uses, positions)
    groups = _alike(layers, rows)
    reads = {use.data.name for use in uses}
    shortcuts = {layer.target.shortcut for layer in layers if layer.target.shortcut is not None}
    totals = {layer.target.total for layer in layers}
    seen = 0
    for index, weight, now, then in _steps(streams, sorted(reads | shortcuts | totals), sorted(totals), context):
        samples = 0
        for layer, members in groups:
            read = now[layer.use.data.name]
            wanted = _wanted(members, now, then)
            samples = len(read)
            counts = None
            if layer.counts is not None and layer.use.output_axis % wanted.ndim == wanted.ndim - 1:
                counts = layer.counts.of(then[layer.target.total], now[layer.target.total])
            batch = _Batch(seen, weight, positions, (context.seed, index), counts)
            if samples_first(layer.use, read, wanted):
                _by_samples(layer, read, wanted, batch)
            else:
                _by_rows(layer, read, wanted, batch)
        seen += samples
    found = {id(member): slabs for group in groups for member, slabs in _shared(*group)}
    return [found[id(layer)] for layer in layers]


def _alike(layers: Sequence[_Layer], rows: int) -> list[tuple[_Layer, list[_Layer]]]:
    """Layers that read the same rows (queries, keys, values), as one whose targets are those of all side by side."""
    groups: dict[object, list[_Layer]] = {}
    for layer in layers:
        use = layer.use
        alone = rows or use.taps or use.slabs > 1 or layer.dense is not None or layer.counts is not None
        last = (use.data_axis, use.output_axis)
        groups.setdefault(id(layer) if alone else (use.data.name, *last), []).append(layer)
    return [(some[0] if len(some) == 1 else _joint(some), some) for some in groups.values()]


def _joint(some: Sequence[_Layer]) -> _Layer:
    width, outputs = some[0].slabs[0].fit.width, sum(one.slabs[0].fit.target_width for one in some)
    return replace(some[0], slabs=(Evidence(Gram(width, outputs), Gram(width, outputs)),))


def _wanted(members: Sequence[_Layer], now: _Fetched, then: _Fetched) -> NDArray[Any]:
    """The targets of layers, side by side where there are several."""
    found = []
    for target in (member.target for member in members):
        # Where a router sends other rows than it did, no two belong together: the layer's own output is the target.
        routed = now[target.total].shape != then[target.total].shape
        found.append(target.of(now, now if routed else then))
    return found[0] if len(found) == 1 else np.concatenate(found, axis=members[0].use.output_axis)


def _shared(joint: _Layer, members: Sequence[_Layer]) -> Iterator[tuple[_Layer, tuple[Evidence, ...]]]:
    """The evidence of each of these layers; that of several has one and the same Gram matrix of inputs."""
    if len(members) == 1:
        yield joint, joint.slabs
        return
    (whole,), start = joint.slabs, 0
    for member in members:
        stop = start + member.slabs[0].fit.target_width
        columns = slice(start, stop)
        yield member, (Evidence(whole.fit.with_targets_of(columns), whole.held_out.with_targets_of(columns)),)
        start = stop


@dataclass(frozen=True)
class _Batch:
    """The number of samples before it, what it counts, how many positions to take, the seed of these, and what rows
    count (shaped like the targets, for one output)."""

    seen: int
    weight: float
    positions: int
    seed: tuple[int, ...]
    counts: NDArray[np.float32] | None = None

    def weights(self, chosen: NDArray[np.bool_]) -> float | Array:
        """What the rows of these samples count."""
        return self.weight if self.counts is None else self.weight * self.counts[chosen].reshape(-1).astype(np.float64)


def _by_samples(layer: _Layer, read: NDArray[Any], wanted: NDArray[Any], batch: _Batch) -> None:
    held = (batch.seen + np.arange(len(read))) % HELD_OUT == HELD_OUT - 1
    for is_held, chosen in ((False, ~held), (True, held)):
        if not chosen.any():
            continue
        for x, y in _pairs(layer, read[chosen], wanted[chosen], batch.positions, (*batch.seed, int(is_held))):
            for slab, mine, given in zip(layer.slabs, x, y, strict=True):
                slab.take(mine, given, batch.weights(chosen), is_held)


def _by_rows(layer: _Layer, read: NDArray[Any], wanted: NDArray[Any], batch: _Batch) -> None:
    for x, y in _pairs(layer, read, wanted, batch.positions, (*batch.seed, 0)):
        held = np.arange(x.shape[1]) % HELD_OUT == HELD_OUT - 1
        for slab, mine, given in zip(layer.slabs, x, y, strict=True):
            slab.take(mine[~held], given[~held], batch.weight, is_held=False)
            slab.take(mine[held], given[held], batch.weight, is_held=True)


def _pairs(
    layer: _Layer, read: NDArray[Any], wanted: NDArray[Any], positions: int, seed: tuple[int, ...]
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """What a layer reads and should give as rows of each slab, in chunks."""
    if layer.dense is None:
        for (x,), y in rows_of(layer.use, [read], wanted, positions, seed):
            assert y is not None
            yield x, y
        return
    for (x, before), _ in rows_of(layer.use, [read, wanted], None, positions, seed):
        yield x, layer.dense.of(before)


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


def _layer(streams: Streams, use: WeightUse, seed: int, rows: int) -> _Layer:
    if use.targets is None:
        raise ValueError(f"what {use.op} makes of {use.weight.name} cannot be seen")
    slabs, outputs = use.slabs, use.outputs // use.groups
    width = use.tensor.size // (slabs * outputs)
    found = tuple(
        Evidence(Gram(width, outputs), Gram(width, outputs), Rows(rows, (seed, 0)), Rows(rows // 4, (seed, 1)))
        for _ in range(slabs)
    )
    if use.targets == "output":
        target = _target(streams.present.graph, use)
        return _Layer(use, target, None, found, _counts(streams.present.graph, use, target))
    return _Layer(use, _Target(use.data.name), _dense(streams.dense.graph, use), found)


def _counts(graph: Graph, use: WeightUse, target: _Target) -> RowCounts | None:
    """How rows count whose outputs go into a sum that norms divide by its size; None where all count the same."""
    is_plain = use.slabs == 1 and not use.taps
    is_relative = is_plain and target.shortcut is not None and is_normalized(Known(graph), graph[target.total])
    return RowCounts() if is_relative else None


def _dense(graph: Graph, use: WeightUse) -> _Dense:
    """The same layer of the dense model, which knows it by the names of its output and its weight."""
    output, weight = graph.get(use.op.output.name), graph.get(use.weight.name)
    op = None if output is None else graph.producer(output)
    before = use
    if op is not None and weight is not None and weight.const is not None:
        before = replace(use, op=op, weight=weight, tensor=weight.const)
    matrices, bias = matrices_of(before), bias_of(before)
    return _Dense(matrices, np.zeros(matrices.shape[:2]) if bias is None else bias.reshape(matrices.shape[:2]))


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
            if other is not None and graph.constant(other) is None and _is_layered(graph, other):
                return _Target(op.output.name, other.name, constant)
    return _Target(made.name, None, constant)


def _is_layered(graph: Graph, value: Value) -> bool:
    """Whether layers have a part in it; what inputs alone make (steps, positions) never drifts."""
    pending, seen = [value], {value}
    while pending:
        op = graph.producer(pending.pop())
        if op is None:
            continue
        for one in op.inputs:
            if one is None or one in seen:
                continue
            tensor = graph.constant(one)
            if tensor is not None and tensor.dtype.is_float and sum(size > 1 for size in tensor.shape) > 1:
                return True
            seen.add(one)
            pending.append(one)
        if op.bodies():
            return True
    return False
