"""Ops that treat every element alike: axes pass, broadcast operands agree."""

from __future__ import annotations

from secateur.ir.dims.algebra import Layout
from secateur.ir.dims.axes import Axes, Layouts, dims_rules
from secateur.ir.dims.rules.agreement import fit

ONE_OPERAND = """
    Abs Acos Acosh Asin Asinh Atan Atanh BitCast BitwiseNot Cast Ceil Celu Clip Cos Cosh Elu Erf Exp Floor Gelu
    HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign
    Sin Sinh Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu com.microsoft::FastGelu com.microsoft::Gelu
    com.microsoft::QuickGelu com.microsoft::ScaledSiLU
""".split()
"""Functions of each element."""
BROADCAST = """
    Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod
    Mul Or PRelu Pow Sub Sum SwiGLU Where Xor com.microsoft::BiasAdd com.microsoft::BiasGelu com.microsoft::GatedAdd
""".split()
"""Functions of elements that meet."""


@dims_rules.register(*ONE_OPERAND)
def one_operand(axes: Axes) -> None:
    """The output has the axes of the first input; bounds and biases beside it broadcast."""
    fit(axes, axes.input(0), *(axes.input(port) for port in range(1, len(axes.op.inputs)) if axes.has(port)))
    axes.output(axes.input(0))


@dims_rules.register("CastLike")
def cast_like(axes: Axes) -> None:
    """The second input only says to which type."""
    axes.output(axes.input(0))


@dims_rules.register("Dropout")
def dropout(axes: Axes) -> None:
    """In inference a copy; the mask has the same axes."""
    training = axes.constant(2)
    if axes.has(2) and (training is None or training.any()):
        for layout in axes.input(0):
            axes.inexact(layout, "draws a number for each index")
    axes.output(axes.input(0))
    axes.output(axes.input(0), 1)


@dims_rules.register("RandomNormalLike", "RandomUniformLike", "Bernoulli")
def draw_like(axes: Axes) -> None:
    """A number is drawn for each element: with fewer elements, others are drawn."""
    for layout in axes.input(0):
        axes.inexact(layout, "draws a number for each index")
    axes.output(axes.input(0))


@dims_rules.register("RandomNormal", "RandomUniform")
def draw(axes: Axes) -> None:
    """As many numbers as told."""
    for layout in axes.fresh_output():
        axes.inexact(layout, "draws a number for each index")


@dims_rules.register(*BROADCAST)
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
