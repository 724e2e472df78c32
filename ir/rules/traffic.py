"""How many bytes an op moves between memory and the chip at least, from the types of what it reads and gives."""

from __future__ import annotations

import math
from collections.abc import Iterable

from secateur.ir.node import Op, Value
from secateur.ir.rules.known import Known
from secateur.ir.targets import Format
from secateur.ir.types import TensorType

VIEWS = frozenset(
    {"Constant", "Dropout", "Flatten", "Identity", "Reshape", "Shape", "Size", "Squeeze", "Unsqueeze"}
    | {"QuantizeLinear", "DequantizeLinear", "Cast"}
)
"""Ops that move nothing: other names for the same bytes, or conversions that runtimes do on the way."""
LOOKUPS = frozenset({"Gather", "GatherElements", "GatherND", "Slice"})
"""Ops that read no more of their first input than they give."""


def value_bytes(known: Known, value: Value | None, form: Format) -> float | None:
    """Bytes of a value, floats taken to be in the format; None where its shape is not known. Open sizes count as 1."""
    if value is None:
        return 0.0
    kind, tensor = known.types.get(value, value.type), known.constant(value)
    if tensor is not None:
        return tensor.size * (form.bits if tensor.dtype.is_float else tensor.dtype.bits) / 8
    if not isinstance(kind, TensorType) or kind.shape is None:
        return None
    bits = form.bits if kind.dtype.is_float else kind.dtype.bits
    return math.prod(size if isinstance(size, int) else 1 for size in kind.shape) * bits / 8


def op_bytes(known: Known, op: Op, form: Format, *, leave_out: Iterable[int] = ()) -> float | None:
    """What an op reads and writes, each input once, inputs at the ports of `leave_out` aside; None where not known."""
    if op.key[0] == "" and op.op_type in VIEWS:
        return 0.0
    out = set(leave_out)
    made = [value_bytes(known, value, form) for value in op.outputs]
    read = [value_bytes(known, value, form) for port, value in enumerate(op.inputs) if port not in out]
    if op.key[0] == "" and op.op_type in LOOKUPS:
        read[:1] = made[:1]
    total = 0.0
    for moved in (*made, *read):
        if moved is None:
            return None
        total += moved
    return total
