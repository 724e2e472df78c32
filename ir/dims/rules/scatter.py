"""Ops that read or write where indices say: the axis that is indexed stays whole, the others pass."""

from __future__ import annotations

from secateur.ir.dims.algebra import Layout, size_of
from secateur.ir.dims.axes import Axes, Layouts, Unruly, dims_rules
from secateur.ir.dims.positions import pick, positions_of
from secateur.ir.dims.rules.agreement import pin_all, same

_WRITES = "writes to it by index"


def _beside(axes: Axes, data: Layout, indices: Layout) -> Layout:
    """An axis that indices run along beside the one that they index: the same, or its beginning."""
    if size_of(data) == size_of(indices) is not None:
        return same(axes, data, indices)
    pin_all(axes, [data, indices], "reads only the beginning of it")
    return indices


@dims_rules.register("GatherElements")
def gather_elements(axes: Axes) -> None:
    """Every element is picked along one axis; along the others it stays where it is."""
    data, indices = axes.input(0), axes.input(1)
    axis = axes.attribute("axis", 0) % len(data)
    pick(axes, data[axis], 1)
    axes.output(
        [
            theirs if place == axis else _beside(axes, mine, theirs)
            for place, (mine, theirs) in enumerate(zip(data, indices, strict=True))
        ]
    )


@dims_rules.register("ScatterElements", "Scatter")
def scatter_elements(axes: Axes) -> None:
    """Every update goes somewhere along one axis; along the others it stays where it is."""
    data, indices, updates = axes.input(0), axes.input(1), axes.input(2)
    axis = axes.attribute("axis", 0) % len(data)
    for place, (mine, theirs, new) in enumerate(zip(data, indices, updates, strict=True)):
        if place == axis:
            pick(axes, mine, 1)
            pin_all(axes, [theirs, new], _WRITES)
        else:
            _beside(axes, mine, same(axes, theirs, new))
    axes.output(data)


def _depth(axes: Axes, port: int) -> int:
    """How many axes an index is made of."""
    depth = axes.size(axes.op.input(port), -1)
    if depth is None:
        raise Unruly(f"{axes.op}: how many axes it indexes is not known")
    return depth


@dims_rules.register("GatherND", "com.microsoft::GatherND")
def gather_nd(axes: Axes) -> None:
    """The last axis of the indices holds positions on so many axes, behind those of the batch."""
    data, indices = axes.input(0), axes.input(1)
    front, depth = axes.attribute("batch_dims", 0), _depth(axes, 1)
    batch = [same(axes, mine, theirs) for mine, theirs in zip(data[:front], indices[:front], strict=True)]
    pin_all(axes, [*data[front : front + depth], indices[-1]], "picks from it by index")
    axes.output([*batch, *indices[front:-1], *data[front + depth :]])


@dims_rules.register("ScatterND")
def scatter_nd(axes: Axes) -> None:
    """The last axis of the indices holds positions on so many axes; what lies behind these is written whole."""
    data, indices, updates = axes.input(0), axes.input(1), axes.input(2)
    depth = _depth(axes, 1)
    pin_all(axes, [*data[:depth], *indices, *updates[: len(indices) - 1]], _WRITES)
    for mine, theirs in zip(data[depth:], updates[len(indices) - 1 :], strict=True):
        same(axes, mine, theirs)
    axes.output(data)


@dims_rules.register("TensorScatter")
def tensor_scatter(axes: Axes) -> None:
    """A run of positions is overwritten; all other axes are the same."""
    data, updates = axes.input(0), axes.input(1)
    axis = axes.attribute("axis", -2) % len(data)
    for place, (mine, theirs) in enumerate(zip(data, updates, strict=True)):
        if place == axis:
            pin_all(axes, [mine, theirs], _WRITES)
        else:
            same(axes, mine, theirs)
    if axes.has(2):
        same(axes, data[0], axes.input(2)[0])
    axes.output(data)


@dims_rules.register("OneHot")
def one_hot(axes: Axes) -> None:
    """A new axis with one index for each position that there may be."""
    data = axes.input(0)
    found, depth = positions_of(axes, 0), axes.integers(1)
    size = None if depth is None else depth[0]
    made = axes.axis(size, axes.op.title)
    if found is not None and size is not None and size_of(found) == size:
        axes.unify(made, found)
    else:
        axes.pin(made, "counts positions on it")
        if found is not None:
            axes.pin(found, "counts positions on it")
    axis = axes.attribute("axis", -1) % (len(data) + 1)
    axes.output([*data[:axis], made, *data[axis:]])


@dims_rules.register("Multinomial")
def multinomial(axes: Axes) -> None:
    """Draws positions on the last axis."""
    data = axes.input(0)
    axes.pin(data[1], "draws positions on it")
    made: Layouts = [data[0], *axes.fresh_output(rank=2)[1:]]
    pin_all(axes, made[1:], "draws so many")
    axes.output(made)


@dims_rules.register("Trilu", "com.microsoft::Trilu")
def triangle(axes: Axes) -> None:
    """Clears what lies above or below a diagonal of the last two axes."""
    data = axes.input(0)
    pin_all(axes, data[-2:], "draws a diagonal through it")
    axes.output(data)


@dims_rules.register("EyeLike")
def identity_matrix(axes: Axes) -> None:
    """Ones on a diagonal: the same indices of rows and columns leave it one."""
    rows, columns = axes.input(0)
    if size_of((*rows,)) == size_of((*columns,)) is not None and not axes.attribute("k", 0):
        axes.unify(rows, columns)
    else:
        pin_all(axes, [rows, columns], "draws a diagonal through it")
    axes.output([rows, columns])


@dims_rules.register("Det", "com.microsoft::Inverse")
def of_matrices(axes: Axes) -> None:
    """A number, or a matrix, for each matrix in the last two axes."""
    data = axes.input(0)
    pin_all(axes, data[-2:], "takes the whole matrix")
    axes.output(data[:-2] if axes.op.op_type == "Det" else data)
