"""Normalisation: each channel by itself is exact, statistics over an axis are not."""

from __future__ import annotations

from secateur.ir.dims.algebra import Layout
from secateur.ir.dims.axes import Axes, Layouts, Unruly, dims_rules
from secateur.ir.dims.rules.agreement import fit, same
from secateur.ir.dims.rules.pointwise import broadcast_layouts


@dims_rules.register("BatchNormalization")
def batch_norm(axes: Axes) -> None:
    """Each channel by itself, with parameters for each; in training the statistics are those of the batch."""
    data = axes.input(0)
    for port in range(1, 5):
        for mine, theirs in zip(data[1:], axes.input(port), strict=False):
            same(axes, mine, theirs)
    if axes.attribute("training_mode", 0):
        _over(axes, [data[0], *data[2:]])
    axes.output(data)
    for port in range(1, len(axes.op.outputs)):
        axes.output([data[1]], port)


@dims_rules.register("InstanceNormalization")
def instance_norm(axes: Axes) -> None:
    """Each channel of each sample by itself, over its positions."""
    data = axes.input(0)
    for port in (1, 2):
        axes.unify(data[1], axes.input(port)[0])
    _over(axes, data[2:])
    axes.output(data)


def _over(axes: Axes, layouts: Layouts) -> None:
    for layout in layouts:
        axes.inexact(layout, "normalises over it")


@dims_rules.register("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def layer_norm(axes: Axes) -> None:
    """Statistics over the last axes, parameters for each of their indices; mean and deviation have ones there."""
    data = axes.input(0)
    first = axes.attribute("axis", -1) % len(data)
    _over(axes, data[first:])
    fit(axes, data, *(axes.input(port) for port in range(1, len(axes.op.inputs)) if axes.has(port)))
    axes.output(data)
    for port in range(1, len(axes.op.outputs)):
        axes.output([*data[:first], *([()] * (len(data) - first))], port)


@dims_rules.register("com.microsoft::SkipLayerNormalization", "com.microsoft::SkipSimplifiedLayerNormalization")
def skip_layer_norm(axes: Axes) -> None:
    """A sum of two, and a bias, normalised; the sum itself comes out too."""
    ports = [port for port in range(len(axes.op.inputs)) if axes.has(port)]
    data = broadcast_layouts(axes, [axes.input(port) for port in ports])
    _over(axes, data[-1:])
    statistics: Layouts = [*data[:-1], ()]
    for port, made in enumerate((data, statistics, statistics, data)):
        axes.output(made, port)


@dims_rules.register("com.microsoft::EmbedLayerNormalization")
def embedding_norm(axes: Axes) -> None:
    """Rows of up to three tables, picked by index, added and normalised."""
    ids = axes.input(0)
    hidden: Layout = ()
    for port in (2, 3, 4):
        if axes.has(port):
            rows, columns = axes.input(port)
            axes.pin(rows, "picks from it by index")
            hidden = same(axes, hidden, columns)
    for port in (5, 6):
        hidden = same(axes, hidden, axes.input(port)[0])
    _over(axes, [hidden])
    for port in (1, 7, 8):
        if axes.has(port):
            ids = broadcast_layouts(axes, [ids, axes.input(port)])
    if axes.has(7) or not axes.has(8):
        axes.pin(ids[1], "counts positions")
    axes.output([*ids, hidden])
    axes.output([ids[0]], 1)
    axes.output([*ids, hidden], 2)


@dims_rules.register("GroupNormalization")
def group_norm(axes: Axes) -> None:
    """Channels are groups times channels of a group; statistics run over the latter, and over positions."""
    data = axes.input(0)
    groups = _groups(axes, data[1], axes.attribute("num_groups"))
    _over(axes, data[2:])
    old = (axes.known.graph.root.header.opset() or 21) < 21
    for port in (1, 2):
        axes.unify(axes.input(port)[0], groups if old else data[1])
    axes.output(data)


@dims_rules.register("com.microsoft::GroupNorm", "com.microsoft::SkipGroupNorm")
def group_norm_of_diffusion(axes: Axes) -> None:
    """The same with channels first or last, after a sum with a skip [n, h, w, c] or [n, c], and a bias."""
    data, last = axes.input(0), axes.attribute("channels_last", 1)
    channels = data[-1 if last else 1]
    _groups(axes, channels, axes.attribute("groups"))
    _over(axes, data[1:-1] if last else data[2:])
    for port in (1, 2, 4):
        if axes.has(port):
            axes.unify(axes.input(port)[0], channels)
    if axes.has(3):
        skip = axes.input(3)
        if len(skip) == 2:
            skip = [skip[0], (), (), skip[1]] if last else [*skip, (), ()]
        fit(axes, data, skip)
    axes.output(data)
    axes.output(data, 1)


def _groups(axes: Axes, channels: Layout, groups: int) -> Layout:
    """Channels as groups times channels of each; returns the groups."""
    sizes = [dim.size for dim in channels]
    total = 1
    for size in sizes:
        if size is None:
            raise Unruly(f"{axes.op}: the number of its channels is not known")
        total *= size
    outer, inner = axes.axis(groups, f"groups of {axes.op}"), axes.axis(total // groups, axes.op.title)
    axes.unify(channels, (*outer, *inner))
    axes.inexact(inner, "normalises over it")
    return outer
