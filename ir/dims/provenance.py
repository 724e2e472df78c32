"""Where the numbers of a shape come from: the constant that spells one, however it reaches its reader."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.ir.graph import Graph
from secateur.ir.node import Op, Value


@dataclass(frozen=True, slots=True)
class Element:
    """One number of a shape: entry `index` of the constant at input `port` of `reader`."""

    reader: Op
    port: int
    index: int
    number: int


def elements(graph: Graph, op: Op, port: int) -> list[Element | None]:
    """The entries of the sizes that an op reads; None for those that are computed from shapes at run time.

    Follows Concat, Unsqueeze, Squeeze, Cast, Identity and Reshape back to constants.
    """
    value = op.inputs[port]
    assert value is not None
    return _of_constant(graph, value, op, port) if graph.constant(value) is not None else _behind(graph, value)


def _of_constant(graph: Graph, value: Value, reader: Op, port: int) -> list[Element | None]:
    tensor = graph.constant(value)
    assert tensor is not None
    return [Element(reader, port, index, int(number)) for index, number in enumerate(tensor.numpy().reshape(-1))]


def _behind(graph: Graph, value: Value) -> list[Element | None]:
    maker = graph.producer(value)
    if maker is None:
        return []
    if maker.op_type == "Concat":
        return [element for port in range(len(maker.inputs)) for element in elements(graph, maker, port)]
    if maker.op_type in _SAME_NUMBERS:
        return elements(graph, maker, 0)
    return [None] * _count(value)


def _count(value: Value) -> int:
    shape = getattr(value.type, "shape", None)
    return 1 if not shape or not isinstance(shape[0], int) else shape[0]


_SAME_NUMBERS = frozenset({"Unsqueeze", "Squeeze", "Cast", "Identity", "Reshape"})
