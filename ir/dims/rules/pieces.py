"""Ops that cut axes apart or put them one after the other."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.ir.dims.algebra import Dim, Layout, as_one, split_sum, sum_of
from secateur.ir.dims.axes import Axes, Unruly, dims_rules
from secateur.ir.dims.rules.pointwise import broadcast_layouts

MOST_SINGLES = 8192
"""An axis that is indexed one by one is a sum of single indices, if it has no more than these."""


@dims_rules.register("Concat")
def concat(axes: Axes) -> None:
    """The axis is the sum of the operands' axes; the others agree."""
    operands = [axes.input(port) for port in range(len(axes.op.inputs)) if axes.has(port)]
    axis = axes.attribute("axis") % len(operands[0])
    rest = broadcast_layouts(axes, [[*one[:axis], (), *one[axis + 1 :]] for one in operands])
    terms: list[Dim] = []
    for port, operand in enumerate(operands):
        if not operand[axis]:
            single = Dim(1, axes.op.title)
            axes.pin([single], f"takes all of input {port}")
            terms.append(single)
        elif (term := as_one(operand[axis])).size != 0:
            terms.append(term)
    if any(term.size is None for term in terms):
        for term in terms:
            axes.pin([term], "joins parts of unknown size")
        axes.output([*rest[:axis], axes.fresh_output()[axis], *rest[axis + 1 :]])
        return
    joined: Layout = (terms[0],) if len(terms) == 1 else (sum_of(terms),) if terms else ()
    axes.output([*rest[:axis], joined, *rest[axis + 1 :]])


@dims_rules.register("Split")
def split(axes: Axes) -> None:
    """The axis is the sum of the outputs' axes."""
    data = axes.input(0)
    axis = axes.attribute("axis", 0) % len(data)
    sizes = [axes.size(made, axis) for made in axes.op.outputs]
    known = axes.integers(1, "split") or [size for size in sizes if size is not None]
    if len(known) != len(axes.op.outputs):
        raise Unruly(f"{axes.op}: the sizes of its parts are computed")
    parts = split_sum(data[axis], known)
    for port, size in enumerate(known):
        part = parts[port] if parts is not None else axes.axis(size)
        if parts is None:
            axes.pin(part, "cuts it where no dimension ends")
        axes.output([*data[:axis], part, *data[axis + 1 :]], port)


@dims_rules.register("Slice")
def slice_(axes: Axes) -> None:
    """A run of indices is one term of a sum; every n-th index is the outer factor of a product."""
    made = list(axes.input(0))
    for axis, start, stop, step in bounds(axes):
        made[axis] = picked(axes, axis, range(start, stop, step))
    axes.output(made)


def bounds(axes: Axes) -> list[tuple[int, int, int, int]]:
    """(axis, start, stop, step) for each axis that is cut, resolved against its size."""
    data = axes.input(0)
    starts, stops = axes.integers(1, "starts"), axes.integers(2, "ends")
    if starts is None or stops is None:
        raise Unruly(f"{axes.op}: its bounds are computed")
    which = axes.integers(3, "axes") or list(range(len(starts)))
    steps = axes.integers(4) or [1] * len(starts)
    found = []
    for axis, start, stop, step in zip((axis % len(data) for axis in which), starts, stops, steps, strict=True):
        size = axes.size(axes.op.input(0), axis)
        if size is None and (start, step) == (0, 1) and stop >= 2**31 - 1:
            continue
        if size is None:
            raise Unruly(f"{axes.op} cuts an axis of unknown size")
        found.append((axis, *slice(start, stop, step).indices(size)))
    return found


def picked(axes: Axes, axis: int, wanted: Sequence[int]) -> Layout:
    """The layout of some indices of an axis of the first input, in order."""
    layout, size = axes.input(0)[axis], axes.size(axes.op.input(0), axis)
    if size is None:
        raise Unruly(f"{axes.op} picks from an axis of unknown size")
    count = len(wanted)
    if count == size and all(index == place for place, index in enumerate(wanted)):
        return layout
    if count == 0 or not layout:
        return axes.axis(count)
    step = wanted[1] - wanted[0] if count > 1 else 1
    regular = all(wanted[place] == wanted[0] + place * step for place in range(count))
    if regular and step == 1:
        parts = split_sum(layout, [wanted[0], count, size - wanted[0] - count])
        if parts is not None and count == 1:
            axes.pin(parts[1], "takes one index by itself")
            return ()
        return _pinned(axes, count) if parts is None else parts[1]
    if regular and step > 1 and count * step == size and wanted[0] < step:
        outer, inner = Dim(count, axes.op.title), Dim(step, axes.op.title)
        axes.pin([inner], f"takes every index that is {wanted[0]} modulo {step}")
        axes.unify(layout, (outer, inner))
        return (outer,)
    return _singles(axes, layout, size, wanted)


def _singles(axes: Axes, layout: Layout, size: int, wanted: Sequence[int]) -> Layout:
    """Indices in any order, any number of times: terms of a sum of single indices."""
    terms = split_sum(layout, [1] * size) if size <= MOST_SINGLES else None
    if terms is None:
        axes.pin(layout, "picks single indices")
        return _pinned(axes, len(wanted))
    return (sum_of([as_one(terms[index]) for index in wanted]),)


def _pinned(axes: Axes, count: int) -> Layout:
    made = axes.axis(count)
    axes.pin(made, "cuts it where no dimension ends")
    return made


@dims_rules.register("Gather")
def gather(axes: Axes) -> None:
    """Rows by index: a constant list picks terms; indices that are computed pin the axis, and the others pass."""
    data = axes.input(0)
    axis = axes.attribute("axis", 0) % len(data)
    chosen = axes.constant(1)
    if chosen is not None and chosen.ndim == 1 and (size := axes.size(axes.op.input(0), axis)) is not None:
        made = [picked(axes, axis, [int(index) % size for index in chosen])]
    else:
        axes.pin(data[axis], "picks from it by index")
        made = axes.input(1)
    axes.output([*data[:axis], *made, *data[axis + 1 :]])


@dims_rules.register("Pad")
def pad(axes: Axes) -> None:
    """A padded axis is the sum of what is before, the axis, and what is behind."""
    data, pads = axes.input(0), axes.integers(1, "pads")
    which = axes.integers(3) or list(range(len(data)))
    if pads is None or len(pads) != 2 * len(which):
        raise Unruly(f"{axes.op}: its pads are computed")
    made, fresh = list(data), axes.fresh_output()
    for place, axis in enumerate(axis % len(data) for axis in which):
        before, behind = pads[place], pads[place + len(which)]
        if not before and not behind:
            continue
        edges = [Dim(size, axes.op.title) for size in (before, behind)]
        axes.pin(edges, "adds it")
        if before < 0 or behind < 0 or axes.attribute("mode", "constant") != "constant" or not data[axis]:
            axes.pin(data[axis], "pads it")
            made[axis] = fresh[axis]
            axes.pin(made[axis], "pads it")
        else:
            terms = [edges[0], as_one(data[axis]), edges[1]]
            made[axis] = (sum_of([term for term in terms if term.size != 0]),)
    axes.output(made)
