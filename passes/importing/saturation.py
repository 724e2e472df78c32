"""Activations that hide in quantizers: a range that ends at zero saturates as a ReLU does, and tools drop the ReLU.

onnxruntime's quantizer takes a Relu or Clip away wherever the quantizer behind it saturates at the same numbers. Who
changes the range, or takes the quantizer away, has to put the activation back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from secateur.ir import DataType, Graph, Op, Value
from secateur.ir.build import add_constant, emit

Ends: TypeAlias = tuple[float, float]
"""The smallest and the largest number."""

CODES: Mapping[DataType, tuple[int, int]] = {
    DataType.UINT8: (0, 255),
    DataType.INT8: (-128, 127),
    DataType.UINT16: (0, 65535),
    DataType.INT16: (-32768, 32767),
    DataType.UINT4: (0, 15),
    DataType.INT4: (-8, 7),
    DataType.UINT2: (0, 3),
    DataType.INT2: (-2, 1),
}
"""The codes of integer types."""

_ANY: Ends = (-float("inf"), float("inf"))
_NOT_NEGATIVE = frozenset({"Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Sqrt"})
_BETWEEN = frozenset(
    {
        "AveragePool",
        "Dropout",
        "Expand",
        "Flatten",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "Identity",
        "MaxPool",
        "ReduceMean",
    }
    | {"ReduceMean", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)
"""Ops whose results lie between the smallest and the largest number that they read."""
_OF_ALL = frozenset({"Add", "Concat", "Sum"})


def ends_of(scale: float, zero: int, dtype: DataType) -> Ends:
    """What the first and the last code of an integer type stand for."""
    least, most = CODES[dtype]
    return (least - zero) * scale, (most - zero) * scale


def hides_activation(part: Graph, value: Value, ends: Ends, known: Mapping[Value, Ends]) -> bool:
    """Whether a quantizer of `value` cuts off all negative (or all positive) numbers, and there may be some.

    `known` are the ends of codes, by which those of what is dequantized are known.
    """
    low, high = reach(part, value, known)
    return (ends[0] == 0 and low < 0) or (ends[1] == 0 and high > 0)


def reach(part: Graph, value: Value | None, known: Mapping[Value, Ends], depth: int = 12) -> Ends:
    """Between which numbers a value certainly lies; `depth` is how many ops up it is looked for."""
    maker = None if value is None or value not in part else part.producer(value)
    if maker is None or maker.key[0] or depth == 0:
        return _ANY
    if maker.op_type == "DequantizeLinear":
        codes = maker.input(0)
        return _ANY if codes is None else known.get(codes, _ANY)
    if maker.op_type in _NOT_NEGATIVE:
        return 0.0, _ANY[1]
    if maker.op_type == "Clip":
        limits = [part.constant(maker.input(port)) for port in (1, 2)]
        low, high = (None if one is None else float(one.numpy().astype(np.float64).item()) for one in limits)
        return _ANY[0] if low is None else low, _ANY[1] if high is None else high
    if maker.op_type in _BETWEEN:
        return reach(part, maker.input(0), known, depth - 1)
    if maker.op_type in _OF_ALL:
        read = [reach(part, one, known, depth - 1) for one in maker.inputs]
        low, high = min(low for low, _ in read), max(high for _, high in read)
        if maker.op_type == "Concat":
            return low, high
        # Sums of numbers of one sign keep that sign, and nothing else is known of them.
        return 0.0 if low >= 0 else _ANY[0], 0.0 if high <= 0 else _ANY[1]
    return _ANY


def clipped(part: Graph, like: Op, value: Value, ends: tuple[float | None, float | None], kind: np.dtype[Any]) -> Value:
    """The value cut off at one or both ends, by an op that is named after `like`."""
    low, high = ends
    if low == 0 and high is None:
        made = emit(part, "Relu", [value], like=like)
    else:
        named = [
            None if end is None else add_constant(part, f"{value.name}_end", np.asarray(end, kind)) for end in ends
        ]
        made = emit(part, "Clip", [value, *named[: 1 + (high is not None)]], like=like)
    made.name = made.output.name
    return made.output
