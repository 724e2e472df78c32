"""Ops that treat every element alike: axes pass, broadcast operands agree."""

from __future__ import annotations

from secateur.ir.dims.algebra import Layout
from secateur.ir.dims.axes import Axes, Layouts, dims_rules

_ONE_OPERAND = """
    Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Cast Ceil Celu Clip Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid
    HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh
    Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu com.microsoft::QuickGelu com.microsoft::FastGelu
"""
_BROADCAST = """
    Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod
    Mul Or PRelu Pow Sub Sum Where Xor com.microsoft::BiasGelu
"""


@dims_rules.register(*_ONE_OPERAND.split())
def one_operand(axes: Axes) -> None:
    """The output has the axes of the first input; bounds and biases beside it broadcast."""
    for port in range(1, len(axes.op.inputs)):
        if axes.has(port):
            _agree(axes, axes.input(0), axes.input(port))
    axes.output(axes.input(0))


@dims_rules.register("Dropout")
def dropout(axes: Axes) -> None:
    """In inference a copy; the mask has the same axes."""
    axes.output(axes.input(0))
    axes.output(axes.input(0), 1)


@dims_rules.register(*_BROADCAST.split())
def broadcast(axes: Axes) -> None:
    """Axes are aligned from the right; those of size one give way."""
    operands = [axes.input(port) for port in range(len(axes.op.inputs)) if axes.has(port)]
    axes.output(broadcast_layouts(axes, operands))


def broadcast_layouts(axes: Axes, operands: list[Layouts]) -> Layouts:
    """The axes of operands broadcast together, unified where several have one."""
    rank = max(map(len, operands))
    result: list[Layout] = [()] * rank
    for operand in operands:
        for axis, layout in enumerate(operand, start=rank - len(operand)):
            if layout and result[axis]:
                axes.unify(result[axis], layout)
            result[axis] = result[axis] or layout
    return result


def _agree(axes: Axes, wide: Layouts, narrow: Layouts) -> None:
    for mine, theirs in zip(reversed(wide), reversed(narrow), strict=False):
        if mine and theirs:
            axes.unify(mine, theirs)
