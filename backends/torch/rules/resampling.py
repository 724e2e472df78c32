"""Resizing by interpolation, one axis after the other, and sampling at given places."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from secateur.backends.torch.call import Call, axis_of, torch_rules
from secateur.backends.torch.lazy import functional, torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Axis:
    """How one axis is resized: from `size` to `target`, `scale` times as large; the part `start` to `end` of it."""

    size: int
    target: int
    scale: float
    start: float = 0.0
    end: float = 1.0


@dataclass(frozen=True)
class How:
    """Resize's attributes."""

    mode: str = "nearest"
    places: str = "half_pixel"
    nearest: str = "round_prefer_floor"
    cubic: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False
    outside: float = 0.0


def _places(axis: Axis, how: How) -> NDArray[np.float32]:
    """Where each index of the output lies on the input axis, in float32 as onnxruntime computes it."""
    at, one = np.arange(axis.target, dtype=np.float32), np.float32
    scale, mode = one(axis.scale), how.places
    if mode == "align_corners":
        return at * one(axis.size - 1) / one(axis.target - 1) if axis.target > 1 else np.zeros_like(at)
    if mode == "asymmetric":
        return at / scale
    if mode == "pytorch_half_pixel" and axis.target == 1:
        return np.zeros_like(at)
    if mode == "tf_half_pixel_for_nn":
        return (at + one(0.5)) / scale
    if mode == "half_pixel_symmetric":
        adjusted = one(axis.target / (scale * axis.size))
        return one(axis.size / 2) * (1 - adjusted) + (at + one(0.5)) / scale - one(0.5)
    if mode == "tf_crop_and_resize":
        if axis.target == 1:
            return np.full(1, 0.5 * (axis.start + axis.end) * (axis.size - 1), np.float32)
        step = one((axis.end - axis.start) * (axis.size - 1) / (axis.target - 1))
        return one(axis.start * (axis.size - 1)) + at * step
    return (at + one(0.5)) / scale - one(0.5)


def _nearest(at: NDArray[Any], mode: str) -> Any:
    if mode == "floor":
        return np.floor(at)
    if mode == "ceil":
        return np.ceil(at)
    return np.ceil(at - np.float32(0.5)) if mode == "round_prefer_floor" else np.floor(at + np.float32(0.5))


def _kernel(distance: NDArray[Any], how: How) -> Any:
    """The weight of what lies so far away: a tent, or Keys' cubic (1981)."""
    away = np.abs(distance)
    if how.mode == "linear":
        return np.maximum(0, 1 - away)
    a = how.cubic
    near = ((a + 2) * away - (a + 3)) * away * away + 1
    far = ((away - 5) * away + 8) * away * a - 4 * a
    return np.where(away <= 1, near, np.where(away < 2, far, 0))


def _weights(axis: Axis, how: How) -> tuple[NDArray[Any], NDArray[Any]]:
    """For each index of the output: which inputs it reads [target, taps], and by what they are multiplied."""
    at = _places(axis, how)
    if how.mode == "nearest":
        chosen = _nearest(at, how.nearest).reshape(-1, 1)
        return np.clip(chosen, 0, axis.size - 1).astype(np.int64), np.ones((axis.target, 1))
    stretch = max(1.0, 1 / axis.scale) if how.antialias else 1.0
    reach = (1 if how.mode == "linear" else 2) * stretch
    span = 2 * math.ceil(reach) + (1 if how.antialias else 0)
    first = np.floor(at).astype(np.int64) - math.ceil(reach) + 1
    index = first.reshape(-1, 1) + np.arange(span)
    weight = _kernel((at.reshape(-1, 1).astype(np.float64) - index) / stretch, how)
    inside = (index >= 0) & (index < axis.size)
    if how.exclude_outside:
        weight = np.where(inside, weight, 0)
    if how.exclude_outside or how.antialias or how.mode == "linear":
        weight = weight / weight.sum(1, keepdims=True)
    return np.clip(index, 0, axis.size - 1), weight


def resize(x: Tensor, axes: dict[int, Axis], how: How) -> Tensor:
    """A tensor with some axes resized."""
    outside = None
    for number, axis in axes.items():
        if how.places == "tf_crop_and_resize":
            at = _places(axis, how)
            out = torch.from_numpy((at < 0) | (at > axis.size - 1)).to(x.device)
            shape = [-1 if one == number else 1 for one in range(x.dim())]
            outside = out.reshape(shape) if outside is None else outside | out.reshape(shape)
        elif axis.size == axis.target and axis.scale == 1:
            continue
        index, weight = _weights(axis, how)
        x = _combined(x, number, index, weight)
    return x if outside is None else torch.where(outside, how.outside, x).to(x.dtype)


