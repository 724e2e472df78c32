"""Ops that cut axes apart or put them one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from secateur.ir.dims.algebra import Dim, Layout, as_one, size_of, sum_of
from secateur.ir.dims.axes import Axes, Layouts, Unruly, dims_rules
from secateur.ir.dims.positions import pick
from secateur.ir.dims.rules.agreement import pin_all, same
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
        whole = axes.fresh_output(rank=len(operands[0]))[axis]
        axes.pin(whole, "joins parts of unknown size")
        axes.output([*rest[:axis], whole, *rest[axis + 1 :]])
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
    if set(known) == {1} and all(axes.takes_one(data[axis], port, port) for port in range(len(known))):
        for port in range(len(known)):
            axes.output([*data[:axis], (), *data[axis + 1 :]], port)
        return
    parts = axes.split(data[axis], known)
    for port, size in enumerate(known):
        part = parts[port] if parts is not None and size > 1 else axes.axis(size)
        if parts is not None and size == 1:
            axes.pin(parts[port], "takes one index by itself")
        if parts is None:
            axes.pin(part, "cuts it where no dimension ends")
        axes.output([*data[:axis], part, *data[axis + 1 :]], port)


@dims_rules.register("Slice")
def slice_(axes: Axes) -> None:
    """A run of indices is one term of a sum; every n-th index is the outer factor of a product."""
    data = axes.input(0)
    made, fresh = list(data), axes.fresh_output(rank=len(data))
    for axis, bounds in _bounds(axes):
        if bounds is None:
            made[axis] = fresh[axis]
            axes.pin((*data[axis], *fresh[axis]), "cuts it where a run finds out")
        else:
            made[axis] = picked(axes, axis, bounds)
    axes.output(made)


def _bounds(axes: Axes) -> Iterator[tuple[int, range | None]]:
    """Each axis that is cut, and the indices that are taken; None where they are not known before run time."""
    data = axes.input(0)
    starts, stops = axes.integers(1, "starts"), axes.integers(2, "ends")
    which = axes.integers(3, "axes")
    if which is None and axes.has(3):
        raise Unruly(f"{axes.op}: which axes it cuts is computed")
    if which is None:
        count = axes.size(axes.op.input(1), 0) if starts is None else len(starts)
        which = list(range(len(data) if count is None else count))
    steps = axes.integers(4) or (None if axes.has(4) else [1] * len(which))
    for place, axis in enumerate(axis % len(data) for axis in which):
        size = axes.size(axes.op.input(0), axis)
        if starts is None or stops is None or steps is None:
            yield axis, None
        elif size is not None:
            yield axis, range(size)[starts[place] : stops[place] : steps[place]]
        elif (starts[place], steps[place]) != (0, 1) or stops[place] < 2**31 - 1:
            yield axis, None


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
        if count == 1 and axes.takes_one(layout, wanted[0]):
            return ()
        parts = axes.split(layout, [wanted[0], count, size - wanted[0] - count])
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
    terms = axes.split(layout, [1] * size) if size <= MOST_SINGLES else None
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
    """Rows by index: a constant list picks terms; computed indices pin the axis unless they are positions on one."""
    data = axes.input(0)
    axis = axes.attribute("axis", 0) % len(data)
    chosen, size = axes.constant(1), axes.size(axes.op.input(0), axis)
    made: Layouts = []
    if chosen is not None and chosen.ndim == 1 and size is not None:
        made = [picked(axes, axis, [int(index) % size for index in chosen])]
    elif chosen is None or chosen.ndim or size is None or not axes.takes_one(data[axis], int(chosen) % size):
        pick(axes, data[axis], axes.op.input(1))
        made = axes.input(1)
    axes.output([*data[:axis], *made, *data[axis + 1 :]])


@dims_rules.register("Compress")
def compress(axes: Axes) -> None:
    """Some indices of an axis, or of all elements, as a condition says at run time."""
    data, axis = axes.input(0), axes.attribute("axis")
    made: Layout = (Dim(None, axes.op.title),)
    if axis is None:
        pin_all(axes, data, "keeps what a run finds out")
        axes.output([made])
        return
    axis %= len(data)
    pin_all(axes, [data[axis], *axes.input(1)], "keeps what a run finds out")
    axes.output([*data[:axis], made, *data[axis + 1 :]])


@dims_rules.register("CenterCropPad")
def center_crop_pad(axes: Axes) -> None:
    """Axes that change their size are cut or padded in the middle; the others pass."""
    data = axes.input(0)
    made = axes.fresh_output(rank=len(data))
    which = {axis % len(data) for axis in axes.attribute("axes") or range(len(data))}
    for axis, layout in enumerate(data):
        if axis not in which or size_of(layout) == size_of(made[axis]) is not None:
            made[axis] = layout
            if axis in which:
                axes.pin(layout, "is told its size")
        else:
            axes.pin((*layout, *made[axis]), "cuts or pads it in the middle")
    axes.output(made)


@dims_rules.register("ReverseSequence")
def reverse_sequence(axes: Axes) -> None:
    """Turns round the first so many positions, a number for each sample."""
    data, lengths = axes.input(0), axes.input(1)
    axes.pin(data[axes.attribute("time_axis", 0)], "turns round a part of it")
    same(axes, data[axes.attribute("batch_axis", 1)], lengths[0])
    axes.output(data)


@dims_rules.register("Pad")
def pad(axes: Axes) -> None:
    """A padded axis is the sum of what is before, the axis, and what is behind."""
    data, pads = axes.input(0), axes.integers(1, "pads")
    which = axes.integers(3) or list(range(len(data)))
    if pads is None or len(pads) != 2 * len(which):
        raise Unruly(f"{axes.op}: its pads are computed")
    made, fresh = list(data), axes.fresh_output(rank=len(data))
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
