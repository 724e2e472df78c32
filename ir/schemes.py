"""In what few bits a value is kept: read off its QuantizeLinear and DequantizeLinear, stored nowhere else.

A pair of these ops is all that ONNX has for a number format, so it is all that there is to ask: the text form prints
what they say behind the op, the verifier checks that their scales fit, and passes and reports read it here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np

from secateur.ir.graph import Graph
from secateur.ir.node import Op, Value
from secateur.ir.tensor import Tensor
from secateur.ir.types import DataType

_PAIR = frozenset({"QuantizeLinear", "DequantizeLinear"})
_DOMAINS = frozenset({"", "com.microsoft"})
_LOOKED_AT = 1 << 12
"""Scales that the verifier reads; of longer ones it checks the shape alone, or it would read every weight's."""


@dataclass(frozen=True)
class Scheme:
    """Numbers of a narrow type, times a scale. As text: `i8`, `i8 axis 0`, `i4 axis 1 block 32`.

    Attributes:
        dtype: in which the codes are stored.
        axis: the axis along which scales differ; None for one scale.
        block: how many neighbours along the axis share a scale; None where each index has its own.
    """

    dtype: DataType
    axis: int | None = None
    block: int | None = None

    def __str__(self) -> str:
        axis = "" if self.axis is None else f" axis {self.axis}"
        return f"{self.dtype.short}{axis}" + ("" if self.block is None else f" block {self.block}")

    @classmethod
    def of(cls, graph: Graph, op: Op) -> Self | None:
        """What a QuantizeLinear or DequantizeLinear says; None for other ops, or where the file does not tell."""
        if not is_quantizer(op):
            return None
        dtype, scale = _stored(graph, op), graph.constant(op.input(1))
        block = int(op.attribute("block_size", 0)) or None
        if dtype is None or (scale is None and block is None):
            return None
        is_one = scale is not None and scale.size == 1 and block is None
        return cls(dtype, None if is_one else int(op.attribute("axis", 1)), block)


def is_quantizer(op: Op) -> bool:
    """True for QuantizeLinear and DequantizeLinear of ONNX, and of onnxruntime's own domain."""
    return op.op_type in _PAIR and op.domain in _DOMAINS


def schemes(graph: Graph) -> Iterator[tuple[Value, Scheme]]:
    """Every value that was quantized, as the ops that read it know it: the output of each DequantizeLinear."""
    for op in graph.ops():
        if op.op_type == "DequantizeLinear" and (found := Scheme.of(graph, op)) is not None:
            yield op.output, found


def scheme_fault(graph: Graph, op: Op) -> str | None:
    """What is wrong with the scale of a QuantizeLinear or DequantizeLinear, as far as constants tell; else None."""
    scale = graph.constant(op.input(1))
    if scale is None:
        return None
    zero = graph.constant(op.input(2))
    if zero is not None and zero.size != scale.size:
        return f"has scales of shape {list(scale.shape)}, but zero points of shape {list(zero.shape)}"
    if (data := graph.constant(op.input(0))) is not None and (misfit := _misfit(op, data, scale)):
        return misfit
    if scale.size <= _LOOKED_AT and scale.dtype.is_float:
        numbers = scale.numpy().astype(np.float32)
        # Blocks of four bits that reach from -8 to 7 are scaled by what takes -8 to the larger end, of whatever sign.
        signed = op.op_type == "DequantizeLinear" and bool(op.attribute("block_size", 0))
        if not (np.isfinite(numbers) & ((numbers > 0) | signed)).all():
            return f"has a scale of {numbers.min():.3g}, where positive numbers are expected"
    return None


def _misfit(op: Op, data: Tensor, scale: Tensor) -> str | None:
    """Scales of a constant that do not fit its shape."""
    block, rank = int(op.attribute("block_size", 0)), len(data.shape)
    if scale.size == 1 and not block:
        return None
    axis = int(op.attribute("axis", 1))
    if not -rank <= axis < rank:
        return f"has scales along axis {axis} of a value of shape {list(data.shape)}"
    axis %= rank
    expected: tuple[int, ...] = (data.shape[axis],)
    if block:
        expected = tuple(-(-size // block) if at == axis else size for at, size in enumerate(data.shape))
    if scale.shape == expected:
        return None
    return f"has scales of shape {list(scale.shape)}, expected {list(expected)} for codes of {list(data.shape)}"


def _stored(graph: Graph, op: Op) -> DataType | None:
    codes = op.output if op.op_type == "QuantizeLinear" else op.input(0)
    constant = graph.constant(codes)
    if constant is not None:
        return constant.dtype
    if (zero := graph.constant(op.input(2))) is not None:
        return zero.dtype
    if op.op_type == "DequantizeLinear":
        maker = None if codes is None or codes not in graph else graph.producer(codes)
        return None if maker is None or not is_quantizer(maker) else _stored(graph, maker)
    named = int(op.attribute("output_dtype", 0))
    return DataType(named) if named else DataType.UINT8
