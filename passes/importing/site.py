"""One op that is to be imported, where it stands, and what rules write in its place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.calib.solvers.grids import symmetric_scale
from secateur.ir import Graph, Op, Tensor, Value
from secateur.ir.build import emit
from secateur.ir.rules.known import Known
from secateur.ir.rules.table import RuleTable
from secateur.ir.types import ValueType
from secateur.passes.rewriter import remove_unread, replace_value, sweep


@dataclass(frozen=True)
class Codes:
    """Integers with what they stand for: `real = (code - zero) * scale`. `axis` where scales differ along one."""

    value: Value
    scale: Value
    zero: Value | None
    axis: int | None = None


@dataclass
class Desk:
    """What rules share: the types of values, ranges of activations whose scales were computed, notes."""

    types: Mapping[Value, ValueType]
    ranges: Mapping[str, float] = field(default_factory=dict)
    """The largest magnitude of values that were quantized dynamically; of those that are missing nothing is known."""
    static: dict[Value, Value] = field(default_factory=dict)
    """Values that were quantized dynamically, and what stands for them now."""
    dropped: dict[str, None] = field(default_factory=dict)
    """Those whose quantization was dropped."""
    rounded: dict[str, None] = field(default_factory=dict)
    """Weights whose codes were rounded to fewer."""
    names: Counter[str] = field(default_factory=Counter)
    """How many ops were made under a name: runtimes want each once."""


@dataclass(frozen=True)
class Site:
    """An op in its graph."""

    part: Graph
    op: Op
    desk: Desk

    def input(self, port: int) -> Value | None:
        """What the op reads at a port."""
        return self.op.input(port)

    def constant(self, value: Value | None) -> Tensor | None:
        """The tensor behind a value that nobody can override."""
        return self.part.constant(value)

    def rank(self, value: Value | None) -> int | None:
        """Number of axes, where that is known."""
        return Known(self.part, self.desk.types).rank(value)

    def maker(self, value: Value | None) -> Op | None:
        """The op that makes a value, in this graph."""
        return None if value is None or value not in self.part else self.part.producer(value)

    def emit(self, op_type: str, inputs: Sequence[Value | None], attributes: Mapping[str, Any] | None = None) -> Value:
        """Adds an op of one output."""
        made = emit(self.part, op_type, inputs, attributes, like=self.op)
        self.named(made)
        return made.output

    def named(self, op: Op) -> None:
        """Sees to it that no op that was made before has the name of this one."""
        self.desk.names[op.name] += 1
        if self.desk.names[op.name] > 1:
            op.name = f"{op.name}_{self.desk.names[op.name] - 1}"

    def add(self, name: str, array: NDArray[Any]) -> Value:
        """Adds a constant."""
        return self.part.add_constant(name, Tensor(array))

    def codes(self, port: int, axis: int | None = None) -> Codes:
        """The quantized operand at a port, with its scale and zero point at the two after it."""
        value, scale = self.op.inputs[port], self.op.inputs[port + 1]
        assert value is not None
        assert scale is not None
        return Codes(value, scale, self.input(port + 2), axis)

    def real(self, codes: Codes) -> Value:
        """The numbers that codes stand for: one DequantizeLinear for all who read them so."""
        scale, zero, axis = self._parameters(codes)
        for user in self.part.consumers(codes.value):
            if user.key == ("", "DequantizeLinear") and user.inputs == (codes.value, scale, zero):
                return user.output
        inputs = [codes.value, scale] if zero is None else [codes.value, scale, zero]
        attributes = {} if axis is None else {"axis": axis}
        name = f"{codes.value.name}_dequantized"
        made = emit(self.part, "DequantizeLinear", inputs, attributes, outputs=[name], like=self.op)
        self.named(made)
        return made.output

    def quantized(self, real: Value, scale: Value, zero: Value | None) -> Value:
        """The codes of a float value."""
        scale, zero, _ = self._parameters(Codes(real, scale, zero))
        return self.emit("QuantizeLinear", [real, scale] if zero is None else [real, scale, zero])

    def _parameters(self, codes: Codes) -> tuple[Value, Value | None, int | None]:
        """A scale for each index has one axis, and as many zero points; one scale for all has none."""
        scale, zero = self.constant(codes.scale), self.constant(codes.zero)
        if scale is None:
            return codes.scale, codes.zero, codes.axis
        if scale.size == 1:
            return self._shaped(codes.scale, ()), None if codes.zero is None else self._shaped(codes.zero, ()), None
        flat = (scale.size,)
        point = codes.zero if codes.zero is None or zero is None else self._shaped(codes.zero, flat)
        return self._shaped(codes.scale, flat), point, codes.axis

    def _shaped(self, value: Value, shape: tuple[int, ...]) -> Value:
        """A constant in another shape, or repeated to it: the constant itself, or one made for it before."""
        tensor = self.constant(value)
        if tensor is None or tensor.shape == shape:
            return value
        name = f"{value.name}_{'scalar' if not shape else 'list'}"
        made = self.part.get(name)
        if made is not None and made.const is not None and made.const.shape == shape:
            return made
        array = tensor.numpy()
        return self.add(name, array.reshape(shape) if array.size == np.prod(shape) else np.broadcast_to(array, shape))

    def bias(self, codes: Value, scales: Sequence[Value | None], factor: float = 1.0) -> Value | None:
        """An int32 bias as float: codes times the product of scales; None where one of them is no constant."""
        found, factors = self.constant(codes), [self.constant(scale) for scale in scales]
        product = np.full((), factor, np.float64)
        for one in factors:
            if one is None:
                return None
            product = product * one.numpy().astype(np.float64).reshape(-1 if one.size > 1 else ())
        if found is None or factors[0] is None:
            return None
        numbers = (found.numpy().astype(np.float64) * product).astype(factors[0].dtype.numpy)
        return self.add(f"{codes.name}_float", numbers)

    def activation(self, value: Value) -> Value:
        """What stands for a value that was quantized dynamically: a Q/DQ pair of its range, or the value itself."""
        if value in self.desk.static:
            return self.desk.static[value]
        largest = self.desk.ranges.get(value.name) if not self.part.is_body else None
        if largest is None:
            self.desk.dropped[value.name] = None
            return value
        scale = self.add(f"{value.name}_scale", symmetric_scale(largest, np.dtype(np.float32)))
        zero = self.add(f"{value.name}_zero", np.zeros((), np.int8))
        made = self.real(Codes(self.quantized(value, scale, zero), scale, zero))
        self.desk.static[value] = made
        return made

    def replace(self, new: Value, op: Op | None = None, *, rename: bool = True) -> None:
        """Who read the first output of the op (or of another) reads `new`; what nobody needs then goes.

        `rename` is for values that were made for this: the old name passes on to them.
        """
        old = self.op if op is None else op
        inputs = [value for value in old.inputs if value is not None]
        replace_value(self.part, old.output, new, rename=rename and self.part.producer(new) is not None)
        sweep(self.part, old)
        for value in inputs:
            remove_unread(self.part, value)


ImportRule: TypeAlias = Callable[[Site], "str | None"]

import_rules: RuleTable[ImportRule] = RuleTable(
    "how is what it computes written with QuantizeLinear and DequantizeLinear around float operators?"
)
"""A rule rewrites the op and returns None, or changes nothing and says why."""
