"""Ops that move over positions in space and treat every channel alike."""

from __future__ import annotations

from secateur.ir.dims.algebra import Dim, Layout, size_of
from secateur.ir.dims.axes import Axes, Layouts, dims_rules
from secateur.ir.dims.rules.agreement import pin_all, same
from secateur.ir.dims.rules.contractions import SPACE


@dims_rules.register(*"MaxPool AveragePool LpPool GlobalMaxPool GlobalAveragePool GlobalLpPool".split())
def pool(axes: Axes) -> None:
    """Batch and channels pass; positions are new."""
    data = axes.input(0)
    for port in range(len(axes.op.outputs)):
        made = axes.fresh_output(port, len(data))
        pin_all(axes, [*made[2:], *data[2:]], SPACE)
        axes.output([*data[:2], *made[2:]], port)
    if len(axes.op.outputs) > 1 and axes.op.outputs[1] is not None:
        pin_all(axes, data[:2], "gives positions that count channels")


@dims_rules.register("MaxUnpool")
def unpool(axes: Axes) -> None:
    """Elements go back to positions that count channels."""
    data = axes.input(0)
    made = axes.fresh_output(rank=len(data))
    pin_all(axes, [*data, *axes.input(1), *made[2:]], "takes positions that count channels")
    axes.output([*data[:2], *made[2:]])


@dims_rules.register("com.microsoft::NhwcMaxPool")
def pool_with_channels_last(axes: Axes) -> None:
    """Batch and channels pass; positions lie between them."""
    data = axes.input(0)
    space: Layouts = [(Dim(None, axes.op.title),) for _ in data[1:-1]]
    pin_all(axes, data[1:-1], SPACE)
    axes.output([data[0], *space, data[-1]])


@dims_rules.register("Resize", "Upsample")
def resize(axes: Axes) -> None:
    """Axes that are not scaled pass; the others are positions in space."""
    data = axes.input(0)
    made = axes.fresh_output(rank=len(data))
    for axis, layout in enumerate(made):
        if _stays(axes, axis, data[axis], layout):
            made[axis] = data[axis]
        else:
            pin_all(axes, [layout, data[axis]], SPACE)
    axes.output(made)


def _stays(axes: Axes, axis: int, before: Layout, after: Layout) -> bool:
    """True where an axis is copied: its scale is one, or it is told the size that it has."""
    if axes.attribute("coordinate_transformation_mode") == "tf_crop_and_resize":
        return False
    rank = len(axes.input(0))
    which = [one % rank for one in axes.attribute("axes") or range(rank)]
    if axis not in which:
        return True
    scales = axes.attribute("scales") or _scales(axes)
    if scales is not None:
        return bool(scales[which.index(axis)] == 1)
    return axis < 2 and size_of(before) == size_of(after)


def _scales(axes: Axes) -> list[float] | None:
    """Constant scales, wherever this version has them; None where there are none, or they are computed."""
    given = axes.constant(2 if (axes.known.graph.root.header.opset() or 11) > 10 else 1)
    return None if given is None or not given.size else [float(scale) for scale in given.reshape(-1)]


@dims_rules.register("GridSample", "com.microsoft::GridSample")
def sample(axes: Axes) -> None:
    """Channels pass, and so does the batch, which the grid has too."""
    data, grid = axes.input(0), axes.input(1)
    space = grid[1:-1]
    pin_all(axes, [*data[2:], *grid[1:]], SPACE)
    axes.output([same(axes, data[0], grid[0]), data[1], *space])


@dims_rules.register("RoiAlign", "MaxRoiPool")
def regions(axes: Axes) -> None:
    """Channels pass; each region says which sample it is of."""
    data = axes.input(0)
    made = axes.fresh_output(rank=len(data))
    beside = [layout for port in range(1, len(axes.op.inputs)) for layout in axes.input(port)]
    pin_all(axes, [data[0], *data[2:], made[0], *made[2:], *beside], SPACE)
    axes.output([made[0], data[1], *made[2:]])


@dims_rules.register("AffineGrid")
def affine_grid(axes: Axes) -> None:
    """[n, 2, 3] becomes [n, .., 2]: only the batch passes."""
    theta = axes.input(0)
    made = axes.fresh_output(rank=4 if axes.size(axes.op.input(0), 1) == 2 else 5)
    pin_all(axes, [*theta[1:], *made[1:]], SPACE)
    axes.pin(theta[0], "is told the size of the batch")
    axes.output([theta[0], *made[1:]])
