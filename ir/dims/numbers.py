"""Numbers that a graph computes from shapes: what they come to when sizes are these, and who reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from secateur.ir.dims.algebra import Dim, Layout, expand
from secateur.ir.graph import Graph
from secateur.ir.node import Op, Value


@dataclass(frozen=True, slots=True)
class Count:
    """A whole number times sizes that are not known before run time (in a fixed order)."""

    number: int
    unknown: tuple[Dim, ...] = ()

    def __mul__(self, other: Count) -> Count:
        return Count(self.number * other.number, tuple(sorted((*self.unknown, *other.unknown), key=id)))

    def divided(self, other: Count) -> Count | None:
        """The whole quotient; None where that cannot be told."""
        rest = list(self.unknown)
        for dim in other.unknown:
            if dim not in rest:
                return None
            rest.remove(dim)
        if not other.number or (rest and self.number % other.number):
            return None
        return Count(self.number // other.number, tuple(rest))


Counts: TypeAlias = list[Count | None]
"""The entries of a shape, None for those that cannot be told."""

Sizes: TypeAlias = Callable[[Value], Counts | None]
"""The sizes of the axes of a value; None where not even their number is known."""


def count(layout: Layout, size: int | None) -> Count:
    """The size of an axis: `size` where it is a number, else the product of its dimensions."""
    if size is not None:
        return Count(size)
    product = Count(1)
    for dim in expand(layout):
        product *= Count(1, (dim,)) if dim.size is None else Count(dim.size)
    return product


def evaluate(graph: Graph, value: Value, sizes: Sizes) -> Counts | None:
    """The entries of a shape-like value (a scalar has one) when the values that it measures have these sizes.

    None where it is not computed from constants and shapes by ops that are known here.
    """
    return _evaluate(graph, value, sizes, {})


def _evaluate(graph: Graph, value: Value, sizes: Sizes, known: dict[Value, Counts | None]) -> Counts | None:
    if value not in known:
        maker = graph.producer(value)
        if maker is None:
            known[value] = _constant(graph, value)
        elif maker.op_type in ("Shape", "Size"):
            known[value] = _measured(maker, sizes)
        elif maker.op_type in _COMPUTED:
            made = [_evaluate(graph, one, sizes, known) for one in maker.inputs if one is not None]
            given = [one for one in made if one is not None]
            known[value] = _COMPUTED[maker.op_type](maker, given) if len(given) == len(made) else None
        else:
            known[value] = None
    return known[value]


def _constant(graph: Graph, value: Value) -> Counts | None:
    tensor = graph.constant(value)
    if tensor is None or tensor.dtype.numpy.kind not in "iu":
        return None
    return [Count(int(number)) for number in tensor.numpy().reshape(-1)]


def _measured(op: Op, sizes: Sizes) -> Counts | None:
    assert op.inputs[0] is not None
    found = sizes(op.inputs[0])
    if found is None or op.op_type == "Shape":
        return None if found is None else found[op.attribute("start", 0) : op.attribute("end")]
    total = Count(1)
    for one in found:
        if one is None:
            return [None]
        total *= one
    return [total]


def _same(op: Op, inputs: list[Counts]) -> Counts | None:
    return inputs[0]


def _concat(op: Op, inputs: list[Counts]) -> Counts | None:
    return [one for some in inputs for one in some]


def _gather(op: Op, inputs: list[Counts]) -> Counts | None:
    numbers = [one.number if one is not None and not one.unknown else None for one in inputs[1]]
    data = inputs[0]
    return [data[at] if at is not None and -len(data) <= at < len(data) else None for at in numbers]


def _slice(op: Op, inputs: list[Counts]) -> Counts | None:
    starts, stops = op.attribute("starts"), op.attribute("ends")
    steps = [1]
    if starts is None:
        if len(inputs) < 3 or any(one is None or one.unknown for some in inputs[1:] for one in some):
            return None
        bounds = [[one.number for one in some if one is not None] for some in inputs[1:]]
        starts, stops, steps = bounds[0], bounds[1], bounds[3] if len(bounds) > 3 else [1]
    return inputs[0][starts[0] : stops[0] : steps[0]]


def _arithmetic(op: Op, inputs: list[Counts]) -> Counts | None:
    aligned = _aligned(inputs)
    if aligned is None:
        return None
    left, right = aligned
    return [
        None if one is None or other is None else _combine(op.op_type, one, other)
        for one, other in zip(left, right, strict=True)
    ]


def _aligned(inputs: list[Counts]) -> list[Counts] | None:
    """Lists of one entry as long as the others."""
    width = max(map(len, inputs))
    if {len(one) for one in inputs} - {1, width}:
        return None
    return [one if len(one) == width else one * width for one in inputs]


def _combine(op_type: str, one: Count, other: Count) -> Count | None:
    if op_type == "Mul":
        return one * other
    if op_type == "Div":
        return one.divided(other)
    if op_type == "Equal":
        return _compare(one, other)
    if one.unknown or other.unknown:
        return None
    return Count(one.number + other.number if op_type == "Add" else one.number - other.number)


def _compare(one: Count, other: Count) -> Count | None:
    """One where they are the same; a size is never negative."""
    if not one.unknown and not other.unknown:
        return Count(int(one.number == other.number))
    alone = other if one.unknown else one
    return Count(0) if not alone.unknown and alone.number < 0 else None


def _where(op: Op, inputs: list[Counts]) -> Counts | None:
    aligned = _aligned(inputs)
    if aligned is None:
        return None
    return [
        None if which is None or which.unknown else one if which.number else other
        for which, one, other in zip(*aligned, strict=True)
    ]


def _filled(op: Op, inputs: list[Counts]) -> Counts | None:
    given, size = op.attribute("value"), inputs[0][0] if len(inputs[0]) == 1 else None
    if size is None or size.unknown or (given is not None and given.numpy().dtype.kind not in "iu"):
        return None
    return [Count(0 if given is None else int(given.numpy().reshape(-1)[0]))] * size.number


_COMPUTED: dict[str, Callable[[Op, list[Counts]], Counts | None]] = {
    **dict.fromkeys(("Cast", "Identity", "Squeeze", "Unsqueeze", "Reshape", "Flatten"), _same),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Equal"), _arithmetic),
    "ConstantOfShape": _filled,
    "Where": _where,
    "Concat": _concat,
    "Gather": _gather,
    "Slice": _slice,
}

_OF_ALL = frozenset(("Concat", "Add", "Sub", "Mul", "Div", "Equal", "Where"))
"""Those of them that compute with all of their inputs; the others have numbers at the first."""

_SIZE_PORTS = frozenset(
    {
        *(("Reshape", 1), ("Expand", 1), ("ConstantOfShape", 0), ("Split", 1), ("Tile", 1), ("TopK", 1), ("Resize", 3)),
        *(("Slice", port) for port in (1, 2, 3)),
    }
)
"""(op type, port) that take sizes: their own rules see to it that these follow."""


def other_readers(graph: Graph, value: Value, first: Op | None = None) -> Iterator[str]:
    """What reads a size, directly or computed further, as anything else than a size.

    `first` asks for what one of its readers does only.
    """
    seen, waiting = {value}, [value]
    while waiting:
        here = waiting.pop()
        if here in graph.outputs:
            yield f"the output {here.name!r}"
        for op in [first] if first is not None and here is value else graph.consumers(here):
            ports = [port for port, one in enumerate(op.inputs) if one is here] or [-1]
            if op.op_type in _COMPUTED and op.op_type != "ConstantOfShape" and (ports == [0] or op.op_type in _OF_ALL):
                if op.output not in seen:
                    seen.add(op.output)
                    waiting.append(op.output)
            elif any((op.op_type, port) not in _SIZE_PORTS for port in ports):
                yield str(op)


def measured(graph: Graph, value: Value) -> list[tuple[Value, list[int] | None]]:
    """What something is computed from: values with the axes that are measured of them, None for all."""
    found: list[tuple[Value, list[int] | None]] = []
    seen, waiting = {value}, [value]
    while waiting:
        maker = graph.producer(waiting.pop())
        for one in maker.inputs if maker is not None else ():
            if maker is None or one is None or one in seen:
                continue
            measure = graph.producer(one)
            if measure is not None and measure.op_type in ("Shape", "Size") and measure.inputs[0] is not None:
                found.append((measure.inputs[0], _chosen(graph, maker, measure)))
            else:
                seen.add(one)
                waiting.append(one)
    return found


def _chosen(graph: Graph, reader: Op, measure: Op) -> list[int] | None:
    """The axes whose sizes a reader of a shape takes, where it takes them by constant indices or bounds."""
    if measure.op_type == "Size" or reader.op_type not in ("Gather", "Slice"):
        return None
    given = [graph.constant(value) for value in reader.inputs[1:]]
    numbers = [[] if tensor is None else [int(one) for one in tensor.numpy().reshape(-1)] for tensor in given]
    if not numbers or None in given or any(one < 0 for some in numbers for one in some):
        return None
    start = int(measure.attribute("start", 0))
    if reader.op_type == "Gather":
        return [start + index for index in numbers[0]]
    if len(numbers) < 2 or numbers[1][0] > _MOST_AXES:
        return None
    return [start + index for index in range(numbers[0][0], numbers[1][0])]


_MOST_AXES = 64
"""A bound beyond stands for the end."""
