"""The shape that an op is given: each entry spelled, measured of another axis, or computed otherwise."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.ir.dims.algebra import Dim, Layout, expand, size_of
from secateur.ir.dims.axes import Axes, Layouts, Unruly
from secateur.ir.dims.numbers import Count, Counts, count, measured
from secateur.ir.dims.provenance import Element, entries
from secateur.ir.node import Value
from secateur.ir.types import Dim as Size


@dataclass(frozen=True)
class Target:
    """What is known of the shape at an input port.

    Attributes:
        axes: the op.
        port: where it reads the shape.
        sizes: of its output, as inference knows them; None where it does not know their number.
        found: the entries of the shape; None where their number is not known.
        marks: for a size in an entry the axis that it was measured of.
    """

    axes: Axes
    port: int
    sizes: tuple[Size, ...] | None
    found: list[Element | Count | None] | None
    marks: dict[Dim, Layout]

    @staticmethod
    def of(axes: Axes, port: int) -> Target:
        """Reads the shape.

        Raises:
            Unruly: not even the number of its entries is known.
        """
        marks: dict[Dim, Layout] = {}
        found = entries(axes.known, axes.op, port, lambda value: _marked(axes, value, marks))
        sizes = axes.known.shape(axes.op.output)
        if found is None and sizes is None:
            raise Unruly(f"{axes.op}: the rank of what it makes is not known")
        return Target(axes, port, sizes, found, marks)

    def layouts(self, data: Layouts, rest: Count | None = None) -> Layouts:
        """New axes: a zero stands for the axis of `data` at its place, -1 for what the others leave of `rest`."""
        sizes = self.sizes if self.sizes is not None else (None,) * len(self.found or ())
        found = self.found if self.found is not None and len(self.found) == len(sizes) else [None] * len(sizes)
        zeros = [] if self.axes.attribute("allowzero", 0) else data
        made = [self._layout(place, *pair, zeros) for place, pair in enumerate(zip(sizes, found, strict=True))]
        open_ = [place for place, entry in enumerate(found) if _number(entry) == -1]
        if len(open_) == 1 and rest is not None and size_of(made[open_[0]]) is None:
            others = count(tuple(dim for place, layout in enumerate(made) if place != open_[0] for dim in layout), None)
            left = rest.divided(others)
            if left is not None and not left.unknown:
                made[open_[0]] = self.axes.axis(left.number, self.axes.op.title)
        return made

    def _layout(self, place: int, size: Size, entry: Element | Count | None, zeros: Layouts) -> Layout:
        number = _number(entry)
        if isinstance(entry, Count) and entry.number == 1 and len(entry.unknown) == 1:
            measured_of = self.marks[entry.unknown[0]]
            if size_of(measured_of) == size or not isinstance(size, int):
                return measured_of
        if isinstance(size, int) or not number or number < 0:
            copied = number == 0 and place < len(zeros) and not isinstance(size, int)
            return zeros[place] if copied else self.axes.axis(size, self.axes.op.title)
        return self.axes.axis(number, self.axes.op.title)

    def pin(self, made: Layouts) -> None:
        """Pins axes whose size is computed in a way that does not follow, and what it is computed from."""
        reason, follows = "is given its size by a computation", self.found is not None
        for layout, entry in zip(made[::-1], (self.found or [None] * len(made))[::-1], strict=False):
            unsteady = self._unsteady(layout, entry)
            self.axes.pin(unsteady, reason)
            follows = follows and (not unsteady or len(unsteady) < len(expand(layout)))
        target = self.axes.op.inputs[self.port]
        assert target is not None
        for value, which in () if follows else measured(self.axes.known.graph, target):
            layouts = self.axes.made(value) or []
            for axis in range(len(layouts)) if which is None else which:
                self.axes.pin(layouts[axis] if axis < len(layouts) else (), reason)

    def _unsteady(self, layout: Layout, entry: Element | Count | None) -> list[Dim]:
        """What of an axis must stay: nothing where its size follows, else what is spelled beside a measured size."""
        if isinstance(entry, Element) or _number(entry) in (0, 1, -1):
            return []
        factors = expand(layout)
        if entry is None:
            return factors
        others = [dim for mark in entry.unknown for dim in expand(self.marks[mark])]
        rest = [dim for dim in factors if dim not in others]
        return rest if size_of(rest) == entry.number else factors


def _number(entry: Element | Count | None) -> int | None:
    if isinstance(entry, Element):
        return entry.number
    return None if entry is None or entry.unknown else entry.number


def _marked(axes: Axes, value: Value, marks: dict[Dim, Layout]) -> Counts | None:
    """For each axis of a value a count of its own, under which its layout is kept."""
    layouts = axes.made(value)
    if layouts is None:
        return None
    counts: Counts = []
    for layout in layouts:
        mark = Dim(None)
        marks[mark] = layout
        counts.append(Count(1, (mark,)))
    return counts
