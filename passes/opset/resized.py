"""Upsample and Resize, which came to have a choice of where pixels lie."""

from __future__ import annotations

import numpy as np

from secateur.ir import Op
from secateur.ir.types import DataType
from secateur.passes.opset.change import Place

_DROPPED_MODE = "tf_half_pixel_for_nn"


def upsample(place: Place, op: Op) -> None:
    """Upsample is a Resize since opset 10. It only enlarges: the nearest pixel is the one at or before the place."""
    scales = op.input(1)
    if (found := op.attribute("scales")) is not None:
        place.graph.set_attribute(op, "scales", None)
        scales = place.constant(op, "scales", found, DataType.FLOAT32)
    op.op_type = "Resize"
    _write(place, op, "floor")
    place.graph.set_inputs(op, [op.input(0), None, scales])


def place_pixels(place: Place, op: Op) -> None:
    """Resize since opset 11: there was one choice before."""
    _write(place, op, "ceil" if _shrinks(place, op) else "floor")
    place.graph.set_inputs(op, [op.input(0), None, op.input(1)])


def _write(place: Place, op: Op, nearest: str) -> None:
    place.graph.set_attribute(op, "coordinate_transformation_mode", "asymmetric")
    if op.attribute("mode", "nearest") == "nearest":
        place.graph.set_attribute(op, "nearest_mode", nearest)


def both_ways(place: Place, op: Op) -> str | None:
    """The nearest pixel is the one before the place where an axis grows, the one behind it where it shrinks."""
    if op.attribute("mode", "nearest") != "nearest":
        return None
    if place.graph.constant(op.input(1)) is None:
        return "which pixel is the nearest depends on its scales, which are not constant"
    grows = (_scales(place, op) > 1).any()
    return "it enlarges one axis and shrinks another" if grows and _shrinks(place, op) else None


def _shrinks(place: Place, op: Op) -> bool:
    return place.graph.constant(op.input(1)) is not None and bool((_scales(place, op) < 1).any())


def _scales(place: Place, op: Op) -> np.ndarray:
    tensor = place.graph.constant(op.input(1))
    assert tensor is not None, "asked for scales that are not constant"
    return tensor.numpy()


def leave_out_empty(place: Place, op: Op) -> None:
    """Resize since opset 13: regions or scales that are not given may be left out, and need not be empty lists."""
    tensors = [place.graph.constant(value) for value in op.inputs]
    kept = (found is None or found.size > 0 for found in tensors)
    place.graph.set_inputs(op, [value if keep else None for value, keep in zip(op.inputs, kept, strict=True)])


def dropped_mode(place: Place, op: Op) -> str | None:
    """One choice of opset 11 was taken back."""
    mode = op.attribute("coordinate_transformation_mode", "half_pixel")
    return f"{mode} is no more since opset 13" if mode == _DROPPED_MODE else None
