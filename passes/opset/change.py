"""What a rule for one operator is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from numpy.typing import ArrayLike

from secateur.ir import Graph, Op, Value
from secateur.ir.build import add_constant
from secateur.ir.rules.known import Known
from secateur.ir.types import DataType, TensorType


@dataclass(frozen=True)
class Place:
    """The graph that an op lies in, and what is known of the model as it was.

    Attributes:
        graph: the model, or a body in it.
        opset: that the model comes from.
    """

    graph: Graph
    opset: int
    _seen: list[Known] = field(default_factory=list)

    def inside(self, part: Graph) -> Place:
        """The same model, another graph in it."""
        return replace(self, graph=part)

    @property
    def known(self) -> Known:
        """Shapes, inferred where a rule asks for the first time; ask while refusing is possible still."""
        from secateur.ir.onnx_shapes import infer

        if not self._seen:
            root = self.graph.root
            self._seen.append(Known(root, infer(root)))
        return self._seen[0]

    def dtype(self, value: Value | None) -> DataType | None:
        """The element type of a value, None where it is not known."""
        if value is None:
            return None
        found = value.const.dtype if value.const is not None else None
        kind = value.type if isinstance(value.type, TensorType) else self.known.types.get(value)
        return kind.dtype if found is None and isinstance(kind, TensorType) else found

    def constant(self, op: Op, name: str, array: ArrayLike, dtype: DataType | None = None) -> Value:
        """A constant that is named after the op that is to read it."""
        return add_constant(self.graph, f"{op.output.name}_{name}", array, dtype)

    def integers(self, op: Op, name: str, numbers: Iterable[int]) -> Value:
        """A list of 64-bit integers."""
        return self.constant(op, name, list(map(int, numbers)), DataType.INT64)


def nothing(place: Place, op: Op) -> None:
    """Ops that are refused wherever they cannot stay as they are."""


@dataclass(frozen=True)
class Change:
    """What became of an operator in one opset.

    Attributes:
        since: this opset.
        rewrite: changes an op to mean from then on what it meant before.
        refusal: why it cannot be done to an op, or None.
    """

    since: int
    rewrite: Callable[[Place, Op], None] = nothing
    refusal: Callable[[Place, Op], str | None] = lambda place, op: None
