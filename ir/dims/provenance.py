"""Where the numbers of a shape come from: the constant that spells one, however it reaches its reader."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.ir.dims.numbers import Count, Sizes, evaluate
from secateur.ir.graph import Graph
from secateur.ir.node import Op, Value
from secateur.ir.rules.known import Known

_SAME_NUMBERS = frozenset({"Unsqueeze", "Squeeze", "Cast", "Identity", "Reshape"})


@dataclass(frozen=True, slots=True)
class Element:
    """One number of a shape: entry `index` of the constant at input `port` of `reader`."""

    reader: Op
    port: int
    index: int
    number: int


def elements(known: Known, op: Op, port: int) -> list[Element | None] | None:
    """The entries of the sizes that an op reads; None for those that are computed from shapes at run time.

    Follows Concat, Unsqueeze, Squeeze, Cast, Identity, Reshape, and a Where that replaces entries of -1, back to
    constants. None for the whole where it is not even known how many entries a part of it has.
    """
    value = op.inputs[port]
    assert value is not None
    tensor = known.constant(value)
    if tensor is not None:
        return [Element(op, port, index, int(number)) for index, number in enumerate(tensor.numpy().reshape(-1))]
    maker = known.graph.producer(value)
    ports = () if maker is None else handed_on(known.graph, maker)
    if maker is None or not ports:
        return _computed(known, value)
    found: list[Element | None] = []
    for part in ports:
        inside = elements(known, maker, part)
        if inside is None:
            return None
        found.extend(inside)
    if maker.op_type == "Where":
        return [None if element is not None and element.number == -1 else element for element in found]
    return found


def handed_on(graph: Graph, op: Op) -> tuple[int, ...]:
    """The input ports whose numbers an op hands on as they are, one after the other."""
    if op.op_type == "Concat":
        return tuple(range(len(op.inputs)))
    if op.op_type in _SAME_NUMBERS:
        return (0,)
    return (2,) if op.op_type == "Where" and _replaces_rest(graph, op) else ()


def _replaces_rest(graph: Graph, op: Op) -> bool:
    """Where(x == -1, something, x): how exporters write an expansion that leaves some axes as they are."""
    condition = None if op.inputs[0] is None else graph.producer(op.inputs[0])
    if condition is None or condition.op_type != "Equal" or op.inputs[2] not in condition.inputs:
        return False
    others = [graph.constant(value) for value in condition.inputs if value is not op.inputs[2]]
    return all(tensor is not None and (tensor.numpy() == -1).all() for tensor in others)


def _computed(known: Known, value: Value) -> list[Element | None] | None:
    if known.rank(value) == 0:
        return [None]
    size = known.size(value, 0)
    return None if size is None else [None] * size


def entries(known: Known, op: Op, port: int, sizes: Sizes) -> list[Element | Count | None] | None:
    """The entries of the sizes that an op reads: spelled by a constant, computed from what `sizes` says, or neither.

    None for the whole where not even their number is known.
    """
    spelled = elements(known, op, port)
    if spelled is not None and None not in spelled:
        return list(spelled)
    value = op.inputs[port]
    assert value is not None
    found = evaluate(known.graph, value, sizes)
    if spelled is None or found is None:
        return None if spelled is None and found is None else [*(spelled or found or ())]
    return [computed if element is None else element for element, computed in zip(spelled, found, strict=True)]
