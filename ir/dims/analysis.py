"""Every axis of every value as products and sums of dimensions, found in one walk over the ops."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from secateur.ir.dims import rules as _rules
from secateur.ir.dims.algebra import Dim, find, leaves, pin
from secateur.ir.dims.axes import Axes, Layouts, Pick, Place, Unruly, Use, dims_rules
from secateur.ir.dims.boundaries import boundary
from secateur.ir.dims.branches import Branch, Branches, Picks, units
from secateur.ir.dims.mixtures import experts
from secateur.ir.node import Op, Value
from secateur.ir.rules.known import Known

_rules.load()


@dataclass(frozen=True, eq=False)
class Dimensions:
    """What the analysis found: the layouts of all places, and the ops that no rule speaks of, with the reason.

    `picks` are the indices that ops take one by itself, and that may go because all that is made of them goes, too.
    Two are equal if they say the same of the same places: which dimensions are one, which may go, and why not.
    """

    known: Known
    layouts: dict[Place, Layouts]
    boundaries: dict[Op, str]
    picks: tuple[Pick, ...] = ()

    @cached_property
    def branches(self) -> Mapping[Dim, Sequence[Branch]]:
        """For each dimension whose indices are picked one by one what goes with each of these; nothing with some."""
        known, found = Branches(self.known), {}
        for leaf in {leaf: None for pick in self.picks for leaf in leaves(pick.layout) if leaf.pin is None}:
            picked = units(self.picks, leaf)
            found[leaf] = [known.branch(picked.get(index, ())) for index in range(leaf.size or 0)]
        return found

    @cached_property
    def experts(self) -> frozenset[Dim]:
        """Which dimensions are the experts of mixtures."""
        return experts(self.known.graph, self.layouts, self.branches)

    def of(self, place: Place) -> Layouts:
        """The layout of each axis of a value or of one use of a constant."""
        return self.layouts[place]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Dimensions):
            return NotImplemented
        return self.boundaries == other.boundaries and self._statement() == other._statement()

    __hash__ = None  # type: ignore[assignment]

    def _statement(self) -> dict[Place, list[tuple[Hashable, ...]]]:
        numbers: dict[Dim, int] = {}
        return {
            place: [tuple(_shape(dim, numbers) for dim in layout) for layout in layouts]
            for place, layouts in self.layouts.items()
        }


def _shape(dim: Dim, numbers: dict[Dim, int]) -> Hashable:
    """A dimension as nested tuples; leaves by the order in which they are met."""
    dim = find(dim)
    if dim.is_leaf:
        return (numbers.setdefault(dim, len(numbers)), dim.size, dim.pin, dim.inexact)
    return (bool(dim.factors), *(_shape(part, numbers) for part in dim.factors or dim.terms))


def dimensions(known: Known) -> Dimensions:
    """Analyses a graph (bodies are boundaries). Linear in the number of ops."""
    graph = known.graph
    layouts: dict[Place, Layouts] = {}
    symbols: dict[str, Dim] = {}
    boundaries: dict[Op, str] = {}
    picks = Picks(known)
    functions = {(key.domain, key.name) for key in graph.root.functions}
    for value in graph.inputs:
        if graph.constant(value) is None:
            _pin_value(known, value, layouts, symbols, f"{value.name!r} is an input of the model")
    for op in graph.ops():
        axes = Axes(known, op, layouts, symbols, picks)
        try:
            if op.bodies():
                raise Unruly(f"{op} has a body")
            rule = None if op.key in functions else dims_rules.get(op)
            if rule is None:
                raise Unruly(boundary(op))
            rule(axes)
        except Unruly as reason:
            boundaries[op] = str(reason)
            _pin_op(axes, str(reason))
        for made in op.outputs:
            if made is not None and made not in layouts:
                _pin_value(known, made, layouts, symbols, f"{op} says nothing of it")
    for value in graph.outputs:
        if value in layouts:
            _pin_layouts(layouts[value], f"{value.name!r} is an output of the model")
    picks.settle()
    return Dimensions(known, layouts, boundaries, tuple(picks.found))


def _pin_op(axes: Axes, reason: str) -> None:
    """Pins all that an op reads, in its bodies too, and all that it makes."""
    op, known = axes.op, axes.known
    for port, value in enumerate(op.inputs):
        place = axes.place(port)
        if place in axes._layouts:
            _pin_layouts(axes._layouts[place], reason)
        elif value is not None and known.rank(value) is not None:
            _pin_layouts(axes.input(port), reason)
    for value in known.graph.captures(op):
        if value in axes._layouts:
            _pin_layouts(axes._layouts[value], f"{value.name!r} is read inside a body of {op}")
    for value in op.outputs:
        if value is not None:
            _pin_value(known, value, axes._layouts, axes._symbols, reason)


def _pin_value(known: Known, value: Value, layouts: dict[Place, Layouts], symbols: dict[str, Dim], reason: str) -> None:
    if value not in layouts:
        axes = Axes(known, Op("", (), ()), layouts, symbols)
        layouts[value] = [] if known.rank(value) is None else axes.fresh(value)
    _pin_layouts(layouts[value], reason)


def _pin_layouts(layouts: Layouts, reason: str) -> None:
    for layout in layouts:
        pin(layout, reason)


__all__ = ["Dimensions", "Use", "dimensions"]
