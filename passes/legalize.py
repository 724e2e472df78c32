"""`legalize`: what TensorRT refuses only because of how it is written is written as it takes it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from secateur.ir import DataType, Graph, Op, Tensor, TensorType, Value
from secateur.ir.build import emit
from secateur.passes.base import Pass
from secateur.passes.context import Context
from secateur.passes.facets import Effect, Facet
from secateur.passes.parts import parts
from secateur.passes.rewriter import remove_unread, replace_value, sweep

_ONE_OUTPUT = frozenset({"Attention", "BatchNormalization", "Dropout", "LayerNormalization", "MaxPool"})
_MIDDLE = 128
"""The zero point of uint8 that is 0 in int8."""


@dataclass(frozen=True)
class Legalize(Pass):
    """Rewrites for TensorRT that change no bit of what a model computes; `lint` says what is left.

    - A bias in int32 behind a DequantizeLinear becomes the float constant that it stands for.
    - Quantization to uint8 with zero point 128 becomes quantization to int8 with zero point 0: the codes move by 128.
    - Outputs that nobody reads are left out of operators of which TensorRT makes the first output only.

    Axes that are computed from constants, which it wants as constants, are the work of `fold-constants`; weights that
    are stored sparsely are dense as soon as a model is loaded.
    """

    name: ClassVar[str] = "legalize"
    changes: ClassVar[Facet] = (
        Facet.TOPOLOGY | Facet.SHAPE | Facet.DTYPE | Facet.WEIGHTS | Facet.ATTRIBUTES | Facet.SCHEME
    )
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, graph: Graph, context: Context) -> int:
        """Returns how many ops were rewritten."""
        counts = {"biases": 0, "unsigned": 0, "outputs": 0}
        for part in parts(graph):
            for op in part.ops():
                if _has_integer_bias(part, op) and context.allow("bias", op):
                    _fold_bias(part, op)
                    counts["biases"] += 1
                elif (pair := _unsigned(part, op)) and context.allow("unsigned", op):
                    _make_signed(part, pair)
                    counts["unsigned"] += 1
                elif _has_spare_outputs(part, op) and context.allow("outputs", op):
                    _drop_outputs(part, op)
                    counts["outputs"] += 1
        done = sum(counts.values())
        if done:
            context.row(**counts)
        return done


def _has_integer_bias(part: Graph, op: Op) -> bool:
    if op.key != ("", "DequantizeLinear") or op.attribute("block_size", 0) or op.output in part.outputs:
        return False
    codes, scale = part.constant(op.input(0)), part.constant(op.input(1))
    zero = part.constant(op.input(2))
    if codes is None or scale is None or codes.dtype is not DataType.INT32 or scale.dtype is not DataType.FLOAT32:
        return False
    if op.input(2) is not None and (zero is None or zero.numpy().any()):
        return False
    return scale.size == 1 or len(codes.shape) == 1


def _fold_bias(part: Graph, op: Op) -> None:
    codes, scale = part.constant(op.input(0)), part.constant(op.input(1))
    assert codes is not None
    assert scale is not None
    numbers = codes.numpy().astype(np.float32) * scale.numpy().reshape(-1)
    replace_value(part, op.output, part.add_constant(op.output.name, Tensor(numbers.reshape(codes.shape))))
    sweep(part, op)


def _unsigned(part: Graph, op: Op) -> tuple[Op, ...]:
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
    group = tuple(dict.fromkeys((op, *users)))
    return group if users and readers and all(_is_centred(part, one) for one in group) else ()


def _is_centred(part: Graph, op: Op) -> bool:
    zero = part.constant(op.input(2))
    return zero is not None and zero.dtype is DataType.UINT8 and bool((zero.numpy() == _MIDDLE).all())


def _make_signed(part: Graph, group: tuple[Op, ...]) -> None:
    first = group[0]
    codes = first.output if first.op_type == "QuantizeLinear" else first.inputs[0]
    assert codes is not None
    if first.op_type == "QuantizeLinear":
        if isinstance(codes.type, TensorType):
            codes.type = replace(codes.type, dtype=DataType.INT8)
        if first.attribute("output_dtype", 0):
            part.set_attribute(first, "output_dtype", int(DataType.INT8))
    else:
        codes = part.add_constant(codes.name, _centre(part, codes))
    for op in group:
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


def _has_spare_outputs(part: Graph, op: Op) -> bool:
    if op.key[0] or op.op_type not in _ONE_OUTPUT or len(op.outputs) < 2 or op.attribute("training_mode", 0):
        return False
    return op.outputs[0] is not None and not any(value is not None and part.is_used(value) for value in op.outputs[1:])


def _drop_outputs(part: Graph, op: Op) -> None:
    made = emit(part, op.op_type, op.inputs, op.attributes, like=op)
    made.doc, made.metadata, name = op.doc, op.metadata, op.name
    replace_value(part, op.output, made.output, rename=True)
    sweep(part, op)
    made.name = name
