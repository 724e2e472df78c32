"""Products of integers with scales from elsewhere (MatMulInteger and its like): what dynamic quantization writes.

`x -> DynamicQuantizeLinear -> MatMulInteger(W) -> Cast -> Mul(scale of x * scale of W)` is read as a whole. TensorRT
computes no scales while it runs: x gets one scale, of the range that calibration data shows, or stays in float.
"""

from __future__ import annotations

from dataclasses import dataclass

from secateur.ir import DataType, Op, Value
from secateur.passes.importing.site import Codes, Site, import_rules

_register = import_rules.register


@dataclass(frozen=True)
class _Tail:
    """What follows an integer product: the Mul that makes it float, and the scales that meet there."""

    end: Op
    scales: tuple[Value, ...]


@_register("MatMulInteger")
def _matmul(site: Site) -> str | None:
    rank = site.rank(site.input(1))
    return _integer_product(site, "MatMul", None if rank is None else rank - 1)


@_register("ConvInteger")
def _conv(site: Site) -> str | None:
    return _integer_product(site, "Conv", 0)


def _integer_product(site: Site, op_type: str, axis: int | None) -> str | None:
    tail = _tail(site)
    if tail is None:
        return "its result is not multiplied by the scales of its operands"
    left = list(tail.scales)
    operands: list[Value | Codes] = []
    for port in (0, 1):
        source = _dynamic(site, site.input(port), site.input(port + 2))
        if source is not None and source.outputs[1] in left:
            left.remove(_second(source))
            operands.append(_first(source))
    constant = 1 if len(operands) == 1 else None
    if constant is not None and len(left) == 1 and site.constant(site.input(1)) is not None:
        weight = site.op.inputs[1]
        assert weight is not None
        if site.constant(left[0]) is None or (axis is None and site.constant(left[0]).size > 1):  # type: ignore[union-attr]
            return "the scale of its weight is computed"
        operands.append(Codes(weight, left.pop(), site.input(3), axis))
    if len(operands) != 2 or left:
        return "what its operands were quantized from is not known"
    real = [site.real(one) if isinstance(one, Codes) else site.activation(one) for one in operands]
    names = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    attributes = {name: one for name, one in site.op.attributes.items() if name in names}
    site.replace(site.emit(op_type, real, attributes), tail.end)
    return None


def _tail(site: Site) -> _Tail | None:
    """`Cast -> Mul` behind the op, with nothing else reading what is between."""
    cast = _only_reader(site, site.op.output)
    if cast is None or cast.key != ("", "Cast") or not DataType(cast.attribute("to", 0)).is_float:
        return None
    end = _only_reader(site, cast.output)
    if end is None or end.key != ("", "Mul"):
        return None
    other = next((value for value in end.inputs if value is not cast.output), None)
    maker = site.maker(other)
    if maker is not None and maker.key == ("", "Mul"):
        return _Tail(end, tuple(value for value in maker.inputs if value is not None))
    return None if other is None else _Tail(end, (other,))


def _only_reader(site: Site, value: Value) -> Op | None:
    users = site.part.consumers(value)
    return users[0] if len(users) == 1 and value not in site.part.outputs else None


def _dynamic(site: Site, codes: Value | None, zero: Value | None) -> Op | None:
    """The DynamicQuantizeLinear that makes these codes with this zero point."""
    made = site.maker(codes)
    if made is None or made.key != ("", "DynamicQuantizeLinear") or made.outputs[0] is not codes:
        return None
    return made if zero is not None and zero is made.outputs[2] else None


def _first(op: Op) -> Value:
    value = op.inputs[0]
    assert value is not None
    return value


def _second(op: Op) -> Value:
    value = op.outputs[1]
    assert value is not None
    return value


@_register("DequantizeLinear")
def _pair(site: Site) -> str | None:
    """What was quantized dynamically and is dequantized right away."""
    source = _dynamic(site, site.input(0), site.input(2))
    if source is None or source.outputs[1] is not site.input(1):
        return ""
    site.replace(site.activation(_first(source)), rename=False)
    return None


@_register("com.microsoft::DynamicQuantizeMatMul")
def _dynamic_matmul(site: Site) -> str | None:
    """(A, B, b_scale, b_zero_point, bias): A is float, and is quantized inside."""
    data, weight, scale = site.op.inputs[:3]
    assert data is not None
    assert weight is not None
    assert scale is not None
    if (codes := _columns(site, weight, scale, site.input(3))) is None:
        return "its weight or a scale is computed"
    _product(site, site.activation(data), site.real(codes), site.input(4))
    return None


@_register("com.microsoft::MatMulIntegerToFloat")
def _integer_matmul(site: Site) -> str | None:
    """(A, B, a_scale, b_scale, a_zero_point, b_zero_point, bias): A is quantized already."""
    data, weight, data_scale, scale = site.op.inputs[:4]
    assert data is not None
    assert weight is not None
    assert data_scale is not None
    assert scale is not None
    codes = _columns(site, weight, scale, site.input(5))
    source = _dynamic(site, data, site.input(4))
    if codes is None or (source is None and site.constant(data_scale) is None):
        return "its weight or a scale is computed"
    if source is not None and source.outputs[1] is data_scale:
        left = site.activation(_first(source))
    else:
        left = site.real(Codes(data, data_scale, site.input(4)))
    _product(site, left, site.real(codes), site.input(6))
    return None


def _columns(site: Site, weight: Value, scale: Value, zero: Value | None) -> Codes | None:
    """A constant weight with one scale, or one for each column."""
    codes, steps = site.constant(weight), site.constant(scale)
    if codes is None or steps is None or (zero is not None and site.constant(zero) is None):
        return None
    if steps.size not in (1, codes.shape[-1]):
        return None
    return Codes(weight, scale, zero, len(codes.shape) - 1)


def _product(site: Site, left: Value, right: Value, bias: Value | None) -> None:
    made = site.emit("MatMul", [left, right])
    site.replace(made if bias is None else site.emit("Add", [made, bias]))


@_register("DynamicQuantizeLinear")
def _alone(site: Site) -> str | None:
    """Goes with its readers; what stays is read by something that no rule knows."""
    if any(value is not None and site.part.is_used(value) for value in site.op.outputs):
        return "what reads its codes is not known"
    return ""
