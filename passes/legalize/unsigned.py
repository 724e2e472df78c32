"""Quantization to uint8 with zero point 128 becomes quantization to int8 with zero point 0: the codes move by 128."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from secateur.ir import DataType, Graph, Op, Tensor, TensorType, Value
from secateur.passes.rewriter import remove_unread

_MIDDLE = 128
"""The zero point of uint8 that is 0 in int8."""


def group(part: Graph, op: Op) -> tuple[Op, ...]:
    """The ops that share one uint8 tensor with zero point 128, if nothing but a DequantizeLinear reads it."""
    match op.key:
        case ("", "QuantizeLinear"):
            codes: Value | None = op.output
        case ("", "DequantizeLinear"):
            codes = op.input(0)
            if codes is None or codes not in part or not part.is_constant(codes):
                return ()
        case _:
            return ()
    if codes is None or codes in part.outputs:
        return ()
    users = tuple(part.consumers(codes))
    readers = all(user.key == ("", "DequantizeLinear") and user.inputs.count(codes) == 1 for user in users)
    found = tuple(dict.fromkeys((op, *users)))
    return found if users and readers and all(_is_centred(part, one) for one in found) else ()


def _is_centred(part: Graph, op: Op) -> bool:
    zero = part.constant(op.input(2))
    return zero is not None and zero.dtype is DataType.UINT8 and bool((zero.numpy() == _MIDDLE).all())


def rewrite(part: Graph, ops: tuple[Op, ...]) -> None:
    """Moves the codes of the tensor that a group shares."""
    first = ops[0]
    codes = first.output if first.op_type == "QuantizeLinear" else first.inputs[0]
    assert codes is not None
    if first.op_type == "QuantizeLinear":
        if isinstance(codes.type, TensorType):
            codes.type = replace(codes.type, dtype=DataType.INT8)
        if first.attribute("output_dtype", 0):
            part.set_attribute(first, "output_dtype", int(DataType.INT8))
    else:
        codes = part.add_constant(codes.name, _centre(part, codes))
    for op in ops:
        old = op.input(2)
        assert old is not None
        tensor = part.constant(old)
        assert tensor is not None
        zero = part.add_constant(old.name, Tensor(np.zeros(tensor.shape, np.int8)))
        data = op.input(0) if op.op_type == "QuantizeLinear" else codes
        before = op.inputs
        part.set_inputs(op, [data, op.input(1), zero])
        for value in before:
            if value is not None:
                remove_unread(part, value)


def _centre(part: Graph, value: Value) -> Tensor:
    tensor = part.constant(value)
    assert tensor is not None
    return Tensor((tensor.numpy().astype(np.int16) - _MIDDLE).astype(np.int8))
