"""Which ops of a graph compute in 16 bits: by rules, by what constants and activations allow, by the fewest Casts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from secateur.ir import DataType, Graph, Op, TensorType, Value
from secateur.ir.onnx_signatures import Signature, signature
from secateur.ir.rules.known import Known
from secateur.passes.precision.cut import FLOAT32, LOWER, Cut
from secateur.passes.precision.limits import is_scale, misfit
from secateur.passes.precision.rules import Side, Verdict, precision_rules

_UNKNOWN = Verdict(Side.KEPT, "no rule says that it may")
_ASKED = Verdict(Side.KEPT, "it was asked for")


@dataclass
class Decision:
    """What is to be computed in which type.

    Attributes:
        known: the graph with the types of its values.
        dtype: float16 or bfloat16.
        keep: names or types of ops that the user wants in float32.
        converted: whether inputs and outputs of the graph change their types too.
        kept: ops with the reason why they stay in float32, by rule or by need.
        lower: ops that compute in 16 bits, once `settle` has been called.
    """

    known: Known
    dtype: DataType
    keep: frozenset[str] = frozenset()
    converted: bool = False
    kept: dict[Op, str] = field(default_factory=dict)
    lower: set[Op] = field(default_factory=set)
    _sides: dict[Op, Side] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.opset = self.graph.header.opset() or 0
        for op in self.graph.ops():
            if self.is_float_op(op):
                verdict = self._verdict(op)
                self._sides[op] = verdict.side
                if verdict.side is Side.KEPT:
                    self.kept[op] = verdict.reason

    @property
    def graph(self) -> Graph:
        """The graph itself."""
        return self.known.graph

    def is_float32(self, value: Value | None) -> bool:
        """Whether a value is known to be of float32."""
        return value is not None and self._kind(value) is DataType.FLOAT32

    def _kind(self, value: Value) -> DataType | None:
        """The element type; UNDEFINED for what is no tensor, None where nothing is known."""
        kind = self.known.types.get(value, value.type)
        if isinstance(kind, TensorType):
            return kind.dtype or None
        return None if kind is None else DataType.UNDEFINED

    def is_float_op(self, op: Op) -> bool:
        """Whether an op reads or makes float32, or may do so."""
        return any(self.is_float32(value) for value in (*op.inputs, *op.outputs, *self.graph.captures(op)))

    def takes(self, op: Op, port: int, *, output: bool = False) -> bool:
        """Whether ONNX lets a port be of 16 bits."""
        known = self._signature(op)
        if known is None:
            return False
        return self.dtype in (known.output(port) if output else known.input(port)).types

    def activations(self) -> list[str]:
        """The names of the values whose ranges matter: those between ops that may come to compute in 16 bits."""
        ops = [op for op, side in self._sides.items() if side is not Side.KEPT]
        values = {value for op in ops for value in (*op.inputs, *op.outputs) if self.is_float32(value)}
        names = {value.name for value in values if value is not None and value.const is None and value in self.graph}
        return sorted(names)

    def exclude(self, magnitudes: Mapping[str, float], limit: float) -> None:
        """Keeps ops in float32 that read or make a value which gets larger than `limit`."""
        for op, side in self._sides.items():
            sizes = [magnitudes.get(value.name, 0.0) for value in (*op.inputs, *op.outputs) if value is not None]
            if side is not Side.KEPT and max(sizes, default=0.0) > limit:
                self._sides[op] = Side.KEPT
                self.kept[op] = "its activations leave the range on the calibration data"

    def settle(self) -> None:
        """Gives every op its side, so that the fewest Casts are needed."""
        cut, fixed = Cut(), {Side.KEPT: FLOAT32, Side.LOWER: LOWER, Side.FREE: None}
        nodes = {op: cut.node(op, fixed[side]) for op, side in self._sides.items()}
        for value in list(self.graph.values()):
            if value.const is None and self.is_float32(value):
                cut.value(self._maker(value, nodes), self._readers(value, nodes))
        free = [op for op, side in self._sides.items() if side is Side.FREE]
        float32 = cut.float32(free)
        self.lower = {op for op, side in self._sides.items() if side is Side.LOWER}
        self.lower |= {op for op in free if op not in float32}

    def _maker(self, value: Value, nodes: Mapping[Op, int]) -> int:
        maker = self.graph.producer(value)
        if maker is None:
            return LOWER if self.converted else FLOAT32
        return nodes[maker] if self.takes(maker, maker.outputs.index(value), output=True) else FLOAT32

    def _readers(self, value: Value, nodes: Mapping[Op, int]) -> Iterator[int]:
        for op, port in self.graph.uses(value):
            yield nodes[op] if self.takes(op, port) else FLOAT32
        if any(value in body.captured() for op in self.graph.consumers(value) for body in op.bodies()):
            yield FLOAT32
        if value in self.graph.outputs:
            yield LOWER if self.converted else FLOAT32

    def _signature(self, op: Op) -> Signature | None:
        return None if op.key[0] else signature(op, self.opset)

    def _verdict(self, op: Op) -> Verdict:
        if op.op_type in self.keep or op.name in self.keep:
            return _ASKED
        rule = precision_rules.get(op)
        verdict = _UNKNOWN if rule is None or op.bodies() else rule(self.known, op)
        if verdict.side is Side.KEPT:
            return verdict
        if (reason := self._refusal(op)) is not None:
            return Verdict(Side.KEPT, reason)
        return verdict

    def _refusal(self, op: Op) -> str | None:
        """What speaks against an op that a rule has nothing against."""
        if any(value is not None and self._kind(value) is None for value in (*op.inputs, *op.outputs)):
            return "the type of what it reads or makes is not known"
        ports = [port for port, value in enumerate(op.inputs) if self.is_float32(value)]
        made = [port for port, value in enumerate(op.outputs) if self.is_float32(value)]
        taken = [port for port in ports if self.takes(op, port)]
        given = [port for port in made if self.takes(op, port, output=True)]
        if (ports and not taken) or (made and not given):
            return f"ONNX has it in {self.dtype.short} from a later opset on, if at all"
        for port in taken:
            tensor = self.graph.constant(op.input(port))
            reason = None if tensor is None else misfit(tensor, self.dtype, scale=is_scale(op, port))
            if reason is not None:
                return reason
        return None
