"""What a resize rule works with, and the table of these rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from secateur.ir.dims.algebra import Dim, Indices, Layout, find, indices, leaves
from secateur.ir.dims.analysis import Dimensions
from secateur.ir.dims.axes import Layouts, Place, Use
from secateur.ir.graph import Graph
from secateur.ir.node import Op
from secateur.ir.rules.table import RuleTable
from secateur.ir.tensor import Tensor


class Resizing:
    """The graph, what was found of it, and what of its dimensions is kept: all that a resize rule works with."""

    def __init__(self, graph: Graph, dimensions: Dimensions, kept: Mapping[Dim, Indices]) -> None:
        self.graph = graph
        self.dimensions = dimensions
        self.kept = kept
        self._inside: dict[Dim, Indices] = {}
        self._loses: dict[Dim, bool] = {}

    def input(self, op: Op, port: int) -> Layouts:
        """The layouts at an input port, as they were found."""
        value = op.inputs[port]
        assert value is not None
        use = Use(op, port)
        return self.dimensions.layouts[use if use in self.dimensions.layouts else value]

    def output(self, op: Op, port: int = 0) -> Layouts:
        """The layouts of an output, as they were found."""
        value = op.outputs[port]
        assert value is not None
        return self.dimensions.layouts[value]

    def indices(self, layout: Layout) -> Indices:
        """Which indices of an axis stay.

        Raises:
            ValueError: the size of a dimension is not known.
        """
        roots = [find(dim) for dim in layout]
        for dim in roots:
            if dim not in self._inside:
                self._inside[dim] = indices((dim,), self.kept)
        if len(roots) == 1:
            return self._inside[roots[0]]
        return indices(roots, self._inside)

    def size(self, layout: Layout) -> int | None:
        """The new size of an axis; None where it is not known."""
        known = all(find(dim).size is not None for dim in layout)
        return math.prod(len(self.indices((dim,))) for dim in layout) if known else None

    def shrinks(self, layout: Layout) -> bool:
        """True where indices of an axis go."""
        return any(self._shrinks(find(dim)) for dim in layout)

    def _shrinks(self, dim: Dim) -> bool:
        found = self._loses.get(dim)
        if found is None:
            found = self._loses[dim] = any(leaf in self.kept for leaf in leaves((dim,)))
        return found

    def touches(self, place: Place) -> bool:
        """True where indices of an axis of a value, or of a use of a constant, go."""
        return any(map(self.shrinks, self.dimensions.layouts.get(place, ())))

    def blocks(self, layout: Layout, count: int) -> int:
        """An axis was `count` blocks of one size (heads, groups): how many of them have an index left."""
        width = math.prod(find(dim).size or 1 for dim in layout) // count
        return len(set((self.indices(layout) // width).tolist()))

    def name(self, layout: Layout) -> str:
        """The groups that an axis is made of, for messages."""
        from secateur.ir.dims.groups import groups

        inside = set(leaves(layout))
        return ", ".join(group.name for group in groups(self.dimensions) if group.dim in inside)

    def constant(self, op: Op, port: int) -> list[int] | None:
        """The whole numbers at a port where they are constant."""
        tensor = self.graph.constant(op.input(port))
        return None if tensor is None else [int(number) for number in tensor.numpy().reshape(-1)]

    def set_constant(self, op: Op, port: int, numbers: list[int]) -> None:
        """Gives an op other numbers at a port, in a constant of its own unless nothing else reads the present one."""
        value = op.inputs[port]
        assert value is not None
        assert value.const is not None
        array = np.array(numbers, value.const.dtype.numpy)
        tensor = Tensor(array.reshape(value.const.shape) if len(numbers) == value.const.size else array)
        if tensor.equals(value.const):
            return
        if self.graph.consumers(value) == [op] and op.inputs.count(value) == 1 and value not in self.graph.outputs:
            value.set_const(tensor)
            return
        own = self.graph.add_constant(value.name, tensor)
        self.graph.set_inputs(op, [own if at == port else old for at, old in enumerate(op.inputs)])

    def set_attribute(self, op: Op, name: str, value: Any) -> None:
        """Sets an attribute unless it says the same already."""
        if op.attribute(name) != value:
            self.graph.set_attribute(op, name, value)


ResizeRule: TypeAlias = Callable[[Resizing, Op], None]

resize_rules: RuleTable[ResizeRule] = RuleTable(
    "what of its attributes and shape constants follows when an axis shrinks?"
)
