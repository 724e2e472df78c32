"""Ops that read or write where indices say: the axis that is indexed stays whole, the others pass."""

from __future__ import annotations

from secateur.ir.dims.algebra import Layout, size_of
from secateur.ir.dims.axes import Axes, Layouts, Unruly, dims_rules
from secateur.ir.dims.positions import columns, pick, positions_of, ruler, single
from secateur.ir.dims.rules.agreement import pin_all, same
from secateur.ir.dims.rules.pointwise import broadcast_layouts

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
    pick(axes, data[axis], axes.op.input(1))
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
            pick(axes, mine, axes.op.input(1))
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
    axes.pin(indices[-1], "holds a position in each of it")
    _pick_columns(axes, data[front : front + depth])
    axes.output([*batch, *indices[front:-1], *data[front + depth :]])


@dims_rules.register("ScatterND")
def scatter_nd(axes: Axes) -> None:
    """The last axis of the indices holds positions on so many axes; what lies behind these is written whole."""
    data, indices, updates = axes.input(0), axes.input(1), axes.input(2)
    depth = _depth(axes, 1)
    pin_all(axes, [*indices, *updates[: len(indices) - 1]], _WRITES)
    _pick_columns(axes, data[:depth])
    for mine, theirs in zip(data[depth:], updates[len(indices) - 1 :], strict=True):
        same(axes, mine, theirs)
    axes.output(data)


def _pick_columns(axes: Axes, indexed: Layouts) -> None:
    """Each column of the indices holds positions on one axis."""
    found = columns(axes.known, axes.op, 1) or []
    for place, layout in enumerate(indexed):
        pick(axes, layout, found[place] if len(found) == len(indexed) else None)


@dims_rules.register("Equal")
def equal(axes: Axes) -> None:
    """Elements that meet; where positions meet 0, 1, 2, .., or one of them, they mean the axis that they count."""
    operands = [axes.input(0), axes.input(1)]
    for port in (0, 1):
        found = positions_of(axes, axes.op.inputs[port])
        size = None if found is None else size_of(found)
        if found is None or size is None:
            continue
        place, index = (rule(axes.known, axes.op, port, size) for rule in (ruler, single))
        if place is not None:
            axes.unify(operands[1 - port][place], found)
        elif index is None or not axes.takes_one(found, index):
            axes.pin(found, "compares positions on it")
    axes.output(broadcast_layouts(axes, operands))


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
    found, depth = positions_of(axes, axes.op.input(0)), axes.integers(1)
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
