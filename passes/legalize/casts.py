"""Inputs of one operator that ONNX wants in one floating-point type, and that are in several, meet in the widest.

Such a model is no valid ONNX and runs nowhere; tools that convert only a part of the weights write it. Widening is
exact, so constants are converted in their place, and everything else gets a Cast.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from secateur.ir import DataType, Graph, Op, Tensor, TensorType, Value
from secateur.ir.build import emit
from secateur.ir.onnx_signatures import Signature, signature
from secateur.ir.types import ValueType
from secateur.passes.context import Context
from secateur.passes.rewriter import remove_unread

_CAST = 6
_WIDE = {DataType.FLOAT16: 1, DataType.BFLOAT16: 1, DataType.FLOAT32: 2, DataType.FLOAT64: 3}


class Casting:
    """Goes through the ops of a body in order, with the element type that each value has by then."""

    def __init__(self, part: Graph, types: Mapping[Value, ValueType], context: Context) -> None:
        self.part, self.context = part, context
        self.opset = part.root.header.opset() or 0
        self.stated = types
        self.changed: dict[Value, DataType] = {}
        self.casts: dict[tuple[Value, DataType], Value] = {}
        self.count = 0

    def run(self) -> int:
        """Returns how many ops were given inputs of one type; none before opset 6, whose Cast is another."""
        if self.opset < _CAST:
            return 0
        for op in self.part.ops():
            known = signature(op, self.opset) if op.key[0] == "" else None
            if known is None or not known.inputs:
                continue
            for ports in _shared(known, op):
                wanted = self._widest(op, ports)
                if wanted is not None and self.context.allow("cast", op):
                    self._widen(op, ports, wanted)
                    self.count += 1
            self._follow(op, known)
        if self.count:
            self._restore_outputs()
        return self.count

    def _dtype(self, value: Value | None) -> DataType | None:
        if value is None:
            return None
        kind = self.stated.get(value, value.type)
        return self.changed.get(value, kind.dtype if isinstance(kind, TensorType) else None)

    def _widest(self, op: Op, ports: list[int]) -> DataType | None:
        """The type to cast to; None where all are of one, or one is not known."""
        found = [self._dtype(op.input(port)) for port in ports]
        if len(set(found)) < 2 or any(kind not in _WIDE for kind in found):
            return None
        top = max(_WIDE[kind] for kind in found if kind is not None)
        wide = {kind for kind in found if kind is not None and _WIDE[kind] == top}
        # float16 and bfloat16 hold different numbers; float32 holds them all.
        return wide.pop() if len(wide) == 1 else DataType.FLOAT32

    def _widen(self, op: Op, ports: list[int], wanted: DataType) -> None:
        inputs = list(op.inputs)
        for port in ports:
            value = inputs[port]
            if value is not None and self._dtype(value) is not wanted:
                inputs[port] = self._cast(value, wanted)
        before = op.inputs
        self.part.set_inputs(op, inputs)
        for value in before:
            if value is not None:
                remove_unread(self.part, value)

    def _cast(self, value: Value, wanted: DataType) -> Value:
        if (value, wanted) not in self.casts:
            tensor = self.part.constant(value)
            if tensor is not None:
                made = self.part.add_constant(value.name, Tensor(tensor.numpy().astype(wanted.numpy)))
                made.metadata = value.metadata
            else:
                name = f"{value.name}_{wanted.short}"
                made = emit(self.part, "Cast", [value], {"to": int(wanted)}, outputs=[name]).output
            self.changed[made] = wanted
            self.casts[value, wanted] = made
        return self.casts[value, wanted]

    def _follow(self, op: Op, known: Signature) -> None:
        """The outputs that are of the type of inputs which were cast, or follow from such ones."""
        for port, value in enumerate(op.outputs):
            variable = known.output(port).variable
            sources = [one for at, one in enumerate(op.inputs) if variable and known.input(at).variable == variable]
            kind = next((found for one in sources if (found := self._dtype(one)) is not None), None)
            if value is not None and kind in _WIDE and kind is not self._dtype(value):
                assert kind is not None
                self.changed[value] = kind
                if isinstance(value.type, TensorType) and value not in self.part.outputs:
                    value.type = replace(value.type, dtype=kind)

    def _restore_outputs(self) -> None:
        """Outputs leave in the type that the file declares."""
        for value in self.part.outputs:
            kind, found, maker = value.type, self.changed.get(value), self.part.producer(value)
            if not isinstance(kind, TensorType) or found is None or found is kind.dtype or maker is None:
                continue
            name = value.name
            cast = emit(self.part, "Cast", [value], {"to": int(kind.dtype)}, like=maker).output
            cast.type, value.type = kind, replace(kind, dtype=found)
            self.part.set_interface(outputs=[cast if one is value else one for one in self.part.outputs])
            self.part.rename(value, self.part.unique_name(f"{name}_{found.short}"))
            self.part.rename(cast, name)


def _shared(known: Signature, op: Op) -> Iterator[list[int]]:
    """The input ports that must be of one type, where there are several and a float could be that type."""
    by_variable: dict[str, list[int]] = {}
    for port, value in enumerate(op.inputs):
        expected = known.input(port)
        if value is not None and expected.variable and expected.types & _WIDE.keys():
            by_variable.setdefault(expected.variable, []).append(port)
    yield from (ports for ports in by_variable.values() if len(ports) > 1)
