"""What absorbs zeros: the table by which all that is made of a slice is seen to vanish where it reads as zero."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from secateur.ir.dims.rules.pointwise import BROADCAST, ONE_OPERAND
from secateur.ir.node import Op, Value
from secateur.ir.rules.known import Known
from secateur.ir.rules.table import RuleTable


class Fate(Enum):
    """What becomes of a value."""

    ZERO = "all its elements are zero"
    EMPTY = "it has no elements"
    SIZES = "it is computed from the shape of something that is zero or empty"


Outcome: TypeAlias = Fate | tuple[Value, ...] | None
"""What an op makes then: the fate of its outputs; the inputs that it still has, of which one alone is what it makes; or
None where the table does not tell."""


@dataclass(frozen=True)
class Fading:
    """An op some of whose inputs have a fate."""

    known: Known
    op: Op
    fates: Mapping[Value, Fate]

    def fate(self, port: int) -> Fate | None:
        """The fate of an input; None where it lives on."""
        value = self.op.input(port)
        return None if value is None else self.fates.get(value)

    @property
    def all(self) -> set[Fate]:
        """The fates among its inputs."""
        return {fate for port in range(len(self.op.inputs)) if (fate := self.fate(port)) is not None}

    @property
    def others(self) -> tuple[Value, ...]:
        """The inputs that live on."""
        return tuple(value for value in self.op.inputs if value is not None and value not in self.fates)

    def only(self, *ports: int) -> bool:
        """No input but these has a fate."""
        return all(port in ports for port, value in enumerate(self.op.inputs) if value in self.fates)

    def fits(self, value: Value) -> bool:
        """True where an input has the shape of the output."""
        mine, made = self.known.shape(value), self.known.shape(self.op.output)
        return mine is not None and mine == made and None not in mine

    def size(self, port: int, axis: int) -> int:
        """The size of an axis; 0 where it is not known."""
        return self.known.size(self.op.input(port), axis) or 0


VanishRule: TypeAlias = Callable[[Fading], Outcome]

vanish_rules: RuleTable[VanishRule] = RuleTable("what does it make of zeros, and of nothing?")
_register = vanish_rules.register

_ZERO_AT_ZERO = """
    Abs Asin Asinh Atan Atanh Cast Ceil Elu Erf Floor Gelu HardSwish Identity LeakyRelu Mish Neg Relu Round Selu Sign
    Sin Sinh Softsign Sqrt Swish Tan Tanh com.microsoft::FastGelu com.microsoft::Gelu com.microsoft::QuickGelu
