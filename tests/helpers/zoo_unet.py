"""A denoising network in plain torch: the U-Net of diffusion models (Ho et al. 2020, appendix B), with attention."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from helpers.zoo_torch import Recipe, ids, normal
from torch import Tensor, nn
from torch.nn import functional


class Residual(nn.Module):
    """GroupNorm, SiLU, convolution, twice; the time embedding is added to the channels in between."""

    def __init__(self, inputs: int, outputs: int, time: int, groups: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(time, outputs)
        self.norm2, self.conv2 = nn.GroupNorm(groups, outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, value: Tensor, time: Tensor) -> Tensor:
        hidden = self.conv1(functional.silu(self.norm1(value)))
        hidden = hidden + self.time(functional.silu(time))[:, :, None, None]
        return self.skip(value) + self.conv2(functional.silu(self.norm2(hidden)))


class Attention(nn.Module):
    """Self-attention over the pixels; query, key and value come from one packed 1x1 convolution."""

    def __init__(self, width: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, width)
        self.packed, self.out = nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1)

    def forward(self, value: Tensor) -> Tensor:
        batch, width, rows, columns = value.shape
        packed = self.packed(self.norm(value)).reshape(batch, 3, self.heads, width // self.heads, rows * columns)
        query, key, content = packed.transpose(3, 4).unbind(1)
        mixed = functional.scaled_dot_product_attention(query, key, content)
        return value + self.out(mixed.transpose(2, 3).reshape(batch, width, rows, columns))


class UNet(nn.Module):
    """Down through `widths` and up again; each step down is remembered, and concatenated on the way up.

    Args:
        widths: channels of each resolution, halved from one to the next.
        attend: resolutions, as indices into `widths`, that have attention; so has the bottom.
        heads, groups: of attention and of GroupNorm; both must divide the widths that they meet.
        blocks: residual blocks at each resolution.
    """

    def __init__(self, widths: Sequence[int], attend: Sequence[int], heads: int, groups: int, blocks: int) -> None:
        super().__init__()
        first, time = widths[0], 4 * widths[0]
        self.embed = nn.Sequential(nn.Linear(first, time), nn.SiLU(), nn.Linear(time, time))
        self.stem = nn.Conv2d(3, first, 3, padding=1)
        self.first = first

        def stage(inputs: int, level: int) -> nn.ModuleList:
            attention = Attention(widths[level], heads, groups) if level in attend else nn.Identity()
            return nn.ModuleList([Residual(inputs, widths[level], time, groups), attention])

        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.shrink, self.grow = nn.ModuleDict(), nn.ModuleDict()
        kept, width = [first], first
        for level, outputs in enumerate(widths):
            for _ in range(blocks):
                self.down.append(stage(width, level))
                width = outputs
                kept.append(width)
            if level + 1 < len(widths):
                self.shrink[str(len(self.down))] = nn.Conv2d(width, width, 3, 2, 1)
                kept.append(width)
        bottom = [Residual(width, width, time, groups) for _ in range(2)]
        self.middle = nn.ModuleList([bottom[0], Attention(width, heads, groups), bottom[1]])
        for level, outputs in reversed(list(enumerate(widths))):
            for _ in range(blocks + 1):
                self.up.append(stage(width + kept.pop(), level))
                width = outputs
            if level > 0:
                self.grow[str(len(self.up))] = nn.Conv2d(width, width, 3, padding=1)
        self.out = nn.Sequential(nn.GroupNorm(groups, width), nn.SiLU(), nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, noisy: Tensor, timestep: Tensor) -> Tensor:
        time = self.embed(self.waves(timestep))
        value = self.stem(noisy)
        kept = [value]
        for index, (residual, attention) in enumerate(self.down, start=1):
            value = attention(residual(value, time))
            kept.append(value)
            if str(index) in self.shrink:
                value = self.shrink[str(index)](value)
                kept.append(value)
        first, attention, second = self.middle
        value = second(attention(first(value, time)), time)
        for index, (residual, attention) in enumerate(self.up, start=1):
            value = attention(residual(torch.cat([value, kept.pop()], 1), time))
            if str(index) in self.grow:
                value = self.grow[str(index)](functional.interpolate(value, scale_factor=2.0, mode="nearest"))
        return self.out(value)

    def waves(self, timestep: Tensor) -> Tensor:
        """Sines and cosines of the time at `first` / 2 frequencies (Vaswani et al. 2017, section 3.5)."""
        half = self.first // 2
        frequencies = torch.exp(torch.arange(half) * (-math.log(10000) / (half - 1)))
        angles = timestep.float()[:, None] * frequencies[None]
        return torch.cat([angles.sin(), angles.cos()], 1)


def unet(small: bool) -> Recipe:
    """The small one has 24 and 40 channels; the large one has the 35.7 million parameters of the CIFAR-10 model."""
    module = UNet((24, 40), (1,), 5, 4, 1) if small else UNet((128, 256, 256, 256), (1,), 1, 32, 2)
    batch, size = (2, (12, 14)) if small else (1, (32, 32))
    inputs = {"noisy": normal(batch, 3, *size), "timestep": ids(1000, batch)}
    return Recipe(module, inputs, ("noise",), symbols={name: {0: "batch"} for name in inputs})
