"""Ops that arrange the same elements anew."""

from __future__ import annotations

import math

from secateur.ir.dims.algebra import Dim, Layout, size_of
from secateur.ir.dims.axes import Axes, Layouts, Unruly, dims_rules
from secateur.ir.dims.numbers import count, other_readers
from secateur.ir.dims.rules.agreement import pin_all, same
from secateur.ir.dims.rules.contractions import SPACE, whole
from secateur.ir.dims.target import Target


@dims_rules.register("Reshape")
def reshape(axes: Axes) -> None:
    """The same elements in the same order: the run of all input axes is the run of all output axes."""
    data, target = axes.input(0), Target.of(axes, 1)
    made = target.layouts(data, rest=count(tuple(whole(data)), None))
    axes.unify(whole(data), whole(made))
    axes.output(made)
    target.pin(made)


@dims_rules.register("Flatten")
def flatten(axes: Axes) -> None:
    """Two axes: all before one, and all behind."""
    data = axes.input(0)
    axis = axes.attribute("axis", 1)
    cut = axis + len(data) if axis < 0 else axis
    axes.output([tuple(whole(data[:cut])), tuple(whole(data[cut:]))])


@dims_rules.register("Squeeze")
def squeeze(axes: Axes) -> None:
    """Axes of size one go."""
    data, given = axes.input(0), axes.integers(1, "axes")
    if given is None and (axes.has(1) or any(size_of(layout) is None for layout in data)):
        raise Unruly(f"{axes.op}: which axes go is found out at run time")
    gone = {axis % len(data) for axis in given} if given is not None else {a for a, one in enumerate(data) if not one}
    pin_all(axes, [data[axis] for axis in gone], "takes it for one")
    axes.output([layout for axis, layout in enumerate(data) if axis not in gone])


@dims_rules.register("Unsqueeze", "com.microsoft::ExpandDims")
def unsqueeze(axes: Axes) -> None:
    """Axes of size one come between the others."""
    data, given = list(axes.input(0)), axes.integers(1, "axes")
    if given is None:
        raise Unruly(f"{axes.op}: where axes come in is computed")
    rank = len(data) + len(given)
    for axis in sorted(axis % rank for axis in given):
        data.insert(axis, ())
    axes.output(data)


@dims_rules.register("Transpose")
def transpose(axes: Axes) -> None:
    """Axes change places."""
    data = axes.input(0)
    order = axes.attribute("perm") or range(len(data))[::-1]
    axes.output([data[axis] for axis in order])


@dims_rules.register("Expand")
def expand(axes: Axes) -> None:
    """Axes of size one are repeated: a dimension of its own, whose indices are copies."""
    data, target = axes.input(0), Target.of(axes, 1)
    made = target.layouts([])
    made = [*data[: max(0, len(data) - len(made))], *made]
    before: Layouts = [*[()] * (len(made) - len(data)), *data]
    axes.output([old or new for old, new in zip(before, made, strict=True)])
    for old, new in zip(before, made, strict=True):
        if size_of(old) == size_of(new) is not None:
            same(axes, old, new)
    target.pin([(*old, *new) for old, new in zip(before, made, strict=True)])


@dims_rules.register("Tile")
def tile(axes: Axes) -> None:
    """Each axis is repeated as a whole: copies are the outer factor."""
    data, repeats = axes.input(0), axes.integers(1)
    if repeats is None or len(repeats) != len(data):
        raise Unruly(f"{axes.op}: its repeats are computed")
    axes.output([(*axes.axis(count, "copies"), *layout) for count, layout in zip(repeats, data, strict=True)])


@dims_rules.register("ConstantOfShape")
def constant_of_shape(axes: Axes) -> None:
    """The same number everywhere: an axis has as many indices as what it meets."""
    target = Target.of(axes, 0)
    made = target.layouts([])
    axes.output(made)
    target.pin(made)


