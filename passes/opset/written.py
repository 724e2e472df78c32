"""Operators that are written otherwise since an opset, and mean the same: most often an attribute became an input."""

from __future__ import annotations

from secateur.ir import Op
from secateur.ir.types import DataType
from secateur.passes.opset.change import Place

_FLOATS = (DataType.FLOAT32, DataType.FLOAT16, DataType.FLOAT64, DataType.BFLOAT16)
_LARGEST = 3.4028234663852886e38


def move_axes(place: Place, op: Op) -> None:
    """Squeeze, Unsqueeze and ReduceSum since opset 13, other reductions since 18."""
    _move_integers(place, op, "axes")


def move_split(place: Place, op: Op) -> None:
    """Split since opset 13."""
    _move_integers(place, op, "split")


def _move_integers(place: Place, op: Op, name: str) -> None:
    found = op.attribute(name)
    if found is not None:
        place.graph.set_attribute(op, name, None)
        place.graph.set_inputs(op, [op.input(0), place.integers(op, name, found)])


def count_outputs(place: Place, op: Op) -> None:
    """Split since opset 18: equal parts are asked for by their number."""
    if op.input(1) is None:
        place.graph.set_attribute(op, "num_outputs", len(op.outputs))


def rename_mode(place: Place, op: Op) -> None:
    """GridSample since opset 20."""
    found = op.attribute("mode", "bilinear")
    place.graph.set_attribute(op, "mode", {"bilinear": "linear", "bicubic": "cubic"}.get(found, found))


def move_bounds(place: Place, op: Op) -> None:
    """Clip since opset 11; a bound that is left out is the largest number of the data's type now, of float32 before."""
    dtype = place.dtype(op.input(0))
    bounds = []
    for name, widest in (("min", -_LARGEST), ("max", _LARGEST)):
        found = op.attribute(name, widest if dtype is DataType.FLOAT64 else None)
        place.graph.set_attribute(op, name, None)
        bounds.append(None if found is None else place.constant(op, name, found, dtype))
    while bounds and bounds[-1] is None:
        bounds.pop()
    place.graph.set_inputs(op, [op.input(0), *bounds])


def unknown_bounds(place: Place, op: Op) -> str | None:
    """The constants need the type of the data."""
    if op.attribute("min") is None and op.attribute("max") is None:
        return None
    return _unknown_type(place, op)


def move_pads(place: Place, op: Op) -> None:
    """Pad since opset 11."""
    inputs = [op.input(0), place.integers(op, "pads", op.attribute("pads", ()))]
    if value := op.attribute("value", 0.0):
        inputs.append(place.constant(op, "value", value, place.dtype(op.input(0))))
    for name in ("pads", "value"):
        place.graph.set_attribute(op, name, None)
    place.graph.set_inputs(op, inputs)


def unknown_padding(place: Place, op: Op) -> str | None:
    """A value other than zero needs the type of the data."""
    return _unknown_type(place, op) if op.attribute("value", 0.0) else None


def _unknown_type(place: Place, op: Op) -> str | None:
    return None if place.dtype(op.input(0)) in _FLOATS else "the element type of what it reads is not known"


def move_range(place: Place, op: Op) -> None:
    """Slice since opset 10."""
    names = [name for name in ("starts", "ends", "axes") if op.attribute(name) is not None]
    moved = [place.integers(op, name, op.attribute(name)) for name in names]
    for name in names:
        place.graph.set_attribute(op, name, None)
    place.graph.set_inputs(op, [op.input(0), *moved])


def move_count(place: Place, op: Op) -> None:
    """TopK since opset 10."""
    count = place.integers(op, "k", [op.attribute("k")])
    place.graph.set_attribute(op, "k", None)
    place.graph.set_inputs(op, [op.input(0), count])


def move_ratio(place: Place, op: Op) -> None:
    """Dropout since opset 12; what it would drop in training is kept, though nobody trains here."""
    ratio = op.attribute("ratio")
    place.graph.set_attribute(op, "ratio", None)
    if ratio is not None:
        place.graph.set_inputs(op, [op.input(0), place.constant(op, "ratio", ratio, DataType.FLOAT32)])


def forget_mask_type(place: Place, op: Op) -> None:
    """Dropout since opset 10: its mask is of truth values."""
    for mask in op.outputs[1:]:
        if mask is not None:
            mask.type = None


def read_mask(place: Place, op: Op) -> str | None:
    """Before, the mask was of the type of the data."""
    used = any(mask is not None and place.graph.is_used(mask) for mask in op.outputs[1:])
    return "the mask that it gives has truth values since opset 10, and something reads it" if used else None


def forget_spatial(place: Place, op: Op) -> None:
    """BatchNormalization since opset 9."""
    place.graph.set_attribute(op, "spatial", None)


def own_statistics(place: Place, op: Op) -> str | None:
    """One mean for each number of an image, not for each channel."""
    return None if op.attribute("spatial", 1) else "spatial=0 is no more since opset 9"


def more_outputs(place: Place, op: Op) -> str | None:
    """BatchNormalization in training."""
    return "its further outputs changed" if len(op.outputs) > 1 else None


def call_it_scatter_elements(place: Place, op: Op) -> None:
    """Scatter was renamed in opset 11."""
    op.op_type = "ScatterElements"
