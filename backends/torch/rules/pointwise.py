"""Element by element: functions of one tensor, and of several that broadcast."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from secateur.backends.torch.call import Call, Rule, torch_rules
from secateur.backends.torch.dtypes import bits_as, is_carried, rounded
from secateur.backends.torch.lazy import functional, torch
from secateur.ir import DataType

if TYPE_CHECKING:
    from torch import Tensor

_SAME_NAME = """
    Abs Acos Acosh Asin Asinh Atan Atanh Ceil Cos Cosh Erf Exp Floor Log Neg Reciprocal Relu Round Sigmoid Sign Sin Sinh
    Sqrt Tan Tanh IsNaN
"""
_NAMED = {"Not": "logical_not", "BitwiseNot": "bitwise_not"}
_PAIRS = {
    "Add": "add",
    "Sub": "sub",
    "Mul": "mul",
    "Equal": "eq",
    "Greater": "gt",
    "GreaterOrEqual": "ge",
    "Less": "lt",
    "LessOrEqual": "le",
    "And": "logical_and",
    "Or": "logical_or",
    "Xor": "logical_xor",
    "BitwiseAnd": "bitwise_and",
    "BitwiseOr": "bitwise_or",
    "BitwiseXor": "bitwise_xor",
}
_MANY = {"Max": "maximum", "Min": "minimum", "Sum": "add"}


def _unary(name: str) -> Rule:
    return lambda call: getattr(torch, name)(call[0])


def _binary(name: str) -> Rule:
    return lambda call: getattr(torch, name)(call[0], call[1])


def _folded(name: str) -> Rule:
    return lambda call: functools.reduce(getattr(torch, name), call.tensors())


for _op in _SAME_NAME.split():
    torch_rules.add(_op, _unary(_op.lower()))
for _op, _name in _NAMED.items():
    torch_rules.add(_op, _unary(_name))
for _op, _name in _PAIRS.items():
    torch_rules.add(_op, _binary(_name))
for _op, _name in _MANY.items():
    torch_rules.add(_op, _folded(_name))


@torch_rules.register("Identity")
def _identity(call: Call) -> object:
    return call.raw(0)


@torch_rules.register("Mean")
def _mean(call: Call) -> Tensor:
    return functools.reduce(torch.add, call.tensors()) / len(call)


@torch_rules.register("Div")
def _divide(call: Call) -> Tensor:
    left, right = call[0], call[1]
    return torch.div(left, right, rounding_mode=None if left.is_floating_point() or left.is_complex() else "trunc")


@torch_rules.register("Pow")
def _power(call: Call) -> Tensor:
    base, exponent = call[0], call[1]
    if not base.is_floating_point() and not exponent.is_floating_point():
        return torch.pow(base, exponent.clamp(min=0).to(base.dtype))
    return torch.pow(base, exponent).to(base.dtype)


@torch_rules.register("Mod")
def _modulo(call: Call) -> Tensor:
    return (torch.fmod if call.attribute("fmod", 0) else torch.remainder)(call[0], call[1])


@torch_rules.register("BitShift")
def _shift(call: Call) -> Tensor:
    left = call.attribute("direction") == "LEFT"
    made = (torch.bitwise_left_shift if left else torch.bitwise_right_shift)(call[0], call[1])
    return rounded(made, call.kind(0))


@torch_rules.register("Where")
def _where(call: Call) -> Tensor:
    return torch.where(call[0], call[1], call[2])


@torch_rules.register("Cast")
def _cast(call: Call) -> Tensor:
    wanted = DataType(call.attribute("to"))
    if wanted is DataType.STRING:
        raise call.refuse("to strings")
    return rounded(call[0], wanted, saturate=bool(call.attribute("saturate", 1)))


@torch_rules.register("CastLike")
def _cast_like(call: Call) -> Tensor:
    return rounded(call[0], call.kind(1), saturate=bool(call.attribute("saturate", 1)))


@torch_rules.register("BitCast")
def _bit_cast(call: Call) -> Tensor:
    held, wanted = call.kind(0), DataType(call.attribute("to"))
    if any(one.is_float and is_carried(one) for one in (held, wanted)):
        raise call.refuse("of narrow floats")
    return bits_as(call[0], held, wanted)


# ---- activations ---------------------------------------------------------------------------------------------------


def _formula(*ops: str) -> Callable[[Callable[[Tensor, Call], Tensor]], Callable[[Tensor, Call], Tensor]]:
    """Decorator: an activation as a function of its input; the call has the attributes."""

    def keep(function: Callable[[Tensor, Call], Tensor]) -> Callable[[Tensor, Call], Tensor]:
        for op in ops:
            torch_rules.add(op, lambda call: function(call[0], call))
        return function

    return keep


@_formula("LeakyRelu")
def _leaky_relu(x: Tensor, call: Call) -> Tensor:
    return functional.leaky_relu(x, call.attribute("alpha", 0.01))


@_formula("Softsign")
def _softsign(x: Tensor, call: Call) -> Tensor:
    return functional.softsign(x)


@_formula("Mish")
def _mish(x: Tensor, call: Call) -> Tensor:
    return functional.mish(x)


@_formula("HardSwish")
def _hard_swish(x: Tensor, call: Call) -> Tensor:
    return functional.hardswish(x)


@_formula("Softplus")
def _softplus(x: Tensor, call: Call) -> Tensor:
    return torch.logaddexp(x, torch.zeros((), dtype=x.dtype, device=x.device))


@_formula("Elu")
def _elu(x: Tensor, call: Call) -> Tensor:
    return torch.where(x > 0, x, call.attribute("alpha", 1.0) * torch.expm1(x.clamp(max=0)))


@_formula("Celu")
def _celu(x: Tensor, call: Call) -> Tensor:
    alpha = call.attribute("alpha", 1.0)
    return x.clamp(min=0) + alpha * torch.expm1(x.clamp(max=0) / alpha)


@_formula("Selu")
def _selu(x: Tensor, call: Call) -> Tensor:
    alpha = call.attribute("alpha", 1.6732631921768188)
    return call.attribute("gamma", 1.0507010221481323) * torch.where(x > 0, x, alpha * torch.expm1(x.clamp(max=0)))


@_formula("ThresholdedRelu")
def _thresholded(x: Tensor, call: Call) -> Tensor:
    return torch.where(x > call.attribute("alpha", 1.0), x, 0)


@_formula("HardSigmoid")
def _hard_sigmoid(x: Tensor, call: Call) -> Tensor:
    return (call.attribute("alpha", 0.2) * x + call.attribute("beta", 0.5)).clamp(0, 1)


@_formula("Shrink")
def _shrink(x: Tensor, call: Call) -> Tensor:
    bias, bound = call.attribute("bias", 0.0), call.attribute("lambd", 0.5)
    return torch.where(x < -bound, x + bias, torch.where(x > bound, x - bias, 0)).to(x.dtype)


@_formula("Gelu", "com.microsoft::Gelu")
def _gelu(x: Tensor, call: Call) -> Tensor:
    return functional.gelu(x, approximate=call.attribute("approximate", "none"))


@_formula("Swish")
def _swish(x: Tensor, call: Call) -> Tensor:
    return x * torch.sigmoid(call.attribute("alpha", 1.0) * x)


@_formula("com.microsoft::QuickGelu")
def _quick_gelu(x: Tensor, call: Call) -> Tensor:
    return x * torch.sigmoid(call.attribute("alpha", 1.702) * x)


@_formula("com.microsoft::ScaledSiLU")
def _scaled_silu(x: Tensor, call: Call) -> Tensor:
    return x * torch.sigmoid(x) * call.attribute("alpha", 1.0) if "alpha" in call.attributes else functional.silu(x)


@_formula("ScaledTanh", "com.microsoft::ScaledTanh")
def _scaled_tanh(x: Tensor, call: Call) -> Tensor:
    return call.attribute("alpha", 1.0) * torch.tanh(call.attribute("beta", 1.0) * x)


@_formula("Affine")
def _affine(x: Tensor, call: Call) -> Tensor:
    return call.attribute("alpha", 1.0) * x + call.attribute("beta", 0.0)


@_formula("IsInf")
def _is_infinite(x: Tensor, call: Call) -> Tensor:
    below, above = call.attribute("detect_negative", 1), call.attribute("detect_positive", 1)
    return (x == math.inf) & bool(above) | (x == -math.inf) & bool(below)


@torch_rules.register("com.microsoft::BiasGelu")
def _bias_gelu(call: Call) -> Tensor:
    return functional.gelu(call[0] + call[1])


@torch_rules.register("com.microsoft::FastGelu")
def _fast_gelu(call: Call) -> Tensor:
    bias = call.get(1)
    return functional.gelu(call[0] if bias is None else call[0] + bias, approximate="tanh")


@torch_rules.register("com.microsoft::BiasSplitGelu")
def _bias_split_gelu(call: Call) -> Tensor:
    left, right = (call[0] + call[1]).chunk(2, dim=-1)
    return left * functional.gelu(right)


@torch_rules.register("com.microsoft::BiasAdd")
def _bias_add(call: Call) -> Tensor:
    return call[0] + call[1] + call[2]


@torch_rules.register("com.microsoft::GatedAdd")
def _gated_add(call: Call) -> Tensor:
    return call[0] + call[1] * call[2]


@torch_rules.register("SwiGLU")
def _swiglu(call: Call) -> Tensor:
    return _swish(call[0], call) * call[1]


@torch_rules.register("PRelu")
def _prelu(call: Call) -> Tensor:
    """Before opset 7, slopes are one for each channel."""
    x, slope = call[0], call[1]
    if call.opset < 7 and slope.numel() > 1:
        slope = slope.reshape(-1, *[1] * (x.dim() - 2))
    return torch.where(x < 0, x * slope, x)


@torch_rules.register("Clip")
def _clip(call: Call) -> Tensor:
    x = call[0]
    low = call.get(1) if call.opset >= 11 else call.attribute("min")
    high = call.get(2) if call.opset >= 11 else call.attribute("max")
    # Tensors as bounds, since whole numbers beyond what Python's floats hold exactly are legal.
    low, high = (
        one if one is None or isinstance(one, torch.Tensor) else torch.tensor(one, dtype=x.dtype, device=x.device)
        for one in (low, high)
    )
    x = x if low is None else torch.where(x < low, low, x)
    return x if high is None else torch.where(x > high, high, x)


@torch_rules.register("Dropout")
def _dropout(call: Call) -> tuple[Tensor, ...]:
    """A copy, as inference has it; in training, numbers are drawn by torch's generator.

    Before opset 12 nothing says what the mask is in inference; onnxruntime leaves it empty.
    """
    x = call[0]
    if call.opset < 12:
        return x, torch.zeros_like(x, dtype=torch.bool if call.opset >= 10 else x.dtype)
    training, ratio = bool(call.number(2, False)), float(call.number(1, 0.5))
    if not training or ratio == 0:
        return x, torch.ones_like(x, dtype=torch.bool)
    kept = torch.rand_like(x) >= ratio
    return x * kept / (1 - ratio), kept