@dims_rules.register("DepthToSpace")
def depth_to_space(axes: Axes) -> None:
    """Channels are block x block x rest (DCR), or rest x block x block (CRD)."""
    data, made = axes.input(0), axes.fresh_output(rank=4)
    cell = _cell(axes, [*data[2:], *made[2:]], "moves it into space")
    axes.unify(data[1], (*made[1], *cell) if _is_column_first(axes) else (*cell, *made[1]))
    axes.output([data[0], *made[1:]])


@dims_rules.register("SpaceToDepth")
def space_to_depth(axes: Axes) -> None:
    """Channels become block x block x channels (DCR), or channels x block x block (CRD, from opset 28)."""
    data, made = axes.input(0), axes.fresh_output(rank=4)
    cell = _cell(axes, [*data[2:], *made[2:]], "takes it from space")
    channels = (*data[1], *cell) if _is_column_first(axes) else (*cell, *data[1])
    axes.output([data[0], channels, *made[2:]])


def _cell(axes: Axes, space: Layouts, reason: str) -> Layout:
    block = axes.attribute("blocksize")
    cell: Layout = (Dim(block, axes.op.title), Dim(block, axes.op.title)) if block > 1 else ()
    pin_all(axes, [cell, *space], reason)
    return cell


def _is_column_first(axes: Axes) -> bool:
    return bool(axes.attribute("mode", "DCR") == "CRD")


@dims_rules.register("Col2Im")
def columns_to_image(axes: Axes) -> None:
    """[n, channels * block, positions] becomes [n, channels, ..]: what a sliding window saw is added up in space."""
    data, block = axes.input(0), axes.integers(2)
    size = axes.size(axes.op.input(0), 1)
    if block is None or size is None:
        raise Unruly(f"{axes.op}: the size of its block is computed")
    cell: Layout = (Dim(math.prod(block), axes.op.title),)
    channels = axes.axis(size // math.prod(block), axes.op.title)
    axes.unify(data[1], (*channels, *cell))
    made = axes.fresh_output(rank=2 + len(block))
    pin_all(axes, [cell, data[2], *made[2:]], SPACE)
    axes.output([data[0], channels, *made[2:]])


@dims_rules.register("Shape", "Size")
def measure(axes: Axes) -> None:
    """Sizes as numbers: shapes that are made of them follow; where they are reckoned with, they must stay."""
    data = axes.input(0)
    start = axes.attribute("start", 0)
    for axis in range(*slice(start, axes.attribute("end")).indices(len(data))):
        reader = _reckons(axes, axis - start % max(len(data), 1))
        if reader is not None:
            axes.pin(data[axis], f"gives its size to {reader}")
    pin_all(axes, axes.fresh_output(rank=0 if axes.op.op_type == "Size" else 1), "counts it")


def _reckons(axes: Axes, place: int) -> str | None:
    """Who takes one entry of a shape for more than a size."""
    graph, made = axes.known.graph, axes.op.output
    if axes.op.op_type == "Size" or made in graph.outputs:
        return next(other_readers(graph, made), None)
    for op in graph.consumers(made):
        chosen = axes.known.constant(op.input(1)) if op.op_type == "Gather" and op.input(0) is made else None
        if chosen is not None:
            length = axes.size(made, 0) or 1
            if place in (chosen.numpy().reshape(-1) % length).tolist():
                reader = next(other_readers(graph, op.output), None)
                if reader is not None:
                    return reader
        elif (reader := next(other_readers(graph, made, op), None)) is not None:
            return reader
    return None


@dims_rules.register("Range", "NonZero", "com.microsoft::Range")
def counted(axes: Axes) -> None:
    """Positions as numbers: they count what they lie on."""
    if axes.op.op_type == "NonZero":
        pin_all(axes, axes.input(0), "gives positions on it")
    pin_all(axes, axes.fresh_output(rank=2 if axes.op.op_type == "NonZero" else 1), "counts it")
