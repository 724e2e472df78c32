"""A bias in int32 behind a DequantizeLinear becomes the float constant that it stands for."""

from __future__ import annotations

import numpy as np

from secateur.ir import DataType, Graph, Op, Tensor
from secateur.passes.rewriter import replace_value, sweep


def fits(part: Graph, op: Op) -> bool:
    """Whether an op dequantizes constant int32 codes without zero points."""
    if op.key != ("", "DequantizeLinear") or op.attribute("block_size", 0) or op.output in part.outputs:
        return False
    codes, scale = part.constant(op.input(0)), part.constant(op.input(1))
    zero = part.constant(op.input(2))
    if codes is None or scale is None or codes.dtype is not DataType.INT32 or scale.dtype is not DataType.FLOAT32:
        return False
    if op.input(2) is not None and (zero is None or zero.numpy().any()):
        return False
    return scale.size == 1 or len(codes.shape) == 1


def rewrite(part: Graph, op: Op) -> None:
    """Puts the float constant in the place of the op's output."""
    codes, scale = part.constant(op.input(0)), part.constant(op.input(1))
    assert codes is not None
    assert scale is not None
    numbers = codes.numpy().astype(np.float32) * scale.numpy().reshape(-1)
    replace_value(part, op.output, part.add_constant(op.output.name, Tensor(numbers.reshape(codes.shape))))
    sweep(part, op)
