"""Where the numbers of a shape come from: the constant that spells one, however it reaches its reader."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.ir.node import Op, Value
from secateur.ir.rules.known import Known


@dataclass(frozen=True, slots=True)
class Element:
    """One number of a shape: entry `index` of the constant at input `port` of `reader`."""

    reader: Op
    port: int
    index: int
    number: int


def elements(known: Known, op: Op, port: int) -> list[Element | None] | None:
    """The entries of the sizes that an op reads; None for those that are computed from shapes at run time.

    Follows Concat, Unsqueeze, Squeeze, Cast, Identity and Reshape back to constants. None for the whole where it is not
    even known how many entries a part of it has.
    """
    value = op.inputs[port]
    assert value is not None
    tensor = known.constant(value)
    if tensor is not None:
        return [Element(op, port, index, int(number)) for index, number in enumerate(tensor.numpy().reshape(-1))]
    maker = known.graph.producer(value)
    if maker is not None and maker.op_type == "Concat":
        found: list[Element | None] = []
        for part in range(len(maker.inputs)):
            inside = elements(known, maker, part)
            if inside is None:
                return None
            found.extend(inside)
        return found
    if maker is not None and maker.op_type in _SAME_NUMBERS:
        return elements(known, maker, 0)
    return _computed(known, value)


def _computed(known: Known, value: Value) -> list[Element | None] | None:
    if known.rank(value) == 0:
        return [None]
    size = known.size(value, 0)
    return None if size is None else [None] * size


_SAME_NUMBERS = frozenset({"Unsqueeze", "Squeeze", "Cast", "Identity", "Reshape"})
