"""What a transposed convolution reads at each output position, so that it is patches times weights like any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from secateur.calib.patches import AnyArray


@dataclass(frozen=True)
class TransposedGeometry:
    """Where a transposed convolution puts what it reads: the attributes of ONNX `ConvTranspose`, all given.

    Position p of the input goes with tap t to position `p * stride + t * dilation - pad` of the output; read the other
    way round, an output position sees at tap t the input there, or zero (Dumoulin and Visin 2016, "A guide to
    convolution arithmetic for deep learning", section 4). With `output_shape`, pads follow from that; it may be empty.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    output_padding: tuple[int, ...]
    group: int = 1
    auto_pad: str = "NOTSET"
    wanted: tuple[int, ...] = ()

    @classmethod
    def of(cls, weight_shape: Sequence[int], attributes: Mapping[str, Any]) -> TransposedGeometry:
        """From the shape [c, n / group, *kernel] of a weight and the attributes of its op, with ONNX's defaults."""
        kernel = tuple(int(size) for size in weight_shape[2:])
        ones = (1,) * len(kernel)
        return cls(
            kernel,
            tuple(attributes.get("strides", ones)),
            tuple(attributes.get("dilations", ones)),
            tuple(attributes.get("pads", (0,) * 2 * len(kernel))),
            tuple(attributes.get("output_padding", (0,) * len(kernel))),
            int(attributes.get("group", 1)),
            str(attributes.get("auto_pad", "NOTSET")),
            tuple(attributes.get("output_shape", ())),
        )

    @property
    def extents(self) -> tuple[int, ...]:
        """How many positions the kernel spans along each axis."""
        return tuple((size - 1) * step + 1 for size, step in zip(self.kernel, self.dilations, strict=True))

    def placed(self, spatial: Sequence[int]) -> list[tuple[int, int]]:
        """For each axis of an input of this size: what is cut off before the output, and the size of the output."""
        rank = len(self.kernel)
        whole = [
            stride * (size - 1) + more + extent
            for size, stride, more, extent in zip(spatial, self.strides, self.output_padding, self.extents, strict=True)
        ]
        if self.wanted:
            sizes: Sequence[int] = self.wanted[-rank:]
        elif self.auto_pad.startswith("SAME"):
            # Pads are never negative: what is too short by the rule stays so, as in onnxruntime.
            sizes = [min(size * step, total) for size, step, total in zip(spatial, self.strides, whole, strict=True)]
        else:
            pads = self.pads if self.auto_pad == "NOTSET" else (0,) * 2 * rank
            ends = zip(whole, pads[:rank], pads[rank:], strict=True)
            return [(before, total - before - after) for total, before, after in ends]
        # Where the rest is odd, one more goes where the rule says.
        cut = [max(0, total - size) for total, size in zip(whole, sizes, strict=True)]
        begins = [rest // 2 if self.auto_pad == "SAME_UPPER" else rest - rest // 2 for rest in cut]
        return list(zip(begins, sizes, strict=True))

    def windows(self, x: AnyArray) -> AnyArray:
        """[samples, c, *output, *kernel] of an input [samples, c, *spatial]: what each output position sees of it.

        Raises:
            ValueError: the rank is another, or the groups do not divide the channels.
        """
        rank = len(self.kernel)
        if x.ndim != rank + 2 or x.shape[1] % self.group:
            raise ValueError(f"x has shape {x.shape}, expected rank {rank + 2} and channels divisible by {self.group}")
        placed = self.placed(x.shape[2:])
        # The first and the last tap of the first output see `extent - 1 - begin` positions before the input.
        sizes = [size + extent - 1 for (_, size), extent in zip(placed, self.extents, strict=True)]
        spread = np.zeros((*x.shape[:2], *sizes), x.dtype)
        into: list[slice] = []
        out_of: list[slice] = []
        axes = zip(placed, self.extents, self.strides, x.shape[2:], sizes, strict=True)
        for (begin, _), extent, stride, count, size in axes:
            places = extent - 1 - begin + stride * np.arange(count)
            inside = np.flatnonzero((places >= 0) & (places < size))
            first, last = (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 0)
            start = int(places[first]) if last else 0
            into.append(slice(start, start + stride * (last - first), stride))
            out_of.append(slice(first, last))
        everything = (slice(None), slice(None))
        target = spread[(*everything, *into)]
        source = x[(*everything, *out_of)]
        target[...] = source[tuple(slice(0, size) for size in target.shape)]
        windows = np.lib.stride_tricks.sliding_window_view(spread, self.extents, axis=tuple(range(2, 2 + rank)))
        by_dilation = tuple(slice(None, None, step) for step in self.dilations)
        backwards = (slice(None, None, -1),) * rank
        taken = windows[(*everything, *(slice(None),) * rank, *by_dilation)]
        return taken[(*everything, *(slice(None),) * rank, *backwards)]
