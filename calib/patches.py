"""What a convolution reads at each output position, as rows: im2col, a chunk at a time.

With these rows a convolution is a matrix product like any other, so that the solvers need to know nothing of kernels,
pads or strides: `patches(x)[g] @ weight[g].reshape(outputs, -1).T` gives the outputs of group g, where a row is
(sample, output position) and a column is (input channel, kernel tap), channels slowest, as in the ONNX weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from secateur.calib.gram import Gram

AnyArray: TypeAlias = npt.NDArray[Any]
Positions: TypeAlias = npt.NDArray[np.int64]

#: Bytes of patches that are gathered at a time.
_CHUNK_BYTES = 1 << 25


class Geometry(Protocol):
    """Where an op with a kernel reads: a convolution, or a transposed one (`calib.transposed`)."""

    @property
    def kernel(self) -> tuple[int, ...]:
        """Taps along each axis."""
        ...

    @property
    def group(self) -> int:
        """Into how many parts the channels are split."""
        ...

    def windows(self, x: AnyArray) -> AnyArray:
        """[samples, c, *output, *kernel] what the kernel sees at each output position."""
        ...


@dataclass(frozen=True)
class ConvGeometry:
    """Where a convolution over s spatial dimensions reads: the attributes of ONNX `Conv`, all given.

    `pads` are (before, ...; after, ...) as in ONNX; `auto_pad` other than NOTSET takes their place.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    group: int = 1
    auto_pad: str = "NOTSET"

    def __post_init__(self) -> None:
        rank = len(self.kernel)
        if (len(self.strides), len(self.dilations), len(self.pads)) != (rank, rank, 2 * rank):
            raise ValueError(f"strides, dilations and pads do not fit a kernel of rank {rank}: {self}")
        if self.auto_pad not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
            raise ValueError(f"unknown auto_pad {self.auto_pad!r}")
        if min(self.pads, default=0) < 0 or self.group < 1:
            raise ValueError(f"negative pads or no group: {self}")

    @classmethod
    def of(cls, weight_shape: Sequence[int], attributes: Mapping[str, Any]) -> ConvGeometry:
        """From the shape [n, c / group, *kernel] of a weight and the attributes of its `Conv`, with ONNX's defaults."""
        kernel = tuple(int(size) for size in weight_shape[2:])
        ones = (1,) * len(kernel)
        return cls(
            kernel,
            tuple(attributes.get("strides", ones)),
            tuple(attributes.get("dilations", ones)),
            tuple(attributes.get("pads", (0,) * 2 * len(kernel))),
            int(attributes.get("group", 1)),
            str(attributes.get("auto_pad", "NOTSET")),
        )

    def padding(self, spatial: Sequence[int]) -> list[tuple[int, int]]:
        """How many zeros go before and after each spatial axis of an input of this size."""
        rank = len(self.kernel)
        if self.auto_pad == "NOTSET":
            return list(zip(self.pads[:rank], self.pads[rank:], strict=True))
        if self.auto_pad == "VALID":
            return [(0, 0)] * rank
        totals = [
            max(0, (-(-size // stride) - 1) * stride + extent - size)
            for size, stride, extent in zip(spatial, self.strides, self.extents, strict=True)
        ]
        halves = [(total // 2, total - total // 2) for total in totals]
        return halves if self.auto_pad == "SAME_UPPER" else [(after, before) for before, after in halves]

    @property
    def extents(self) -> tuple[int, ...]:
        """How many input positions the kernel spans along each axis, from its first tap to its last."""
        return tuple((size - 1) * step + 1 for size, step in zip(self.kernel, self.dilations, strict=True))

    def output_shape(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """The spatial shape of the output for an input of this spatial shape."""
        axes = zip(spatial, self.padding(spatial), self.extents, self.strides, strict=True)
        return tuple((size + before + after - extent) // stride + 1 for size, (before, after), extent, stride in axes)

    def windows(self, x: AnyArray) -> AnyArray:
        """A view [samples, c, *output, *kernel] of the padded input: what the kernel sees at each output position.

        Raises:
            ValueError: the kernel does not fit into `x`, or the groups do not divide its channels.
        """
        rank = len(self.kernel)
        if x.ndim != rank + 2 or x.shape[1] % self.group:
            raise ValueError(f"x has shape {x.shape}, expected rank {rank + 2} and channels divisible by {self.group}")
        spatial = x.shape[2:]
        if min(self.output_shape(spatial)) < 1:
            raise ValueError(f"a kernel that spans {self.extents} does not fit into an input of shape {x.shape}")
        padding = self.padding(spatial)
        padded = np.pad(x, [(0, 0), (0, 0), *padding]) if any(map(any, padding)) else x
        windows = np.lib.stride_tricks.sliding_window_view(padded, self.extents, axis=tuple(range(2, 2 + rank)))
        by_stride = tuple(slice(None, None, step) for step in self.strides)
        by_dilation = tuple(slice(None, None, step) for step in self.dilations)
        return windows[(slice(None), slice(None), *by_stride, *by_dilation)]


def sample_positions(
    samples: int, output_shape: Sequence[int], per_sample: int | None, seed: int | Sequence[int]
) -> Positions:
    """Random output positions of each sample, without repetition, as flat indices [samples, p] in rising order.

    p is `per_sample`, or all positions if there are not more. The same positions must be taken of inputs and of
    targets, and of the dense and of the compressed model: derive `seed` from the batch's number, as in `(seed, batch)`.
    He et al. 2017, "Channel Pruning for Accelerating Very Deep Neural Networks", section 4, take 10 positions.
    """
    total = int(np.prod(output_shape, dtype=np.int64))
    if per_sample is None or per_sample >= total:
        return np.tile(np.arange(total), (samples, 1))
    random = np.random.default_rng(seed)
    chosen = [random.choice(total, per_sample, replace=False, shuffle=False) for _ in range(samples)]
    return np.sort(np.asarray(chosen, dtype=np.int64).reshape(samples, per_sample), axis=1)


def patches(x: AnyArray, geometry: Geometry, positions: Positions | None = None) -> AnyArray:
    """All patches at once: [group, samples * positions, c / group * taps], in the dtype of x.

    Args:
        x: [samples, c, *spatial] input of the convolution.
        geometry: where it reads.
        positions: [samples, p] flat output positions from `sample_positions`; None takes all, in order.

    Raises:
        ValueError: x has not the rank or the channels that the geometry asks for, or the kernel does not fit in.
    """
    chunks = [chunk for _, chunk in iterate_patches(x, geometry, positions)]
    return np.concatenate(chunks, axis=1)


def iterate_patches(
    x: AnyArray, geometry: Geometry, positions: Positions | None = None, chunk_bytes: int = _CHUNK_BYTES
) -> Iterator[tuple[slice, AnyArray]]:
    """The rows of `patches` in order, a chunk at a time: (which rows, patches [group, rows, c / group * taps]).

    No more than `chunk_bytes` of patches are in memory, or those of one output position if they are larger.
    """
    windows = geometry.windows(x)
    samples, rank = len(x), len(geometry.kernel)
    output_shape = windows.shape[2 : 2 + rank]
    total = int(np.prod(output_shape, dtype=np.int64))
    taps = windows.shape[1] * int(np.prod(geometry.kernel, dtype=np.int64))
    if positions is not None and len(positions) != samples:
        raise ValueError(f"positions are for {len(positions)} samples, x has {samples}")
    per_sample = total if positions is None else positions.shape[1]
    rows = samples * per_sample
    step = max(1, chunk_bytes // (taps * x.itemsize))
    for start, stop in pairwise([*range(0, rows, step), rows]):
        sample, place = np.divmod(np.arange(start, stop), per_sample)
        flat = place if positions is None else positions[sample, place]
        # Index arrays on both sides of the channel axis put the row axis first: [rows, c, *kernel].
        index: tuple[Any, ...] = (sample, slice(None), *np.unravel_index(flat, output_shape))
        grouped = windows[index].reshape(stop - start, geometry.group, -1)
        yield slice(start, stop), np.moveaxis(grouped, 1, 0)


def output_rows(y: AnyArray, positions: Positions | None = None) -> AnyArray:
    """The outputs [samples, n, *spatial] of a convolution as rows [samples * positions, n] that belong to `patches`."""
    flat = np.moveaxis(y.reshape(*y.shape[:2], -1), 1, 2)
    if positions is not None:
        flat = np.take_along_axis(flat, positions[:, :, None], axis=1)
    return flat.reshape(-1, y.shape[1])


def update_conv_grams(
    grams: Sequence[Gram],
    x: AnyArray,
    geometry: Geometry,
    y: AnyArray | None = None,
    positions: Positions | None = None,
    weight: float = 1.0,
) -> None:
    """Adds what a convolution reads, and optionally should give, to one Gram for each of its groups.

    Args:
        grams: as many as groups; of width c / group * taps, and target width n / group (0 without y).
        x: [samples, c, *spatial] input.
        geometry: where the convolution reads.
        y: [samples, n, *output] targets, of the dense model perhaps.
        positions: [samples, p] output positions to take, of x and y alike; None takes all.
        weight: what each row counts.
    """
    if len(grams) != geometry.group:
        raise ValueError(f"{len(grams)} Grams for {geometry.group} groups")
    targets = None if y is None else np.split(output_rows(y, positions), geometry.group, axis=1)
    for rows, chunk in iterate_patches(x, geometry, positions):
        for index, gram in enumerate(grams):
            gram.update(chunk[index], None if targets is None else targets[index][rows], weight)
