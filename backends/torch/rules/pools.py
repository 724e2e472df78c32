"""Pools: the largest, the mean or the norm of what a window sees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from secateur.backends.torch.call import Call, torch_rules
from secateur.backends.torch.lazy import functional, torch
from secateur.backends.torch.rules.convolutions import Window, padded, window

if TYPE_CHECKING:
    from torch import Tensor


def _steps(call: Call, slide: Window, sizes: Sequence[int]) -> list[int]:
    """How many positions the window takes along each axis; the last starts within the input or the padding before."""
    found = []
    ceil = call.attribute("ceil_mode", 0) and call.attribute("auto_pad", "NOTSET") in ("NOTSET", "")
    for size, reach, stride, before, after in zip(
        sizes, slide.reach, slide.strides, slide.before, slide.after, strict=True
    ):
        room = size + before + after - reach
        count = (-(-room // stride) if ceil else room // stride) + 1
        found.append(count - 1 if ceil and (count - 1) * stride >= size + before else count)
    return found


def _covered(call: Call, slide: Window, sizes: Sequence[int]) -> list[int]:
    """How much must follow an axis, so that every position of the window finds something."""
    return [
        (count - 1) * stride + reach - size - before
        for count, stride, reach, size, before in zip(
            _steps(call, slide, sizes), slide.strides, slide.reach, sizes, slide.before, strict=True
        )
    ]


def _kernel(call: Call) -> tuple[int, ...]:
    return tuple(call.attribute("kernel_shape"))


@torch_rules.register("MaxPool")
def _max_pool(call: Call) -> Tensor | tuple[Tensor, Tensor]:
    x = call[0]
    slide = window(call, _kernel(call), x.shape[2:])
    whole = not x.is_floating_point()
    number = float(torch.iinfo(x.dtype).min) if whole else -math.inf
    # The numbers of whole types that pools see (8 bits) are exact in float32.
    wide = padded(x.to(torch.float32) if whole else x, slide.before, _covered(call, slide, x.shape[2:]), number)
    rank = len(slide.kernel)
    function = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[rank - 1]
    made = function(wide, slide.kernel, slide.strides, 0, slide.dilations, return_indices=call.wants(1))
    if not call.wants(1):
        return made.to(x.dtype)
    best, places = made
    return best.to(x.dtype), _counted(call, places, wide.shape[2:], x.shape, slide.before)


def _counted(call: Call, places: Tensor, inner: Sequence[int], shape: Sequence[int], before: Sequence[int]) -> Tensor:
    """Positions in padded planes as positions in the whole input, batch and channels included."""
    along = []
    for size in reversed(inner):
        along.append(places % size)
        places = places // size
    axes = [one - cut for one, cut in zip(reversed(along), before, strict=True)]
    sizes = list(shape[2:])
    if call.attribute("storage_order", 0):
        axes, sizes = axes[::-1], sizes[::-1]
    found = torch.zeros_like(places)
    for one, size in zip(axes, sizes, strict=True):
        found = found * size + one
    planes = torch.arange(shape[0] * shape[1], device=places.device).reshape(*shape[:2], *[1] * len(sizes))
    return found + planes * math.prod(sizes)


def _window_sum(x: Tensor, slide: Window) -> Tensor:
    rank = len(slide.kernel)
    if all(step == 1 for step in slide.dilations):
        function = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[rank - 1]
        return function(x, slide.kernel, slide.strides) * math.prod(slide.kernel)
    function = (functional.conv1d, functional.conv2d, functional.conv3d)[rank - 1]
    ones = torch.ones(1, 1, *slide.kernel, dtype=x.dtype, device=x.device)
    made = function(x.reshape(-1, 1, *x.shape[2:]), ones, None, slide.strides, 0, slide.dilations)
    return made.reshape(*x.shape[:2], *made.shape[2:])


@torch_rules.register("AveragePool")
def _average_pool(call: Call) -> Tensor:
    return average_pool(call, call[0])


def average_pool(call: Call, x: Tensor) -> Tensor:
    """The mean of what the window sees of the input, and of the padding if that counts; never of what lies beyond."""
    slide = window(call, _kernel(call), x.shape[2:])
    covered = _covered(call, slide, x.shape[2:])
    total = _window_sum(padded(x, slide.before, covered), slide)
    ones = torch.ones(1, 1, *x.shape[2:], dtype=x.dtype, device=x.device)
    if call.attribute("count_include_pad", 0):
        ones = padded(ones, slide.before, slide.after, 1.0)
        covered = [more - after for more, after in zip(covered, slide.after, strict=True)]
        return total / _window_sum(padded(ones, [0] * len(covered), covered), slide)
    return total / _window_sum(padded(ones, slide.before, covered), slide)


@torch_rules.register("LpPool")
def _lp_pool(call: Call) -> Tensor:
    x, p = call[0], call.attribute("p", 2)
    slide = window(call, _kernel(call), x.shape[2:])
    powers = padded(x.abs() ** p, slide.before, _covered(call, slide, x.shape[2:]))
    return _window_sum(powers, slide) ** (1 / p)


def _spatial(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.dim()))


@torch_rules.register("GlobalAveragePool")
def _global_average(call: Call) -> Tensor:
    return call[0].mean(_spatial(call[0]), keepdim=True)


@torch_rules.register("GlobalMaxPool")
def _global_max(call: Call) -> Tensor:
    return call[0].amax(_spatial(call[0]), keepdim=True)


@torch_rules.register("GlobalLpPool")
def _global_lp(call: Call) -> Tensor:
    p = call.attribute("p", 2)
    return (call[0].abs() ** p).sum(_spatial(call[0]), keepdim=True) ** (1 / p)


@torch_rules.register("MaxUnpool")
def _max_unpool(call: Call) -> Tensor:
    x, places, wanted = call[0], call[1], call.ints(2)
    slide = window(call, _kernel(call), x.shape[2:])
    sizes = [
        (size - 1) * stride + length - before - after
        for size, stride, length, before, after in zip(
            x.shape[2:], slide.strides, slide.kernel, slide.before, slide.after, strict=True
        )
    ]
    shape = [*x.shape[:2], *sizes]
    made = torch.zeros(math.prod(shape), dtype=x.dtype, device=x.device)
    made = made.scatter(0, places.reshape(-1), x.reshape(-1)).reshape(shape)
    if wanted is None:
        return made
    return padded(made, [0] * len(sizes), [goal - size for goal, size in zip(wanted[2:], sizes, strict=True)])


@torch_rules.register("com.microsoft::NhwcMaxPool")
def _max_pool_channels_last(call: Call) -> Tensor:
    x = call[0]
    rank = x.dim() - 2
    inner = x.permute(0, rank + 1, *range(1, rank + 1))
    slide = window(call, _kernel(call), inner.shape[2:])
    wide = padded(inner.to(torch.float32), slide.before, _covered(call, slide, inner.shape[2:]), -math.inf)
    function = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[rank - 1]
    made = function(wide, slide.kernel, slide.strides, 0, slide.dilations)
    return made.permute(0, *range(2, rank + 2), 1).to(x.dtype)
