"""Constant codes behind a DequantizeLinear, as the numbers that they stand for."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from secateur.ir import DataType, Graph, Op, Tensor, Value
from secateur.ir.sparsity_scheme import SparsityScheme
from secateur.passes.importing.grids import spread
from secateur.passes.importing.saturation import CODES
from secateur.passes.rewriter import remove_unread, replace_value, sweep

_OPERANDS = frozenset(
    {"Conv", "ConvTranspose", "DequantizeLinear", "Einsum", "Gather", "Gemm", "MatMul", "QuantizeLinear"}
)
_MOVES = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


def numbers_of(part: Graph, op: Op) -> NDArray[Any] | None:
    """What a DequantizeLinear makes of constant codes; None where codes, scale or zero point are no constants."""
    codes, scale, zero = (part.constant(op.input(port)) for port in range(3))
    if codes is None or scale is None or (op.input(2) is not None and zero is None):
        return None
    axis, block = op.attribute("axis", 1), op.attribute("block_size", 0)
    # TensorRT's powers of two are bytes: the exponents.
    factors = scale.numpy().view(ml_dtypes.float8_e8m0fnu) if scale.dtype is DataType.UINT8 else scale.numpy()
    steps = spread(factors.astype(np.float64), codes.shape, axis, block)
    numbers = codes.numpy().astype(np.float64)
    if zero is not None:
        numbers = numbers - spread(zero.numpy().astype(np.float64), codes.shape, axis, block)
    wanted = DataType(op.attribute("output_dtype", 0)) or (scale.dtype if scale.dtype.bits > 8 else DataType.FLOAT32)
    return np.asarray(numbers * steps).astype(wanted.numpy)


def fold(part: Graph, op: Op, numbers: NDArray[Any]) -> None:
    """A constant takes the place of what a DequantizeLinear makes; the mark of a sparse weight passes on to it."""
    codes, tensor = op.input(0), Tensor(numbers)
    constant = part.add_constant(op.output.name, tensor)
    scheme = None if codes is None else SparsityScheme.of(codes)
    if scheme is not None and scheme.holds(tensor):
        scheme.mark(constant)
    put(part, op, constant)


def store_codes(part: Graph, op: Op) -> bool:
    """What a QuantizeLinear makes of a constant becomes a constant of its own; False where its scale is computed."""
    real, scale, zero = (part.constant(op.input(port)) for port in range(3))
    if real is None or scale is None or zero is None or zero.dtype not in CODES or op.attribute("block_size", 0):
        return False
    axis, (least, most) = op.attribute("axis", 1), CODES[zero.dtype]
    steps = spread(scale.numpy(), real.shape, axis, 0)
    codes = np.rint(real.numpy().astype(np.float32) / steps.astype(np.float32)) + spread(
        zero.numpy().astype(np.float64), real.shape, axis, 0
    )
    stored = np.asarray(np.clip(codes, least, most)).astype(np.int32).astype(zero.dtype.numpy)
    constant = part.add_constant(op.output.name, Tensor(stored))
    if op.inputs[0] is not None:
        constant.metadata = op.inputs[0].metadata
    put(part, op, constant)
    return True


def put(part: Graph, op: Op, new: Value) -> None:
    """`new` takes the place of an op's output; the op goes, and what only it needed."""
    inputs = [value for value in op.inputs if value is not None]
    replace_value(part, op.output, new)
    sweep(part, op)
    for value in inputs:
        remove_unread(part, value)


def is_operand(part: Graph, value: Value) -> bool:
    """Whether a convolution, a product, a look-up or a quantizer reads a value, moved or not: it stays in codes."""
    return any(
        user.op_type in _OPERANDS or (user.op_type in _MOVES and is_operand(part, user.output))
        for user in part.consumers(value)
    )
