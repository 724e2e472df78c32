"""N:M masks by magnitude: of every M neighbours along an axis, at most N stay. A piece at a time, in little memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.calib.solvers.element_masks import COUNTED, descending, kept_of_places
from secateur.ir.masked import Bits, masked
from secateur.ir.tensor import Tensor

Mask = NDArray[np.bool_]

_PIECE = 1 << 17
"""Numbers that are compared at a time: what fits into a processor's cache."""


def keep_largest(saliency: NDArray[Any], keep: int, group: int, axis: int) -> Mask:
    """Keeps the `keep` largest of every `group` neighbours along `axis`.

    Args:
        saliency: any shape; the size along `axis` is a multiple of `group`. NaN is the smallest, below infinities.
        keep: N of N:M, how many may stay.
        group: M of N:M.
        axis: the contracted axis of the weight.

    Returns:
        True where an entry stays, shaped like `saliency`. Of equals the earlier one stays, so that the mask is the
        same on every machine: bit by bit that of a stable sort.
    """
    axis %= saliency.ndim
    mask = np.empty(saliency.shape, np.bool_)
    if saliency.size:
        view, out = (_grouped(array, group, axis) for array in (np.ascontiguousarray(saliency), mask))
        for piece in _pieces(view.shape):
            _keep(view[piece], keep, out[piece])
    return mask


@dataclass(frozen=True)
class Masked:
    """A weight of which the largest numbers stay, which they are, and what share of its sum of squares they have."""

    tensor: Tensor
    stays: Bits
    energy: float


class MagnitudeMasker:
    """Zeros all but the `keep` largest magnitudes of every `group` neighbours; of equals the earlier stays.

    A weight is read a piece at a time, and what stays is noted in one bit for each number; the zeros are put in when
    somebody reads the new tensor, so that a model larger than memory can be masked. NaN counts as the largest.
    """

    def __init__(self, keep: int, group: int) -> None:
        self.keep, self.group = keep, group
        # The same memory for every piece of every weight: fresh pages cost more than comparing what is in them.
        self._read: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._keys: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._kept: NDArray[np.uint8] = np.empty(0, np.uint8)

    def mask(self, tensor: Tensor, axis: int) -> Masked:
        """Masks a weight of floats of 16 to 64 bits along an axis, counted from 0, that `group` divides."""
        shape = tensor.shape
        row = math.prod(shape[1:])
        step = max(1, _PIECE // max(row, 1))
        # Whole groups, and whole bytes of the mask.
        step += -step % (8 * self.group if axis == 0 else 8)
        packed: list[NDArray[np.uint8]] = []
        total = stayed = 0.0
        for start in range(0, shape[0], step):
            stop = min(start + step, shape[0])
            if self._read.size < (stop - start) * row * tensor.dtype.bits // 8:
                self._read = np.empty((stop - start) * row * tensor.dtype.bits // 8, np.uint8)
            numbers = np.ascontiguousarray(tensor.elements(start * row, stop * row, self._read))
            keys = self._magnitudes(numbers).reshape(stop - start, *shape[1:])
            mask = keep_largest(keys, self.keep, self.group, axis).reshape(-1)
            packed.append(np.packbits(mask))
            energies = self._energies(numbers, mask)
            total, stayed = total + energies[0], stayed + energies[1]
        stays = Bits(shape, np.concatenate(packed) if packed else np.zeros(0, np.uint8))
        return Masked(masked(tensor, stays), stays, stayed / total if total else 1.0)

    def _magnitudes(self, numbers: NDArray[Any]) -> NDArray[Any]:
        """Integers in the order of the magnitudes: floats without their sign bit, narrow ones as fast as wide."""
        bits = np.dtype(f"u{numbers.itemsize}")
        if self._keys.size < numbers.nbytes:
            self._keys = np.empty(numbers.nbytes, np.uint8)
        keys = self._keys[: numbers.nbytes].view(bits)
        np.bitwise_and(numbers.view(bits), bits.type(np.iinfo(bits).max >> 1), out=keys)
        return keys

    def _energies(self, numbers: NDArray[Any], mask: Mask) -> tuple[float, float]:
        """Sums of squares of all numbers, and of those that stay."""
        plain = numbers.astype(np.float64 if numbers.itemsize == 8 else np.float32, copy=False)
        if self._kept.size < plain.nbytes:
            self._kept = np.empty(plain.nbytes, np.uint8)
        kept = self._kept[: plain.nbytes].view(plain.dtype)
        kept[...] = mask
        np.multiply(kept, plain, out=kept)
        return float(np.dot(plain, plain)), float(np.dot(kept, kept))


def _grouped(array: NDArray[Any], group: int, axis: int) -> NDArray[Any]:
    """[before, groups, group, behind], a view."""
    shape = array.shape
    return array.reshape(math.prod(shape[:axis]), shape[axis] // group, group, math.prod(shape[axis + 1 :]))


def _pieces(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Slices of the first two axes that hold few numbers each."""
    inner = shape[2] * shape[3]
    groups = max(1, min(shape[1], _PIECE // inner))
    before = max(1, _PIECE // (inner * shape[1])) if groups == shape[1] else 1
    for start in range(0, shape[0], before):
        for first in range(0, shape[1], groups):
            yield slice(start, start + before), slice(first, first + groups)


def _keep(numbers: NDArray[Any], keep: int, out: Mask) -> None:
    """Fills `out` for [before, groups, group, behind]."""
    group = numbers.shape[2]
    if numbers.dtype.kind == "f" and np.isnan(numbers).any():
        # A stable sort has NaN last, equal to each other and smaller than any number.
        order = np.argsort(-numbers, axis=2, kind="stable")
        _put(order, keep, out)
        return
    if group > COUNTED:
        _put(np.argsort(descending(numbers), axis=2, kind="stable"), keep, out)
        return
    # Each place of a group as one long vector.
    if numbers.shape[3] < 16:
        places = [np.ascontiguousarray(numbers[:, :, place]) for place in range(group)]
    else:
        places = [numbers[:, :, place] for place in range(group)]
    for place, one in enumerate(kept_of_places(places, keep)):
        out[:, :, place] = one


def _put(order: NDArray[np.intp], keep: int, out: Mask) -> None:
    out[...] = False
    np.put_along_axis(out, order[:, :, :keep], True, axis=2)
