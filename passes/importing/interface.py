"""Codes that come in or go out of a model, in uint8 or around a zero point: arithmetic instead of Q/DQ.

TensorRT has uint8 at the inputs and outputs of a network, and casts it; what it dequantizes and quantizes is int8
around 0.
"""

from __future__ import annotations

import numpy as np

from secateur.calib.solvers.grids import symmetric_scale
from secateur.ir import DataType, Graph, Op, Tensor, TensorType, Value
from secateur.ir.build import add_constant, emit
from secateur.passes.context import Context
from secateur.passes.importing.constants import put
from secateur.passes.importing.saturation import CODES, ends_of
from secateur.passes.rewriter import remove_unread, replace_value, sweep


def compute_interface(part: Graph, context: Context) -> int:
    """Rewrites what reads input codes and what makes output codes of a model; returns how many inputs and outputs.

    `(code - zero) * scale` is exact; behind an input, the value is quantized again, to int8 around 0, for what it is
    read by. `clip(round(x / scale) + zero)` is exact as well.
    """
    if part.is_body:
        return 0
    done = 0
    for value in part.inputs:
        readers = part.consumers(value)
        if not readers or any(op.key != ("", "DequantizeLinear") for op in readers) or not _is_foreign(part, readers):
            continue
        if context.allow("input", readers[0]):
            _read(part, value, readers)
            context.row(value=value.name, was="codes that come in", effect="rounded")
            done += 1
    for value in part.outputs:
        maker = part.producer(value)
        if maker is None or maker.key != ("", "QuantizeLinear") or part.consumers(value):
            continue
        if _is_foreign(part, [maker]) and context.allow("output", maker):
            _write(part, maker)
            context.row(value=value.name, was="codes that go out", effect="exact")
            done += 1
    return done


def _is_foreign(part: Graph, ops: list[Op]) -> bool:
    """Whether ops share one grid of integers that TensorRT does not quantize to."""
    grids = [(part.constant(op.input(1)), part.constant(op.input(2))) for op in ops]
    scale, zero = grids[0]
    if scale is None or zero is None or scale.size != 1 or zero.dtype not in CODES or zero.dtype.bits > 8:
        return False
    same = all(one and other and one.equals(scale) and other.equals(zero) for one, other in grids)
    return same and (zero.dtype is not DataType.INT8 or bool(zero.numpy().any()))


def _grid(part: Graph, op: Op) -> tuple[Tensor, Tensor]:
    scale, zero = part.constant(op.input(1)), part.constant(op.input(2))
    assert scale is not None
    assert zero is not None
    return scale, zero


def _named(part: Graph, op_type: str, inputs: list[Value | None], name: str, **attributes: int) -> Value:
    made = emit(part, op_type, inputs, attributes, outputs=[name])
    made.name = made.output.name
    return made.output


def _read(part: Graph, value: Value, readers: list[Op]) -> None:
    scale, zero = _grid(part, readers[0])
    kind, name = scale.dtype, value.name
    factor, point = float(scale.numpy().astype(np.float64).item()), int(zero.numpy().item())
    real = _named(part, "Cast", [value], f"{name}_cast", to=int(kind))
    if point:
        shift = add_constant(part, f"{name}_zero_point", np.asarray(point, kind.numpy))
        real = _named(part, "Sub", [real, shift], f"{name}_centred")
    step = add_constant(part, f"{name}_step", scale.numpy().reshape(()))
    real = _named(part, "Mul", [real, step], f"{name}_real")
    low, high = ends_of(factor, point, zero.dtype)
    wide = symmetric_scale(max(-low, high), kind.numpy)
    grid = [add_constant(part, f"{name}_scale", wide), add_constant(part, f"{name}_zero", np.zeros((), np.int8))]
    codes = _named(part, "QuantizeLinear", [real, *grid], f"{name}_quantized")
    made = _named(part, "DequantizeLinear", [codes, *grid], f"{name}_dequantized")
    for reader in readers:
        put(part, reader, made)


def _write(part: Graph, maker: Op) -> None:
    scale, zero = _grid(part, maker)
    kind, name = scale.dtype, maker.output.name
    least, most = CODES[zero.dtype]

    def number(what: str, amount: float) -> Value:
        return add_constant(part, f"{name}_{what}", np.asarray(amount, kind.numpy))

    step = add_constant(part, f"{name}_step", scale.numpy().reshape(()))
    steps = _named(part, "Round", [_named(part, "Div", [maker.inputs[0], step], f"{name}_steps")], f"{name}_rounded")
    shifted = _named(part, "Add", [steps, number("zero_point", int(zero.numpy().item()))], f"{name}_shifted")
    cut = _named(part, "Clip", [shifted, number("least", least), number("most", most)], f"{name}_cut")
    made = _named(part, "Cast", [cut], f"{name}_codes", to=int(zero.dtype))
    inputs = [value for value in maker.inputs if value is not None]
    if made.type is None and isinstance(maker.output.type, TensorType):
        made.type = maker.output.type
    replace_value(part, maker.output, made)
    sweep(part, maker)
    for value in inputs:
        remove_unread(part, value)
