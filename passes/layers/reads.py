"""What a layer reads and gives as rows, for each of its matrices: `rows @ matrix.T + bias` is what it gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.calib.capture import Part
from secateur.calib.patches import ConvGeometry, Geometry, iterate_patches, output_rows, sample_positions
from secateur.calib.transposed import TransposedGeometry
from secateur.ir.rules.weights import WeightUse

AnyArray: TypeAlias = NDArray[Any]

ROWS = 16_384
"""So many rows of a convolution are wanted in all: of few images more positions are taken."""


def enough_positions(part: Part, uses: Sequence[WeightUse], positions: int) -> int:
    """How many output positions to sample of each image: `positions`, or so many that all images give `ROWS`; 0 is all.

    Eight images of 64 positions are 512 rows, and a kernel of 3 x 3 over 256 channels has 2,304 columns: a U-Net made
    2:4 on these is 20.5 dB near its dense self, on all that eight images have to say, 31.3.
    """
    if not positions or not any(use.taps for use in uses):
        return positions
    samples = 0
    for _, batch in part.walk():
        samples += batch.samples or 1
        if samples * positions >= ROWS:
            return positions
    return -(-ROWS // samples)


def rows_of(
    use: WeightUse, read: Sequence[AnyArray], made: AnyArray | None, positions: int, seed: tuple[int, ...]
) -> Iterator[tuple[list[AnyArray], AnyArray | None]]:
    """Rows of a layer in chunks, for each of its slabs as `matrices_of` orders them.

    Args:
        use: the layer.
        read: its data, of one model or of several whose samples belong together.
        made: what it gives, if that is wanted as rows, too.
        positions: output positions of a convolution to sample of each image (0 takes all).
        seed: of the sample.

    Yields:
        For each of `read` [slabs, rows, columns], and [slabs, rows, outputs].
    """
    if not use.taps:
        yield (
            [_rows(use, one, use.data_axis, use.data_batch) for one in read],
            None if made is None else _rows(use, made, use.output_axis, use.output_batch),
        )
        return
    geometry = _geometry(use)
    spatial = geometry.windows(read[0]).shape[2 : 2 + len(geometry.kernel)]
    chosen = sample_positions(len(read[0]), spatial, positions, seed) if positions else None
    targets = None if made is None else output_rows(made, chosen)
    for chunks in zip(*(iterate_patches(one, geometry, chosen) for one in read), strict=True):
        which = chunks[0][0]
        found = None if targets is None else targets[which]
        yield [chunk for _, chunk in chunks], None if found is None else _by_slab(found, geometry.group)


def samples_first(use: WeightUse, read: AnyArray, made: AnyArray) -> bool:
    """True where axis 0 of both counts samples or tokens, not channels or matrices."""
    if use.taps:
        return True
    axes = [axis % read.ndim for axis in (use.data_axis, use.data_batch) if axis is not None and -axis <= read.ndim]
    axes += [axis % made.ndim for axis in (use.output_axis, use.output_batch) if axis is not None]
    return 0 not in axes and len(read) == len(made)


def _rows(use: WeightUse, array: AnyArray, axis: int, batch: int | None) -> AnyArray:
    """[slabs, rows, channels]; where all slabs read the same, they are views of it."""
    size = array.shape[axis]
    if batch is None or -batch > array.ndim or array.shape[batch] == 1:
        rows = np.moveaxis(array, axis, -1).reshape(1, -1, size)
        return np.broadcast_to(rows, (use.slabs, *rows.shape[1:]))
    return np.moveaxis(array, (batch, axis), (0, -1)).reshape(use.slabs, -1, size)


def _by_slab(rows: AnyArray, groups: int) -> AnyArray:
    """[groups, rows, outputs / groups] of [rows, outputs]."""
    return np.moveaxis(rows.reshape(len(rows), groups, -1), 1, 0)


def _geometry(use: WeightUse) -> Geometry:
    shape = tuple(use.tensor.shape[axis] for axis in (use.produced, use.contracted, *use.taps))
    attributes = {name: one.value for name, one in use.op.attributes.items()}
    return TransposedGeometry.of(shape, attributes) if use.is_transposed else ConvGeometry.of(shape, attributes)
