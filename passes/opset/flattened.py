"""Softmax, LogSoftmax and Hardmax, which before opset 13 went over an axis and all behind it together."""

from __future__ import annotations

from secateur.ir import Op
from secateur.ir.build import emit
from secateur.passes.opset.change import Place
from secateur.passes.rewriter import replace_value, sweep


def flatten(place: Place, op: Op) -> None:
    """One axis is named where the others have one number each; else the data becomes a matrix and is unfolded again."""
    graph, axis = place.graph, _only_axis(place, op)
    if axis is not None:
        graph.set_attribute(op, "axis", axis)
        return
    data, old = op.input(0), op.output
    shape = emit(graph, "Shape", [data], like=op).output
    matrix = emit(graph, "Flatten", [data], {"axis": op.attribute("axis", 1)}, like=op).output
    made = emit(graph, op.op_type, [matrix], {"axis": 1}, like=op).output
    unfolded = emit(graph, "Reshape", [made, shape], like=op).output
    replace_value(graph, old, unfolded, rename=True)
    sweep(graph, op)


def look_at_shape(place: Place, op: Op) -> str | None:
    """Never refuses: asks for the shape while the model is whole."""
    _only_axis(place, op)
    return None


def _only_axis(place: Place, op: Op) -> int | None:
    """The axis that all the numbers of one sum lie along, None where there are several or it is not known."""
    axis = op.attribute("axis", 1)
    if axis == -1:
        return -1
    shape = place.known.shape(op.input(0))
    if shape is None:
        return None
    first = axis % len(shape) if shape else 0
    wide = [at for at in range(first, len(shape)) if shape[at] != 1]
    if len(wide) > 1 or first >= len(shape):
        return None
    return wide[0] if wide else first
