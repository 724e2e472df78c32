"""Ops that take something of all indices of an axis: sums forget removed zeros, means, shares and ranks do not."""

from __future__ import annotations

from secateur.ir.dims.axes import Axes, Unruly, dims_rules
from secateur.ir.dims.positions import unread
from secateur.ir.dims.rules.agreement import pin_all

_SUMS = "ReduceSum ReduceSumSquare ReduceL1 ReduceL2 ReduceLogSum"
_OTHERS = "ReduceMean ReduceMax ReduceMin ReduceProd ReduceLogSumExp"


@dims_rules.register(*_SUMS.split())
def reduce_sum(axes: Axes) -> None:
    """Axes that stay pass; a sum (of magnitudes, of squares) is the same without zeros."""
    _reduce(axes)


@dims_rules.register(*_OTHERS.split())
def reduce(axes: Axes) -> None:
    """Axes that stay pass; a mean, a product or an extreme is not the same without zeros."""
    data = axes.input(0)
    for axis in _reduce(axes):
        axes.inexact(data[axis], "reduces over it")


def _reduce(axes: Axes) -> set[int]:
    data = axes.input(0)
    which = _reduced(axes, len(data))
    keep = axes.attribute("keepdims", 1)
    axes.output([() if axis in which else layout for axis, layout in enumerate(data) if keep or axis not in which])
    return which


def _reduced(axes: Axes, rank: int) -> set[int]:
    which = axes.integers(1, "axes")
    if which is None and axes.has(1):
        raise Unruly(f"{axes.op}: its axes are computed")
    if not which:
        return set() if axes.attribute("noop_with_empty_axes", 0) else set(range(rank))
    return {axis % rank for axis in which}


@dims_rules.register("ArgMax", "ArgMin")
def best(axes: Axes) -> None:
    """The position of the best: a number that counts indices of the axis."""
    data = axes.input(0)
    axis = axes.attribute("axis", 0) % len(data)
    axes.inexact(data[axis], "picks the best of them")
    _give_positions(axes, axis, 0)
    kept: list[tuple[()]] = [()] if axes.attribute("keepdims", 1) else []
    axes.output([*data[:axis], *kept, *data[axis + 1 :]])


@dims_rules.register("TopK")
def top_k(axes: Axes) -> None:
    """The best of an axis and their positions: which ones is found out at run time."""
    data = axes.input(0)
    axis = axes.attribute("axis", -1) % len(data)
    axes.inexact(data[axis], "ranks its indices")
    _give_positions(axes, axis, 1)
    for port in (0, 1):
        made = axes.fresh_output(port, len(data))
        if made:
            axes.pin(made[axis], "gives its best")
            axes.output([*data[:axis], made[axis], *data[axis + 1 :]], port)


def _give_positions(axes: Axes, axis: int, port: int) -> None:
    made = axes.op.outputs[port] if port < len(axes.op.outputs) else None
    layout = axes.input(0)[axis]
    reader = None if made is None else unread(axes, made, layout)
    if reader is not None:
        axes.pin(layout, f"gives positions on it to {reader}")


@dims_rules.register("Softmax", "LogSoftmax", "Hardmax")
def softmax(axes: Axes) -> None:
    """Everything passes; what it runs over is shared among the indices."""
    data = axes.input(0)
    old = (axes.known.graph.root.header.opset() or 13) < 13
    axis = axes.attribute("axis", 1 if old else -1) % max(len(data), 1)
    for layout in data[axis:] if old else data[axis : axis + 1]:
        axes.inexact(layout, "shares out one among its indices")
    axes.output(data)


@dims_rules.register("CumSum", "LpNormalization")
def sum_along(axes: Axes) -> None:
    """Sums of what comes before, or norms of what lies along an axis, are the same without zeros."""
    axes.output(axes.input(0))
    if axes.op.op_type == "CumSum" and axes.integers(1) is None:
        pin_all(axes, axes.input(0), "runs along an axis that is computed")


@dims_rules.register("CumProd", "MeanVarianceNormalization", "LRN")
def mix_along(axes: Axes) -> None:
    """Everything passes; the indices of some axes are mixed."""
    data = axes.input(0)
    for axis in _mixed(axes, len(data)):
        axes.inexact(data[axis], "mixes its indices")
    axes.output(data)


def _mixed(axes: Axes, rank: int) -> list[int]:
    if axes.op.op_type == "LRN":
        return [1]
    if axes.op.op_type == "MeanVarianceNormalization":
        return [axis % rank for axis in axes.attribute("axes", (0, 2, 3))]
    axis = axes.integers(1)
    return list(range(rank)) if axis is None else [axis[0] % rank]
