"""Ops are given values of the type that they compute in: constants converted, Casts between the two sides."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from secateur.ir import DataType, Graph, Op, Tensor, TensorType, Value
from secateur.ir.build import emit
from secateur.passes.precision.decide import Decision
from secateur.passes.rewriter import remove_unread, replace_value, sweep


@dataclass
class Rewrite:
    """Carries out a decision; `casts` and `constants` count what it took."""

    decision: Decision
    casts: int = 0
    constants: int = 0
    _now: dict[Value, DataType] = field(default_factory=dict)
    _made: dict[tuple[Value, DataType], Value] = field(default_factory=dict)

    @property
    def graph(self) -> Graph:
        """The graph that is rewritten."""
        return self.decision.graph

    def run(self) -> int:
        """Returns how many ops compute in 16 bits now."""
        if not self.decision.lower:
            return 0
        if self.decision.converted:
            for value in self.graph.inputs:
                if self.decision.is_float32(value) and value.const is None:
                    self._retype(value)
        before = self.graph.ops()
        for op in before:
            if op in self.decision.lower:
                self._convert_outputs(op)
            self._convert_inputs(op)
        self._convert_interface()
        for op in before:
            self._skip(op)
        makers = {self.graph.producer(value) for value in self._made.values() if value in self.graph}
        self.casts = len(makers - {None})
        return len(self.decision.lower)

    def _retype(self, value: Value) -> None:
        self._now[value] = self.decision.dtype
        if isinstance(value.type, TensorType):
            value.type = replace(value.type, dtype=self.decision.dtype)

    def _convert_outputs(self, op: Op) -> None:
        for port, value in enumerate(op.outputs):
            if value is not None and self.decision.is_float32(value) and self.decision.takes(op, port, output=True):
                self._now[value] = self.decision.dtype
                if value not in self.graph.outputs and isinstance(value.type, TensorType):
                    value.type = replace(value.type, dtype=self.decision.dtype)
        for name in ("to", "output_dtype"):
            if op.attribute(name, 0) == DataType.FLOAT32:
                self.graph.set_attribute(op, name, int(self.decision.dtype))

    def _convert_inputs(self, op: Op) -> None:
        inputs, before = list(op.inputs), op.inputs
        for port, value in enumerate(before):
            if value is None or not self.decision.is_float32(value):
                continue
            lower = op in self.decision.lower and self.decision.takes(op, port)
            inputs[port] = self._as(value, self.decision.dtype if lower else DataType.FLOAT32)
        if tuple(inputs) != before:
            self.graph.set_inputs(op, inputs)
            for value in before:
                if value is not None:
                    remove_unread(self.graph, value)
        for value in self.graph.captures(op):
            if self._now.get(value) is self.decision.dtype:
                cast = self._as(value, DataType.FLOAT32)
                for body in op.bodies():
                    if value in body.nx:
                        body.replace_all_uses(value, cast)

    def _as(self, value: Value, wanted: DataType) -> Value:
        """The value in a type: itself, a constant, or what a Cast makes of it."""
        if self._now.get(value, DataType.FLOAT32) is wanted:
            return value
        if (value, wanted) not in self._made:
            tensor, name = self.graph.constant(value), f"{value.name}_{wanted.short}"
            if tensor is not None:
                made = self.graph.add_constant(name, Tensor(tensor.numpy().astype(wanted.numpy)))
                made.metadata = value.metadata
                self.constants += 1
            else:
                cast = emit(self.graph, "Cast", [value], {"to": int(wanted)}, outputs=[name])
                cast.name = cast.output.name
                made = cast.output
            self._now[made] = wanted
            self._made[value, wanted] = made
        return self._made[value, wanted]

    def _convert_interface(self) -> None:
        """Outputs leave in the type that they had, or all in 16 bits."""
        wanted = self.decision.dtype if self.decision.converted else DataType.FLOAT32
        for value in self.graph.outputs:
            if not self.decision.is_float32(value) or self.graph.producer(value) is None:
                continue
            kind = value.type
            now = self._now.get(value, DataType.FLOAT32)
            if now is not wanted:
                self._leave_by_cast(value, wanted, now)
            elif isinstance(kind, TensorType):
                value.type = replace(kind, dtype=wanted)

    def _leave_by_cast(self, value: Value, wanted: DataType, now: DataType) -> None:
        cast, name, kind = self._as(value, wanted), value.name, value.type
        self.graph.set_interface(outputs=[cast if one is value else one for one in self.graph.outputs])
        self.graph.rename(value, self.graph.unique_name(f"{name}_{now.short}"))
        self.graph.rename(cast, name)
        if isinstance(kind, TensorType):
            cast.type, value.type = replace(kind, dtype=wanted), replace(kind, dtype=now)

    def _skip(self, op: Op) -> None:
        """A Cast that was there before, and now casts to what it is given, goes; so does one that undoes another."""
        if op not in self.graph or op.key != ("", "Cast"):
            return
        source, wanted = op.inputs[0], DataType(op.attribute("to", 0))
        assert source is not None
        maker = self.graph.producer(source) if source in self.graph else None
        if maker is not None and maker.key == ("", "Cast") and self._type(maker.inputs[0]) is wanted:
            widened = self._type(source) is DataType.FLOAT32 and wanted is self.decision.dtype
            source = maker.inputs[0] if widened else source
        if source is not None and self._type(source) is wanted:
            replace_value(self.graph, op.output, source)
            sweep(self.graph, op)

    def _type(self, value: Value | None) -> DataType | None:
        if value is None:
            return None
        kind = self.decision.known.types.get(value, value.type)
        return self._now.get(value, kind.dtype if isinstance(kind, TensorType) else None)
