"""Ops that take statistics over axes: sums forget removed zeros, means and norms do not."""

from __future__ import annotations

from secateur.ir.dims.axes import Axes, Layouts, Unruly, dims_rules


@dims_rules.register(
    *"ReduceMean ReduceSum ReduceMax ReduceMin ReduceL1 ReduceL2 ReduceProd ReduceSumSquare".split(),
    *"ReduceLogSum ReduceLogSumExp ArgMax ArgMin".split(),
)
def reduce(axes: Axes) -> None:
    """Axes that stay pass; a sum (of magnitudes, of squares) is the same without zeros, anything else is not."""
    data = axes.input(0)
    which = _reduced(axes, len(data))
    if not axes.op.op_type.startswith(("ReduceSum", "ReduceL")) or axes.op.op_type.startswith("ReduceLog"):
        for axis in which:
            axes.inexact(data[axis], "reduces over it")
    for axis in which if axes.op.op_type.startswith("Arg") else ():
        axes.pin(data[axis], "gives positions on it")
    keep = axes.attribute("keepdims", 1)
    axes.output([() if axis in which else layout for axis, layout in enumerate(data) if keep or axis not in which])


def _reduced(axes: Axes, rank: int) -> set[int]:
    if axes.op.op_type.startswith("Arg"):
        return {axes.attribute("axis", 0) % rank}
    which = axes.integers(1, "axes")
    if which is None and axes.has(1):
        raise Unruly(f"{axes.op}: its axes are computed")
    if not which:
        return set() if axes.attribute("noop_with_empty_axes", 0) else set(range(rank))
    return {axis % rank for axis in which}


@dims_rules.register("Softmax", "LogSoftmax", "Hardmax")
def softmax(axes: Axes) -> None:
    """Everything passes; what it runs over is shared among the indices."""
    data = axes.input(0)
    old = (axes.known.graph.root.header.opset() or 13) < 13
    axis = axes.attribute("axis", 1 if old else -1) % max(len(data), 1)
    for layout in data[axis:] if old else data[axis : axis + 1]:
        axes.inexact(layout, "shares out one among its indices")
    axes.output(data)


@dims_rules.register("CumSum", "LpNormalization", "MeanVarianceNormalization", "LRN")
def along_one_axis(axes: Axes) -> None:
    """Mixes the indices of an axis."""
    data = axes.input(0)
    mixed = _mixed(axes, len(data))
    for axis in mixed:
        axes.inexact(data[axis], "mixes its indices")
    axes.output(data)


def _mixed(axes: Axes, rank: int) -> list[int]:
    if axes.op.op_type == "LRN":
        return [1]
    if axes.op.op_type == "MeanVarianceNormalization":
        return [axis % rank for axis in axes.attribute("axes", (0, 2, 3))]
    if axes.op.op_type == "LpNormalization":
        return [axes.attribute("axis", -1) % rank]
    axis = axes.integers(1)
    return list(range(rank)) if axis is None else [axis[0] % rank]


@dims_rules.register("TopK")
def top_k(axes: Axes) -> None:
    """The best of an axis: which ones is found out at run time."""
    data = axes.input(0)
    axis = axes.attribute("axis", -1) % len(data)
    axes.inexact(data[axis], "ranks its indices")
    for port in (0, 1):
        made = axes.fresh_output(port)
        if made:
            axes.pin(made[axis], "gives its best")
            axes.output([*data[:axis], made[axis], *data[axis + 1 :]], port)


@dims_rules.register("BatchNormalization", "InstanceNormalization")
def channel_norm(axes: Axes) -> None:
    """Each channel by itself, with parameters for each."""
    data = axes.input(0)
    for port in range(1, len(axes.op.inputs)):
        if axes.has(port):
            axes.unify(data[1], axes.input(port)[0])
    axes.output(data)


@dims_rules.register("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def layer_norm(axes: Axes) -> None:
    """Statistics over the last axes, parameters for each of their indices."""
    data = axes.input(0)
    _normalised(axes, data, axes.attribute("axis", -1) % len(data), range(1, len(axes.op.inputs)))
    axes.output(data)


def _normalised(axes: Axes, data: Layouts, first: int, parameters: range) -> None:
    for layout in data[first:]:
        axes.inexact(layout, "normalises over it")
    for port in parameters:
        if axes.has(port):
            for mine, theirs in zip(reversed(data[first:]), reversed(axes.input(port)), strict=False):
                if theirs:
                    axes.unify(mine, theirs)


@dims_rules.register("GroupNormalization")
def group_norm(axes: Axes) -> None:
    """Channels are groups times channels of a group; statistics run over the latter."""
    data, groups = axes.input(0), axes.attribute("num_groups")
    channels = axes.size(axes.op.input(0), 1)
    if channels is None:
        raise Unruly(f"{axes.op}: the number of its channels is not known")
    inner = axes.axis(channels // groups, axes.op.title)
    axes.unify(data[1], (*axes.axis(groups, f"groups of {axes.op}"), *inner))
    axes.inexact(inner, "normalises over it")
    old = (axes.known.graph.root.header.opset() or 21) < 21
    for port in (1, 2):
        axes.unify(axes.input(port)[0], axes.axis(groups) if old else data[1])
    axes.output(data)


@dims_rules.register("QuantizeLinear", "DequantizeLinear")
def quantize(axes: Axes) -> None:
    """Everything passes; scales and zero points lie along one axis, or hold a block of indices each."""
    data = axes.input(0)
    axis, block = axes.attribute("axis", 1) % max(len(data), 1), axes.attribute("block_size", 0)
    for port in (1, 2):
        if not axes.has(port) or not (scale := axes.input(port)):
            continue
        if len(scale) == 1 and scale[0]:
            axes.unify(data[axis], scale[0])
        elif len(scale) == len(data):
            for place, (mine, theirs) in enumerate(zip(data, scale, strict=True)):
                if place == axis and block:
                    axes.pin((*mine, *theirs), f"scales it in blocks of {block}")
                elif theirs:
                    axes.unify(mine, theirs)
    axes.output(data)
