"""How the model's answers depend on a gate at each unit: gradients by which criteria can judge what units are worth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.calib.batches import Batch
from secateur.calib.capture import Part
from secateur.calib.output_error import meanings
from secateur.ir.build import add_constant, emit
from secateur.ir.dims.algebra import Dim, expand, find, leaves, owners
from secateur.ir.dims.analysis import Dimensions
from secateur.ir.dims.axes import Layouts
from secateur.ir.errors import DataError
from secateur.ir.graph import Graph
from secateur.ir.node import Op, Value
from secateur.ir.rules.known import Known
from secateur.ir.rules.weights import weight_use
from secateur.ir.tensor import Tensor
from secateur.ir.types import DataType, TensorType
from secateur.passes.context import Context
from secateur.passes.prune.units import Units

Array: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]
Spot: TypeAlias = tuple[Value, int]
"""A value and one of its axes."""
Read: TypeAlias = tuple[Op, int]
"""An op and where it takes a value."""

SAMPLES = 256
"""So many answers are drawn at the most (whole batches), one for each sample of the data."""
LEAST = 128
"""So many at the least: few samples are asked several times."""


@dataclass(frozen=True)
class _Place:
    """Where units are read: [indices of the axis] the unit of each, -1 for none, and the ops that do."""

    unit: Indices
    reads: list[Read]


@dataclass(frozen=True)
class _Gate:
    """A gate by name; where `has_samples`, its score has a row, or as many as another, for each sample."""

    name: str
    axis: int
    has_samples: bool


def measure(found: Dimensions, wanted: Sequence[Units], context: Context, who: str) -> list[Array | None]:
    """For each group [samples, size]: the gradients of -log p with respect to gates that multiply its units.

    Answers are drawn from the model itself (`secateur.ir.runner.Differentiator`), so that with J one of these arrays
    F = J^T J / samples is the Fisher information of the gates: closing the gates of a set S of units moves the model's
    answers by a divergence of about 1/2 sum_{u, v in S} F_uv nats a sample.

    Gates are where layers read the units, at all of them at once; where none does (queries and keys), where the
    dimension ends first. What is carried past a layer, as on a trunk, is not counted twice. Where rows of a value are
    no samples (tokens that were routed to an expert), one row of the result holds the sum over its batch: means of
    products are the same, for scores of different samples are independent and of mean zero.

    Args:
        found: the dimensions of the graph as it is now.
        wanted: groups of it.
        context: data, and what differentiates.
        who: wants to know, for errors.

    Returns:
        None for experts, and for groups of which no gate is on the way to an output.

    Raises:
        DataError: there is no data, or a gradient is NaN or infinite.
        BackendError: nothing was given that differentiates, or it cannot.
    """
    factory, source = context.needed_differentiator(who), context.needed_source(who)
    places = [{} if one.are_experts else _places(found, one) for one in wanted]
    graph, gates = _with_gates(found, places)
    if not gates:
        return [None] * len(wanted)
    rows: list[list[Array]] = [[] for _ in wanted]
    with factory(graph, at=[gate.name for gate in gates.values()], outputs=meanings(found.known)) as scores:
        for index, batch in _asked(Part(graph, source)):
            samples = batch.samples or 1
            score = scores.run(batch.feeds, context.seed + index)
            made = {spot: _by_sample(score[gate.name], gate, samples) for spot, gate in gates.items()}
            for into, one, spots in zip(rows, wanted, places, strict=True):
                some = [_by_unit(made[at], place.unit, one.group.size) for at, place in spots.items() if at in made]
                if some:
                    into.append(np.sum(some, axis=0))
    return [_checked(np.concatenate(some), one) if some else None for some, one in zip(rows, wanted, strict=True)]


def _asked(part: Part) -> Iterator[tuple[int, Batch]]:
    """Batches, each with a seed of its own: the first of the data, and those again where they are few."""
    seen = index = 0
    for turn in count():
        for _, batch in part.walk():
            yield index, batch
            index += 1
            seen += batch.samples or 1
            if seen >= (LEAST if turn else SAMPLES):
                return
        if seen >= LEAST:
            return


def _places(found: Dimensions, units: Units) -> dict[Spot, _Place]:
    """Where the units of a group are read: by layers that sum over them, else by whatever they end in."""
    reads = list(_layers(found, units)) or list(ends(found, units.group.dim))
    places: dict[Spot, _Place] = {}
    for spot, read in reads:
        if spot not in places:
            places[spot] = _Place(owners(expand(found.layouts[spot[0]][spot[1]]), units.group.dim), [])
        places[spot].reads.append(read)
    return places


def _layers(found: Dimensions, units: Units) -> Iterator[tuple[Spot, Read]]:
    for occurrence in units.group.weights:
        op, port = occurrence.use.op, occurrence.use.port
        use = weight_use(found.known, op)
        if use is None or use.port != port or use.contracted != occurrence.axis:
            continue
        if _axis(found.layouts.get(use.data, []), units.group.dim) == use.data_axis:
            yield (use.data, use.data_axis), (op, op.inputs.index(use.data))


def ends(found: Dimensions, dim: Dim) -> Iterator[tuple[Spot, Read]]:
    """What has a dimension while nothing that is made of it has: the first such input of each op."""
    known = found.known
    for op in known.graph.ops():
        if any(_axis(found.layouts.get(made, []), dim) is not None for made in op.outputs if made is not None):
            continue
        for port, value in enumerate(op.inputs):
            if value is None or known.constant(value) is not None:
                continue
            if (axis := _axis(found.layouts.get(value, []), dim)) is not None:
                yield (value, axis), (op, port)
                break


def _axis(layouts: Layouts, dim: Dim) -> int | None:
    """The axis that a dimension is part of."""
    leaf = find(dim)
    return next((axis for axis, layout in enumerate(layouts) if leaf in leaves(layout)), None)


def _with_gates(found: Dimensions, places: Sequence[Mapping[Spot, _Place]]) -> tuple[Graph, dict[Spot, _Gate]]:
    """A copy of the graph that multiplies what is read at these places by ones, and where to find those."""
    graph = found.known.graph.clone()
    alive = _alive(graph)
    gates: dict[Spot, _Gate] = {}
    for spot in dict.fromkeys(spot for some in places for spot in some):
        value, axis = spot
        reads = dict.fromkeys(read for some in places if spot in some for read in some[spot].reads)
        twins = [(graph.producer(graph[_first(op).name]), port) for op, port in reads]
        if not alive.issuperset(op for op, _ in twins):
            continue
        rest = [1] * len(found.layouts[value])
        rest[axis] = len(next(some[spot].unit for some in places if spot in some))
        gate = _ones(
            graph,
            graph[value.name],
            rest,
            element_type(found.known, value, [op for op, _ in reads]),
            per_sample=axis != 0,
        )
        gated: dict[Value | None, Value] = {}
        for op, port in twins:
            assert op is not None
            read = op.inputs[port]
            if read not in gated:
                gated[read] = emit(graph, "Mul", [read, gate]).output
            graph.set_inputs(op, [gated[read] if at == port else one for at, one in enumerate(op.inputs)])
        gates[spot] = _Gate(gate.name, axis, axis != 0)
    return graph, gates


def _ones(graph: Graph, value: Value, shape: Sequence[int], kind: DataType, per_sample: bool) -> Value:
    """Ones of this shape; `per_sample` with axis 0 of `value` for its first."""
    sizes: list[Value] = []
    if per_sample:
        whole = emit(graph, "Shape", [value]).output
        sizes.append(emit(graph, "Gather", [whole, add_constant(graph, "first", np.array([0]))]).output)
    sizes.append(add_constant(graph, "rest", np.array(shape[len(sizes) :], np.int64)))
    joined = emit(graph, "Concat", sizes, {"axis": 0}).output
    one = Tensor(np.ones(1, kind.numpy), kind)
    return emit(graph, "ConstantOfShape", [joined], {"value": one}, outputs=[f"{value.name}_gate"]).output


def element_type(known: Known, value: Value, readers: Iterable[Op]) -> DataType:
    """The element type of a value; where nothing says so, that of the weights that it meets."""
    kind = known.types.get(value, value.type)
    if isinstance(kind, TensorType):
        return kind.dtype
    beside = [known.constant(one) for op in readers for one in op.inputs]
    return next((one.dtype for one in beside if one is not None and one.dtype.is_float), DataType.FLOAT32)


def _first(op: Op) -> Value:
    return next(value for value in op.outputs if value is not None)


def _alive(graph: Graph) -> set[Op]:
    """The ops on the way to an output."""
    alive, waiting = set[Op](), [graph.producer(value) for value in graph.outputs]
    while waiting:
        op = waiting.pop()
        if op is not None and op not in alive:
            alive.add(op)
            read = [*(value for value in op.inputs if value is not None), *graph.captures(op)]
            waiting.extend(graph.producer(value) for value in read)
    return alive


def _by_sample(score: NDArray[Any], gate: _Gate, samples: int) -> Array:
    """[samples, indices of the axis]; all in the first row where rows are no samples."""
    columns = np.asarray(score, np.float64).reshape(-1, score.shape[gate.axis])
    if gate.has_samples and len(columns) % samples == 0:
        return np.asarray(columns.reshape(samples, -1, columns.shape[1]).sum(axis=1))
    lumped = np.zeros((samples, columns.shape[1]))
    lumped[0] = columns.sum(axis=0)
    return lumped


def _by_unit(columns: Array, unit: Indices, size: int) -> Array:
    """[samples, size] sums over the columns of each unit."""
    inside = np.flatnonzero(unit >= 0)
    made = np.zeros((size, len(columns)))
    np.add.at(made, unit[inside], columns.T[inside])
    return np.ascontiguousarray(made.T)


def _checked(gates: Array, units: Units) -> Array:
    if not np.isfinite(gates).all():
        raise DataError(
            f"a gradient at the units of {units.group.name} is NaN or infinite",
            hint="find out what the model makes of this data",
        )
    return gates
