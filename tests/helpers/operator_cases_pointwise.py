"""Graphs for the operators that treat every element alike: a linear map, the operator, another linear map."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from helpers.operator_net import Cases, Net

from secateur.ir import DataType, Value

CASES = Cases()
Step = Callable[[Net, Value], Value]


def _plain(net: Net, value: Value) -> Value:
    return value


def _positive(net: Net, value: Value) -> Value:
    return net.op("Add", net.op("Exp", value), net.weight(7, low=1.0))


def _unit(net: Net, value: Value) -> Value:
    return net.op("Mul", net.op("Tanh", value), net.weight(7, low=-0.5))


def _truth(net: Net, value: Value) -> Value:
    return net.op("Greater", value, net.weight(7))


def _whole(net: Net, value: Value) -> Value:
    return net.cast(net.op("Mul", value, net.const([5.0], np.float32)), DataType.INT32)


def _bits(net: Net, value: Value) -> Value:
    return net.cast(net.op("Abs", _whole(net, value)), DataType.UINT8)


def _number(net: Net, value: Value) -> Value:
    return net.cast(value, DataType.FLOAT32)


def _around(step: Step, before: Step = _plain, after: Step = _plain) -> Callable[[Net], Value]:
    def build(net: Net) -> Value:
        value = before(net, net.dense(net.input(2, 5), 5, 7))
        return net.dense(after(net, step(net, value)), 7, 3)

    return build


def _one(op: str, before: Step = _plain, after: Step = _plain, **options: object) -> None:
    def step(net: Net, value: Value) -> Value:
        return net.op(op, value)

    CASES.add(op, _around(step, before, after), [7], **options)


_ANYWHERE = """
    Abs Asinh Atan Ceil Celu Clip Cos Cosh Dropout Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity LeakyRelu Mish
    Neg Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Tan Tanh ThresholdedRelu com.microsoft::FastGelu
    com.microsoft::Gelu com.microsoft::QuickGelu com.microsoft::ScaledSiLU
