"""Scales and zero points as arrays: one for every code."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def spread(numbers: NDArray[Any], shape: tuple[int, ...], axis: int, block: int) -> NDArray[Any]:
    """What holds for every code of a tensor: `numbers` is one, a list along `axis`, or one for each block along it."""
    if block:
        axis %= len(shape)
        return np.take(np.repeat(numbers, block, axis=axis), range(shape[axis]), axis=axis)
    if numbers.size == 1:
        return np.broadcast_to(numbers.reshape(()), shape)
    along = [1] * len(shape)
    along[axis] = -1
    return np.broadcast_to(numbers.reshape(along), shape)


def positive(codes: NDArray[np.int32], scale: NDArray[Any], axis: int, block: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Codes from -127 to 127 and scales above 0 for the same numbers, as TensorRT wants them of int8.

    Where a scale is negative, its codes change their signs; where it is 0, they become 0. Codes beyond 127 are rounded
    to steps that are wider by as much.

    Args:
        codes: of any size.
        scale: one, a list along `axis`, or one for each block of `block` neighbours along it.
        axis: see above; negative ones count from the end.
        block: 0 where there are no blocks.
    """
    steps = scale.astype(np.float64)
    signs = np.sign(steps)
    turned = codes * spread(signs, codes.shape, axis, block)
    largest = _largest(np.abs(turned), scale.shape, axis, block)
    ratio = np.maximum(largest / 127, 1)
    wide = np.asarray(np.where(signs == 0, 1, np.abs(steps) * ratio), scale.dtype)
    # As the scale is rounded to its own type, so are codes; where nothing was widened, the ratio is exactly 1.
    real = np.where(ratio > 1, wide.astype(np.float64) / np.where(signs == 0, 1, np.abs(steps)), 1)
    rounded = np.clip(np.rint(turned / spread(real, codes.shape, axis, block)), -127, 127)
    return np.asarray(rounded).astype(np.int32), wide


def _largest(sizes: NDArray[Any], shape: tuple[int, ...], axis: int, block: int) -> NDArray[Any]:
    """The largest of the sizes that share a scale, in the shape of the scales."""
    if block:
        return np.maximum.reduceat(sizes, np.arange(0, sizes.shape[axis], block), axis=axis)
    if int(np.prod(shape)) == 1:
        return np.asarray(sizes.max(initial=0)).reshape(shape)
    others = tuple(one for one in range(sizes.ndim) if one != axis % sizes.ndim)
    return np.asarray(sizes.max(axis=others, initial=0))
