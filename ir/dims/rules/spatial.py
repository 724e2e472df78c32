"""Ops that move over positions in space and treat every channel alike."""

from __future__ import annotations

from secateur.ir.dims.axes import Axes, dims_rules
from secateur.ir.dims.rules.contractions import SPACE


@dims_rules.register(*"MaxPool AveragePool LpPool GlobalMaxPool GlobalAveragePool GlobalLpPool".split())
def pool(axes: Axes) -> None:
    """Batch and channels pass; positions are new."""
    data = axes.input(0)
    for port in range(len(axes.op.outputs)):
        made = axes.fresh_output(port)
        for layout in (*made[2:], *data[2:]):
            axes.pin(layout, SPACE)
        axes.output([*data[:2], *made[2:]], port)
    if len(axes.op.outputs) > 1 and axes.op.outputs[1] is not None:
        axes.pin(data[1], "gives positions that count channels")


@dims_rules.register("Resize", "Upsample")
def resize(axes: Axes) -> None:
    """Axes that keep their size pass; the others are positions in space."""
    data, made = axes.input(0), axes.fresh_output()
    shape, result = axes.known.shape(axes.op.input(0)), axes.known.shape(axes.op.outputs[0])
    for axis, layout in enumerate(made):
        same = axis < 2 and (shape is None or result is None or shape[axis] == result[axis])
        if same:
            made[axis] = data[axis]
        else:
            axes.pin((*layout, *data[axis]), SPACE)
    axes.output(made)


@dims_rules.register("GridSample", "RoiAlign")
def sample(axes: Axes) -> None:
    """Channels pass."""
    data, made = axes.input(0), axes.fresh_output()
    for layout in (*data[2:], *made[2:], *(one for port in range(1, len(axes.op.inputs)) for one in axes.input(port))):
        axes.pin(layout, SPACE)
    axes.output([made[0], data[1], *made[2:]])