""".split()
_ELSEWHERE = "DequantizeLinear LayerNormalization LogSoftmax QuantizeLinear RMSNormalization Softmax".split()


@_register(*_ZERO_AT_ZERO)
def of_zero(fading: Fading) -> Outcome:
    """Zero stays zero, where nothing is added before."""
    return fading.fate(0) if not fading.others or fading.fate(0) is Fate.EMPTY else None


@_register(*({*ONE_OPERAND, *_ELSEWHERE} - {*_ZERO_AT_ZERO}))
def of_nothing(fading: Fading) -> Outcome:
    """What has no elements has none afterwards."""
    return Fate.EMPTY if fading.fate(0) is Fate.EMPTY and fading.only(0) else None


@_register(*"Expand Flatten Reshape Slice Split Squeeze Tile Transpose Unsqueeze".split())
def arranged(fading: Fading) -> Outcome:
    """The same elements otherwise; shapes that are measured of what goes beside may go with it."""
    beside = {fading.fate(port) for port in range(1, len(fading.op.inputs))}
    return fading.fate(0) if beside <= {Fate.SIZES, None} else None


@_register("Gather", "GatherElements", "GatherND")
def picked(fading: Fading) -> Outcome:
    """Elements of zeros; no element where no position is given."""
    if fading.fate(1) is Fate.EMPTY:
        return Fate.EMPTY
    return fading.fate(0) if fading.only(0) else None


@_register("ScatterElements", "Scatter", "ScatterND")
def written(fading: Fading) -> Outcome:
    """The data, where nothing is written to it, or zeros are added."""
    fates = {fading.fate(1), fading.fate(2)}
    adds = fading.op.attribute("reduction", "none") == "add"
    absent = Fate.EMPTY in fates or (adds and fates == {Fate.ZERO, None} and fading.fate(2) is Fate.ZERO)
    data = fading.op.inputs[0]
    return (data,) if data is not None and absent and fading.fate(0) is None else None


@_register("NonZero")
def positions(fading: Fading) -> Outcome:
    """Zeros have no positions."""
    return Fate.EMPTY if fading.fate(0) is not Fate.SIZES else None


@_register("Compress")
def compressed(fading: Fading) -> Outcome:
    """Nothing is kept where no condition holds."""
    return Fate.EMPTY if fading.fate(1) in (Fate.ZERO, Fate.EMPTY) else None


@_register("Shape", "Size")
def measured(fading: Fading) -> Outcome:
    """A size of something that goes: whoever reads it must go, too."""
    return Fate.SIZES if fading.fate(0) is not Fate.SIZES else None


@_register("Equal", *(set(BROADCAST) - {"Add", "And", "Div", "Mul", "Sub", "Sum", "Where"}))
def combined(fading: Fading) -> Outcome:
    """Nothing beside something is nothing."""
    if Fate.EMPTY in fading.all:
        return Fate.EMPTY
    return Fate.SIZES if fading.all == {Fate.SIZES} else None


@_register("And", "Mul")
def multiplied(fading: Fading) -> Outcome:
    """Zero times anything is zero."""
    return Fate.ZERO if Fate.ZERO in fading.all and Fate.EMPTY not in fading.all else combined(fading)


@_register("Div")
def divided(fading: Fading) -> Outcome:
    """Zero divided by anything is zero."""
    return Fate.ZERO if fading.fate(0) is Fate.ZERO and fading.only(0) else combined(fading)


@_register("Add", "Sub", "Sum")
def added(fading: Fading) -> Outcome:
    """Zeros leave the other operands as they are, where one of these has the shape of the sum already."""
    if fading.all != {Fate.ZERO}:
        return combined(fading)
    others = fading.others
    if not others:
        return Fate.ZERO
    if not any(map(fading.fits, others)) or (fading.op.op_type == "Sub" and fading.fate(0) is not None):
        return None
    # Uses of constants are known by their port, which would change.
    return others if len(others) == 1 or all(fading.known.constant(value) is None for value in others) else None


@_register("Where")
def chosen(fading: Fading) -> Outcome:
    """The second operand where no condition holds."""
    other = fading.op.inputs[2]
    if fading.fate(0) is Fate.ZERO and fading.only(0) and other is not None:
        zeros = fading.known.constant(other)
        if zeros is not None and not zeros.numpy().any():
            return Fate.ZERO
        return (other,) if fading.fits(other) else None
    return Fate.ZERO if {fading.fate(1), fading.fate(2)} == {Fate.ZERO} and fading.only(1, 2) else combined(fading)


@_register("Concat")
def joined(fading: Fading) -> Outcome:
    """Zeros, or nothing, if all parts are; shapes are computed of what goes if any part is."""
    if fading.all == {Fate.SIZES}:
        return Fate.SIZES
    if fading.others or Fate.SIZES in fading.all:
        return None
    return Fate.EMPTY if fading.all == {Fate.EMPTY} else Fate.ZERO


@_register("MatMul", "Gemm")
def contracted(fading: Fading) -> Outcome:
    """Zeros where no bias is added; nothing where it is not the axis that is summed over that is empty."""
    op = fading.op
    if not fading.only(0, 1) or Fate.SIZES in fading.all:
        return None
    if Fate.EMPTY in fading.all:
        turned = [op.attribute("transA", 0), op.attribute("transB", 0)]
        depth = [fading.size(0, -2 if turned[0] else -1), fading.size(1, -1 if turned[1] else -2)]
        return Fate.EMPTY if max(depth) > 0 else None
    bias = fading.known.constant(op.input(2))
    return Fate.ZERO if op.input(2) is None or (bias is not None and not bias.numpy().any()) else None


@_register("com.microsoft::MatMulNBits")
def contracted_with_packed(fading: Fading) -> Outcome:
    """As MatMul; the bias comes sixth."""
    first, bias = fading.fate(0), fading.op.input(5)
    if not fading.only(0) or first is Fate.SIZES:
        return None
    return first if first is Fate.EMPTY or bias is None else None


@_register("ReduceSum")
def summed(fading: Fading) -> Outcome:
    """A sum of zeros."""
    return Fate.ZERO if fading.fate(0) is Fate.ZERO and fading.only(0) else None
