"""Which element type a value carries where torch's tensors do not say it (see `dtypes`)."""

from __future__ import annotations

from typing import TypeAlias

from secateur.backends.torch.dtypes import is_carried
from secateur.ir import DataType, Graph, TensorType
from secateur.ir.node import Op, Value

Kinds: TypeAlias = dict[Value, DataType]
"""The type of a value that is carried by a wider one; others are left out."""

_OTHERS = frozenset(
    """
    Shape Size ArgMax ArgMin NonZero Equal Greater GreaterOrEqual Less LessOrEqual IsNaN IsInf DequantizeLinear
    QLinearMatMul QLinearConv MatMulInteger ConvInteger MatMulNBits SequenceLength DynamicQuantizeLinear
    """.split()
)
"""Ops whose outputs have a type of their own, whatever they read."""

_FIRST_ONLY = frozenset("TopK MaxPool Unique".split())
"""Ops whose first output has the type of the input, and whose others are positions."""

_FROM_SECOND = frozenset("CastLike Where".split())


def follow(graph: Graph, kinds: Kinds) -> None:
    """Adds what is carried in a graph: what it declares, and what ops make of that.

    Types that the file declares are taken as they are; elsewhere an op passes on the type that it reads first, as all
    ops do that take narrow types at all and are not listed here.
    """
    for value in graph.values():
        if isinstance(value.type, TensorType) and is_carried(value.type.dtype):
            kinds[value] = value.type.dtype
    for op in graph.ops():
        made = _made(op, kinds)
        if made is None:
            continue
        for port, output in enumerate(op.outputs):
            if output is not None and output.type is None and (port == 0 or op.op_type not in _FIRST_ONLY):
                kinds[output] = made


def _made(op: Op, kinds: Kinds) -> DataType | None:
    said = op.attribute("to") or op.attribute("output_dtype") or op.attribute("dtype")
    if isinstance(said, int) and said:
        return DataType(said) if is_carried(DataType(said)) else None
    if op.op_type in _OTHERS:
        return None
    if op.op_type == "ConstantOfShape":
        value = op.attribute("value")
        return value.dtype if value is not None and is_carried(value.dtype) else None
    if op.op_type == "QuantizeLinear":
        return _of(op.input(2), kinds)
    if op.op_type in _FROM_SECOND:
        return _of(op.input(1), kinds)
    return next((found for value in op.inputs if (found := _of(value, kinds)) is not None), None)


def _of(value: Value | None, kinds: Kinds) -> DataType | None:
    return kinds.get(value) if value is not None else None
