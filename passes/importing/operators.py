"""Operators on codes (QLinearConv and its like): dequantize what they read, compute in float, quantize the result."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.ir import Value
from secateur.passes.importing.site import Codes, Site, import_rules

_register = import_rules.register
_MICROSOFT = "com.microsoft::"
_COMPUTED = "its bias or a scale is computed"


def _attributes(site: Site, *names: str) -> dict[str, object]:
    return {name: attribute for name, attribute in site.op.attributes.items() if name in names}


def _finish(site: Site, real: Value, scale: int, zero: int) -> None:
    """Quantizes the result with the scale and zero point at two ports."""
    step = site.input(scale)
    assert step is not None
    site.replace(site.quantized(real, step, site.input(zero)))


@_register("QLinearConv", f"{_MICROSOFT}QLinearConv")
def _conv(site: Site) -> str | None:
    if site.op.attribute("channels_last", 0):
        return "its channels are last, where Conv has them second"
    if site.constant(site.input(4)) is None:
        return _COMPUTED
    bias = site.input(8)
    if bias is not None:
        bias = site.bias(bias, (site.input(1), site.input(4)))
        if bias is None:
            return _COMPUTED
    inputs = [site.real(site.codes(0)), site.real(site.codes(3, axis=0)), bias]
    names = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    _finish(site, site.emit("Conv", inputs if bias is not None else inputs[:2], _attributes(site, *names)), 6, 7)
    return None


@_register("QLinearMatMul")
def _matmul(site: Site) -> str | None:
    operands = []
    for port, back in ((0, 2), (3, 1)):
        codes = site.codes(port)
        scale, rank = site.constant(codes.scale), site.rank(codes.value)
        if scale is None or (scale.size > 1 and (rank is None or len(scale.shape) > 1)):
            return "a scale is computed, or differs along more than one axis"
        axis = None if rank is None or scale.size == 1 else rank - back
        operands.append(site.real(Codes(codes.value, codes.scale, codes.zero, axis)))
    _finish(site, site.emit("MatMul", operands), 6, 7)
    return None


@_register(f"{_MICROSOFT}QGemm")
def _gemm(site: Site) -> str | None:
    """C is in steps of alpha * a_scale * b_scale. Without a scale for the result, that is float."""
    op, bias = site.op, site.input(6)
    if site.constant(site.input(4)) is None:
        return _COMPUTED
    if bias is not None:
        bias = site.bias(bias, (site.input(1), site.input(4)), op.attribute("alpha", 1.0))
        if bias is None:
            return _COMPUTED
    inputs = [site.real(site.codes(0)), site.real(site.codes(3, axis=0 if op.attribute("transB", 0) else 1))]
    made = site.emit(
        "Gemm", inputs if bias is None else [*inputs, bias], _attributes(site, "alpha", "transA", "transB")
    )
    if site.input(7) is None:
        site.replace(made)
    else:
        _finish(site, made, 7, 8)
    return None


@_register(f"{_MICROSOFT}QLinearAdd")
def _add(site: Site) -> str | None:
    return _binary(site, "Add")


@_register(f"{_MICROSOFT}QLinearMul")
def _mul(site: Site) -> str | None:
    return _binary(site, "Mul")


def _binary(site: Site, op_type: str) -> str | None:
    _finish(site, site.emit(op_type, [site.real(site.codes(0)), site.real(site.codes(3))]), 6, 7)
    return None


@_register(f"{_MICROSOFT}QLinearSigmoid")
def _sigmoid(site: Site) -> str | None:
    return _unary(site, "Sigmoid")


@_register(f"{_MICROSOFT}QLinearLeakyRelu")
def _leaky_relu(site: Site) -> str | None:
    return _unary(site, "LeakyRelu", "alpha")


@_register(f"{_MICROSOFT}QLinearGlobalAveragePool")
def _global_average_pool(site: Site) -> str | None:
    return _channels_last(site) or _unary(site, "GlobalAveragePool")


@_register(f"{_MICROSOFT}QLinearAveragePool")
def _average_pool(site: Site) -> str | None:
    names = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")
    return _channels_last(site) or _unary(site, "AveragePool", *names)


def _channels_last(site: Site) -> str | None:
    return "its channels are last, where ONNX has them second" if site.op.attribute("channels_last", 0) else None


def _unary(site: Site, op_type: str, *attributes: str) -> str | None:
    _finish(site, site.emit(op_type, [site.real(site.codes(0))], _attributes(site, *attributes)), 3, 4)
    return None


@_register(f"{_MICROSOFT}QLinearSoftmax")
def _softmax(site: Site) -> str | None:
    """Before opset 13, Softmax flattened the axes from the given one on: the same where that is the last."""
    axis, rank = site.op.attribute("axis", -1), site.rank(site.input(0))
    if site.op.attribute("opset", 13) < 13 and axis != -1 and (rank is None or axis != rank - 1):
        return "it is taken over several axes together, as Softmax was before opset 13"
    _finish(site, site.emit("Softmax", [site.real(site.codes(0))], {"axis": axis}), 3, 4)
    return None


@_register(f"{_MICROSOFT}QLinearConcat")
def _concat(site: Site) -> str | None:
    ports = range(2, len(site.op.inputs), 3)
    _finish(site, site.emit("Concat", _all_real(site, ports), _attributes(site, "axis")), 0, 1)
    return None


@_register(f"{_MICROSOFT}QLinearWhere")
def _where(site: Site) -> str | None:
    _finish(site, site.emit("Where", [site.input(0), *_all_real(site, (1, 4))]), 7, 8)
    return None


def _all_real(site: Site, ports: Sequence[int]) -> list[Value]:
    return [site.real(site.codes(port)) for port in ports]