def _combined(x: Tensor, axis: int, index: NDArray[Any], weight: NDArray[Any]) -> Tensor:
    places = torch.from_numpy(np.ascontiguousarray(index)).to(x.device)
    if weight.shape[1] == 1:
        return x.index_select(axis, places[:, 0])
    wide = x if x.is_floating_point() else x.to(torch.float32)
    factors = torch.from_numpy(weight).to(wide.dtype).to(x.device)
    shape = [-1 if one == axis else 1 for one in range(x.dim())]
    total = torch.zeros((), dtype=wide.dtype, device=x.device)
    for tap in range(weight.shape[1]):
        if weight[:, tap].any():
            total = total + wide.index_select(axis, places[:, tap]) * factors[:, tap].reshape(shape)
    return total if x.is_floating_point() else total.round().to(x.dtype)


@torch_rules.register("Resize")
def _resize(call: Call) -> Tensor:
    x = call[0]
    if call.opset < 11:
        return _scaled(
            call, x, call.raw(1).reshape(-1).tolist(), How(call.attribute("mode", "nearest"), "asymmetric", "floor")
        )
    how = How(
        mode=call.attribute("mode", "nearest"),
        places=call.attribute("coordinate_transformation_mode", "half_pixel"),
        nearest=call.attribute("nearest_mode", "round_prefer_floor"),
        cubic=call.attribute("cubic_coeff_a", -0.75),
        exclude_outside=bool(call.attribute("exclude_outside", 0)),
        antialias=bool(call.attribute("antialias", 0)),
        outside=call.attribute("extrapolation_value", 0.0),
    )
    return resize(x, _axes(call, x), how)


def _axes(call: Call, x: Tensor) -> dict[int, Axis]:
    said = call.attribute("axes")
    numbers = list(range(x.dim())) if said is None else [axis_of(axis, x.dim()) for axis in said]
    sizes, factors, region = call.ints(3), call.raw(2), call.raw(1)
    scales = [] if factors is None else factors.reshape(-1).tolist()
    if not scales and sizes:
        scales = _scales(call, [x.shape[axis] for axis in numbers], sizes)
        policy = call.attribute("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            sizes = [math.floor(scale * x.shape[axis] + 0.5) for axis, scale in zip(numbers, scales, strict=True)]
    corners = [] if region is None else region.reshape(-1).tolist()
    half = len(corners) // 2
    found = {}
    for place, (number, scale) in enumerate(zip(numbers, scales, strict=True)):
        size = x.shape[number]
        start, end = (corners[place], corners[half + place]) if corners else (0.0, 1.0)
        crops = call.attribute("coordinate_transformation_mode") == "tf_crop_and_resize"
        room = scale * size * (end - start if crops and not sizes else 1)
        found[number] = Axis(size, sizes[place] if sizes else math.floor(room), scale, start, end)
    return found


def _scales(call: Call, sizes: list[int], wanted: list[int]) -> list[float]:
    each = [goal / size for goal, size in zip(wanted, sizes, strict=True)]
    policy = call.attribute("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return each
    return [(min if policy == "not_larger" else max)(each)] * len(each)


@torch_rules.register("Upsample")
def _upsample(call: Call) -> Tensor:
    scales = list(call.attribute("scales") or ()) if call.opset < 9 else call.raw(1).reshape(-1).tolist()
    return _scaled(call, call[0], scales, How(call.attribute("mode", "nearest"), "asymmetric", "floor"))


def _scaled(call: Call, x: Tensor, scales: list[float], how: How) -> Tensor:
    """Before opset 11: places are `index / scale`, rounded down."""
    mode = "linear" if how.mode in ("linear", "bilinear") else how.mode
    axes = {
        number: Axis(x.shape[number], math.floor(x.shape[number] * scale), scale)
        for number, scale in enumerate(scales)
        if scale != 1
    }
    return resize(x, axes, How(mode, how.places, how.nearest))


@torch_rules.register("GridSample", "com.microsoft::GridSample")
def _grid_sample(call: Call) -> Tensor:
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(call.attribute("mode", "bilinear"), call.attribute("mode"))
    return functional.grid_sample(
        call[0],
        call[1].to(call[0].dtype),
        mode=mode or "bilinear",
        padding_mode=call.attribute("padding_mode", "zeros"),
        align_corners=bool(call.attribute("align_corners", 0)),
    )


@torch_rules.register("AffineGrid")
def _affine_grid(call: Call) -> Tensor:
    return functional.affine_grid(call[0], call.ints(1), align_corners=bool(call.attribute("align_corners", 0)))
