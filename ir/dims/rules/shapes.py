"""Ops that arrange the same elements anew."""

from __future__ import annotations

from secateur.ir.dims.algebra import Dim, Layout
from secateur.ir.dims.axes import Axes, Unruly, dims_rules
from secateur.ir.dims.rules.contractions import whole


@dims_rules.register("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(axes: Axes) -> None:
    """The same elements in the same order: the run of all input axes is the run of all output axes."""
    made = axes.fresh_output()
    axes.unify(whole(axes.input(0)), whole(made))


@dims_rules.register("Transpose")
def transpose(axes: Axes) -> None:
    """Axes change places."""
    data = axes.input(0)
    order = axes.attribute("perm") or range(len(data))[::-1]
    axes.output([data[axis] for axis in order])


@dims_rules.register("Expand")
def expand(axes: Axes) -> None:
    """Axes of size one are repeated: a dimension of its own, whose indices are copies."""
    data, made = axes.input(0), axes.fresh_output()
    shift = len(made) - len(data)
    axes.output(
        [data[axis - shift] if axis >= shift and data[axis - shift] else made[axis] for axis in range(len(made))]
    )


@dims_rules.register("Tile")
def tile(axes: Axes) -> None:
    """Each axis is repeated as a whole: copies are the outer factor."""
    data, repeats = axes.input(0), axes.integers(1)
    if repeats is None or len(repeats) != len(data):
        raise Unruly(f"{axes.op}: its repeats are computed")
    axes.output([(*axes.axis(count, "copies"), *layout) for count, layout in zip(repeats, data, strict=True)])


@dims_rules.register("DepthToSpace")
def depth_to_space(axes: Axes) -> None:
    """Channels are block x block x rest (DCR), or rest x block x block (CRD)."""
    data, block = axes.input(0), axes.attribute("blocksize")
    made = axes.fresh_output()
    cell: Layout = (Dim(block), Dim(block)) if block > 1 else ()
    axes.pin(cell, "moves it into space")
    column_first = axes.attribute("mode", "DCR") == "CRD"
    axes.unify(data[1], (*made[1], *cell) if column_first else (*cell, *made[1]))
    axes.output([data[0], *made[1:]])
    for layout in (*data[2:], *made[2:]):
        axes.pin(layout, "moves it into space")


@dims_rules.register("SpaceToDepth")
def space_to_depth(axes: Axes) -> None:
    """Channels become block x block x channels."""
    data, block = axes.input(0), axes.attribute("blocksize")
    made = axes.fresh_output()
    cell: Layout = (Dim(block), Dim(block)) if block > 1 else ()
    axes.pin(cell, "takes it from space")
    for layout in (*data[2:], *made[2:]):
        axes.pin(layout, "takes it from space")
    axes.output([data[0], (*cell, *data[1]), *made[2:]])


@dims_rules.register("Shape", "Size", "Range", "ConstantOfShape", "NonZero")
def counted(axes: Axes) -> None:
    """Numbers about shapes: none of their axes can go."""
    for layout in axes.fresh_output():
        axes.pin(layout, "counts it")
