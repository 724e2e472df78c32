"""What rules may ask of a graph: its constants, and the shapes that are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from secateur.ir.graph import Graph
from secateur.ir.node import Value
from secateur.ir.tensor import Tensor
from secateur.ir.types import Dim, TensorType, ValueType


@dataclass(frozen=True, slots=True)
class Known:
    """A graph together with what shape inference says of its values; without it, with what the file says."""

    graph: Graph
    types: Mapping[Value, ValueType] = field(default_factory=dict)

    def constant(self, value: Value | None) -> Tensor | None:
        """The tensor behind a value that nobody can override, or None."""
        return self.graph.constant(value)

    def shape(self, value: Value | None) -> tuple[Dim, ...] | None:
        """The shape, with names or None for sizes that are not known; None where even the rank is not."""
        found = self.types.get(value, value.type) if value is not None else None
        return found.shape if isinstance(found, TensorType) else None

    def rank(self, value: Value | None) -> int | None:
        """Number of axes, or None."""
        shape = self.shape(value)
        return None if shape is None else len(shape)

    def size(self, value: Value | None, axis: int) -> int | None:
        """The size of one axis where it is a number."""
        shape = self.shape(value)
        size = None if shape is None or not -len(shape) <= axis < len(shape) else shape[axis]
        return size if isinstance(size, int) else None
