"""Convolutions of one, two and three axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from secateur.backends.torch.call import Call, torch_rules
from secateur.backends.torch.lazy import functional, torch
from secateur.backends.torch.rules.activations import activation

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Window:
    """A window that slides over spatial axes: one number an axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def reach(self) -> tuple[int, ...]:
        """What the window spans, holes included."""
        return tuple((size - 1) * step + 1 for size, step in zip(self.kernel, self.dilations, strict=True))


def window(call: Call, kernel: Sequence[int], sizes: Sequence[int]) -> Window:
    """The window that an op's attributes say, its padding worked out."""
    rank = len(kernel)
    strides = tuple(call.attribute("strides") or [1] * rank)
    dilations = tuple(call.attribute("dilations") or [1] * rank)
    pads = tuple(call.attribute("pads") or [0] * (2 * rank))
    mode = call.attribute("auto_pad", "NOTSET")
    plain = Window(tuple(kernel), strides, dilations, pads[:rank], pads[rank:])
    if mode in ("NOTSET", ""):
        return plain
    zero = (0,) * rank
    if mode == "VALID":
        return Window(plain.kernel, strides, dilations, zero, zero)
    total = [
        max((-(-size // step) - 1) * step + reach - size, 0)
        for size, step, reach in zip(sizes, strides, plain.reach, strict=True)
    ]
    small, large = tuple(one // 2 for one in total), tuple(one - one // 2 for one in total)
    first, last = (small, large) if mode == "SAME_UPPER" else (large, small)
    return Window(plain.kernel, strides, dilations, first, last)


def padded(x: Tensor, before: Sequence[int], after: Sequence[int], number: float = 0.0) -> Tensor:
    """The last axes with so much put before and after them (or cut, where negative)."""
    if not any(before) and not any(after):
        return x
    pads = [amount for pair in zip(reversed(before), reversed(after), strict=True) for amount in pair]
    return functional.pad(x, pads, value=number)


def convolve(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Conv of tensors with the attributes of an op."""
    slide = window(call, weight.shape[2:], x.shape[2:])
    rank = len(slide.kernel)
    even = slide.before == slide.after
    if not even:
        x = padded(x, slide.before, slide.after)
    if rank == 0 or rank > 3:
        raise call.refuse(f"over {rank} axes")
    function = (functional.conv1d, functional.conv2d, functional.conv3d)[rank - 1]
    inner = slide.before if even else (0,) * rank
    return function(x, weight, bias, slide.strides, inner, slide.dilations, call.attribute("group", 1))


@torch_rules.register("Conv")
def _conv(call: Call) -> Tensor:
    return convolve(call, call[0], call[1], call.get(2))


@torch_rules.register("com.microsoft::FusedConv")
def _fused_conv(call: Call) -> Tensor:
    made = convolve(call, call[0], call[1], call.get(2))
    other = call.get(3)
    parameters = call.attribute("activation_params") or ()
    return activation(call.attribute("activation", ""), *parameters)(made if other is None else made + other)


@torch_rules.register("ConvTranspose")
def _conv_transpose(call: Call) -> Tensor:
    """All that the window touches is computed, then cut to the output: so padding may be uneven."""
    x, weight, bias = call[0], call[1], call.get(2)
    rank = x.dim() - 2
    if rank > 3:
        raise call.refuse(f"over {rank} axes")
    strides = tuple(call.attribute("strides") or [1] * rank)
    dilations = tuple(call.attribute("dilations") or [1] * rank)
    extra = tuple(call.attribute("output_padding") or [0] * rank)
    function = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[rank - 1]
    full = function(x, weight, None, strides, 0, 0, call.attribute("group", 1), dilations)
    sizes = [size + more for size, more in zip(full.shape[2:], extra, strict=True)]
    before, after = _cut(call, sizes, [size * step for size, step in zip(x.shape[2:], strides, strict=True)])
    after = [more - cut for more, cut in zip(extra, after, strict=True)]
    made = padded(full, [-cut for cut in before], after)
    return made if bias is None else made + bias.reshape(-1, *[1] * rank)


def _cut(call: Call, sizes: Sequence[int], same: Sequence[int]) -> tuple[list[int], list[int]]:
    """What is cut at the beginning and the end of each axis."""
    rank, mode = len(sizes), call.attribute("auto_pad", "NOTSET")
    wanted = call.attribute("output_shape")
    if wanted is None and mode in ("NOTSET", "", "VALID"):
        pads = list(call.attribute("pads") or [0] * (2 * rank)) if mode != "VALID" else [0] * (2 * rank)
        return pads[:rank], pads[rank:]
    wanted = same if wanted is None else wanted[-rank:]
    total = [size - goal for size, goal in zip(sizes, wanted, strict=True)]
    if mode == "SAME_UPPER":
        return [one // 2 for one in total], [one - one // 2 for one in total]
    return [one - one // 2 for one in total], [one // 2 for one in total]


@torch_rules.register("CausalConvWithState", "com.microsoft::CausalConvWithState")
def _causal(call: Call) -> tuple[Tensor, Tensor]:
    x, weight, bias, past = call[0], call[1], call.get(2), call.get(3)
    size = weight.shape[2] - 1
    front = torch.zeros(*x.shape[:2], size, dtype=x.dtype, device=x.device) if past is None else past
    whole = torch.cat([front, x], 2)
    made = functional.conv1d(whole, weight, bias, groups=x.shape[1])
    name = call.attribute("activation", "none")
    return activation("" if name == "none" else name)(made), whole[:, :, whole.shape[2] - size :]


@torch_rules.register("Col2Im")
def _columns_to_image(call: Call) -> Tensor:
    """Each position of the window adds its plane where it saw it: works for any number of axes."""
    x, image, block = call[0], call.ints(1) or [], call.ints(2) or []
    slide = window(call, block, image)
    sizes = [size + one + other for size, one, other in zip(image, slide.before, slide.after, strict=True)]
    steps = [
        (size - reach) // stride + 1 for size, reach, stride in zip(sizes, slide.reach, slide.strides, strict=True)
    ]
    columns = x.reshape(x.shape[0], -1, *block, *steps)
    made = torch.zeros(*columns.shape[:2], *sizes, dtype=x.dtype, device=x.device)
    for place in torch.cartesian_prod(*(torch.arange(size) for size in block)).reshape(-1, len(block)).tolist():
        spans = [
            slice(at * hole, at * hole + (count - 1) * stride + 1, stride)
            for at, hole, count, stride in zip(place, slide.dilations, steps, slide.strides, strict=True)
        ]
        plane = torch.zeros_like(made)
        plane[(slice(None), slice(None), *spans)] = columns[(slice(None), slice(None), *place)]
        made = made + plane
    return padded(made, [-one for one in slide.before], [-one for one in slide.after])