"""
for _name in _ANYWHERE.split():
    _one(_name)
for _name in ("Log", "Reciprocal", "Sqrt", "Acosh"):
    _one(_name, _positive)
for _name in ("Acos", "Asin", "Atanh"):
    _one(_name, _unit)
for _name in ("IsInf", "IsNaN"):
    _one(_name, after=_number)
_one("Not", _truth, _number)
_one("BitwiseNot", _whole, _number)
_one("Swish", opset=24)


@CASES.case("Clip", [7], opset=13)
def clip__bounds(net: Net) -> Value:
    low, high = net.const(-0.5, np.float32), net.const(0.5, np.float32)
    return _around(lambda net, value: net.op("Clip", value, low, high))(net)


@CASES.case("Clip", [7], opset=9)
def clip__attributes(net: Net) -> Value:
    return _around(lambda net, value: net.op("Clip", value, min=-0.5, max=0.5))(net)


@CASES.case("Cast", [7])
def cast(net: Net) -> Value:
    return _around(lambda net, value: net.cast(value, DataType.INT32), after=_number)(net)


@CASES.case("CastLike", [7])
def cast_like(net: Net) -> Value:
    return _around(lambda net, value: net.op("CastLike", value, net.const([3])), after=_number)(net)


@CASES.case("BitCast", [7], opset=26)
def bit_cast(net: Net) -> Value:
    def step(net: Net, value: Value) -> Value:
        return net.op("BitCast", net.op("BitCast", value, to=int(DataType.INT32)), to=int(DataType.FLOAT32))

    return _around(step)(net)


@CASES.case("com.microsoft::FastGelu", [7])
def fast_gelu__bias(net: Net) -> Value:
    return _around(lambda net, value: net.op("com.microsoft::FastGelu", value, net.weight(7)))(net)


@CASES.case("Dropout", [7], opset=11)
def dropout__mask(net: Net) -> Value:
    def step(net: Net, value: Value) -> Value:
        kept, mask = net.ops("Dropout", 2, value, ratio=0.3)
        return net.op("Where", mask, kept, net.const(0.0, np.float32))

    return _around(step)(net)


@CASES.case("Dropout", inexact=[7], runs="")
def dropout__training(net: Net) -> Value:
    ratio, training = net.const(0.3, np.float32), net.const(True, np.bool_)
    return _around(lambda net, value: net.op("Dropout", value, ratio, training))(net)


# ---- two operands --------------------------------------------------------------------------------------------------


def _two(op: str, before: Step = _plain, after: Step = _plain, **options: object) -> None:
    """One operand from a linear map, one of a weight for each column, and one from another linear map."""

    def build(net: Net) -> Value:
        data = net.input(2, 5)
        left, right = (before(net, net.dense(data, 5, 7)) for _ in range(2))
        if op in _CLOSED:
            left = net.op(op, left, before(net, net.weight(1, 7)))
        return net.dense(after(net, net.op(op, left, right)), 7, 3)

    CASES.add(op, build, [7], **options)


_CLOSED = frozenset("Add And BitwiseAnd BitwiseOr BitwiseXor Max Mean Min Mod Mul Or Sub Sum Xor".split())
for _name in "Add Max Mean Min Mul PRelu Sub Sum".split():
    _two(_name)
_two("Div", _positive)
for _name in "Equal Greater GreaterOrEqual Less LessOrEqual".split():
    _two(_name, after=_number)
for _name in ("And", "Or", "Xor"):
    _two(_name, _truth, _number)
for _name in ("BitwiseAnd", "BitwiseOr", "BitwiseXor"):
    _two(_name, _whole, _number)


@CASES.case("Mod", [7])
def modulo(net: Net) -> Value:
    row = net.weight(7, low=1.0)
    return _around(lambda net, value: net.op("Mod", value, row, fmod=1))(net)


@CASES.case("Pow", [7])
def power(net: Net) -> Value:
    return _around(lambda net, value: net.op("Pow", value, net.weight(7, low=0.5)), _positive)(net)


@CASES.case("BitShift", [7])
def shift(net: Net) -> Value:
    row = net.const([0, 1, 2, 3, 1, 2, 1], np.uint8)
    return _around(lambda net, value: net.op("BitShift", value, row, direction="LEFT"), _bits, _number)(net)


@CASES.case("Where", [7])
def where(net: Net) -> Value:
    return _around(lambda net, value: net.op("Where", _truth(net, value), value, net.weight(1, 7)))(net)


@CASES.case("SwiGLU", [7], opset=28, runs="reference")
def swiglu(net: Net) -> Value:
    data = net.input(2, 5)
    return net.dense(net.op("SwiGLU", net.dense(data, 5, 7), net.dense(data, 5, 7)), 7, 3)


@CASES.case("com.microsoft::BiasGelu", [7])
def bias_gelu(net: Net) -> Value:
    return _around(lambda net, value: net.op("com.microsoft::BiasGelu", value, net.weight(7)))(net)


@CASES.case("com.microsoft::BiasAdd", [7], runs="")
def bias_add(net: Net) -> Value:
    data = net.input(2, 4, 5)
    left, right = net.dense(data, 5, 7), net.dense(data, 5, 7)
    return net.dense(net.op("com.microsoft::BiasAdd", left, net.weight(7), right), 7, 3)


@CASES.case("com.microsoft::GatedAdd", [7])
def gated_add(net: Net) -> Value:
    data = net.input(2, 5)
    left, right, gate = net.dense(data, 5, 7), net.dense(data, 5, 7), net.dense(data, 5, 1)
    return net.dense(net.op("com.microsoft::GatedAdd", left, right, gate), 7, 3)


# ---- drawn at random -----------------------------------------------------------------------------------------------

for _name in ("RandomNormalLike", "RandomUniformLike"):
    _drawn = _around(lambda net, value, name=_name: net.op("Add", value, net.op(name, value, seed=1.0)))
    CASES.add(_name, _drawn, (), [7])
CASES.add(
    "Bernoulli", _around(lambda net, value: net.op("Bernoulli", net.op("Sigmoid", value), seed=1.0)), (), [7], runs=""
)
for _name in ("RandomNormal", "RandomUniform"):
    _drawn = _around(lambda net, value, name=_name: net.op("Add", value, net.op(name, shape=[2, 7], seed=1.0)))
    CASES.add(_name, _drawn, (), [7])
