"""Weights of which some elements are zero by a mask: one bit for each, and the rest stays where it was loaded from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.ir.storage import Storage, write_all
from secateur.ir.tensor import Tensor

_PIECE = 1 << 18
"""Elements that are masked at a time; a multiple of eight."""


@dataclass(frozen=True, eq=False)
class Bits:
    """A mask with one bit an element, in the order of memory; bits beyond the last element are 0."""

    shape: tuple[int, ...]
    packed: NDArray[np.uint8]

    @classmethod
    def of(cls, mask: NDArray[np.bool_]) -> Bits:
        """Packs a mask of any shape."""
        return cls(mask.shape, np.packbits(mask.reshape(-1)))

    def unpacked(self) -> NDArray[np.bool_]:
        """The mask, a new array."""
        return self.part(0, math.prod(self.shape)).reshape(self.shape)

    def part(self, start: int, stop: int) -> NDArray[np.bool_]:
        """Elements `start` to `stop` of the flat mask."""
        first = start // 8
        flat = np.unpackbits(self.packed[first : -(-stop // 8)], count=None)
        return flat[start - 8 * first : stop - 8 * first].view(np.bool_)


def masked(tensor: Tensor, stays: Bits) -> Tensor:
    """The tensor with zeros where the mask has none.

    What lies in a file stays there, and is read and masked when somebody asks for the numbers.

    Raises:
        ValueError: the shapes differ, or elements are no whole bytes.
    """
    if tensor.shape != stays.shape or tensor.dtype.bits < 8:
        raise ValueError(f"a mask of shape {stays.shape} for {tensor}")
    if tensor.storage is not None:
        made = Tensor.mapped(tensor.dtype, tensor.shape, _MaskedStorage(tensor, stays), 0)
    else:
        flat = np.ascontiguousarray(tensor.numpy()).reshape(-1)
        made = Tensor(_zeroed(flat, stays.unpacked().reshape(-1)).reshape(tensor.shape), tensor.dtype)
    made.metadata = tensor.metadata
    return made


def _zeroed(numbers: NDArray[Any], stays: NDArray[np.bool_]) -> NDArray[Any]:
    """Zeros where nothing stays; bits times 0 or 1, which no NaN survives."""
    bits = numbers.view(f"u{numbers.itemsize}")
    made: NDArray[Any] = stays.astype(bits.dtype)
    np.multiply(made, bits, out=made)
    return made.view(numbers.dtype)


class _MaskedStorage(Storage):
    """The bytes of a tensor that lies in another storage, masked whenever they are read."""

    __slots__ = ("_base", "_start", "_stays", "_width")

    def __init__(self, base: Tensor, stays: Bits) -> None:
        super().__init__(b"")
        assert base.storage is not None
        self._base, self._start = base.storage, base.offset
        self._stays, self._width = stays, base.dtype.bits // 8
        self.size = base.nbytes

    @property
    def file(self) -> tuple[int, int] | None:
        """That of what is masked."""
        return self._base.file

    def view(self, offset: int, length: int) -> memoryview:
        """A copy."""
        return memoryview(self.read(offset, length))

    def chunks(self, offset: int, length: int) -> Iterator[bytes | memoryview]:
        """The bytes in pieces; offset and length are those of whole elements."""
        width = self._width
        first, last = offset // width, (offset + length) // width
        for start in range(first, last, _PIECE):
            stop = min(start + _PIECE, last)
            made = np.empty((stop - start) * width, np.uint8)
            self._fill(made, start, stop)
            yield made.data

    def copy_to(self, descriptor: int, offset: int, length: int) -> None:
        """Appends the masked bytes to an open file."""
        width = self._width
        first, last = offset // width, (offset + length) // width
        buffer = np.empty(min(_PIECE, last - first) * width, np.uint8)
        for start in range(first, last, _PIECE):
            stop = min(start + _PIECE, last)
            made = buffer[: (stop - start) * width]
            self._fill(made, start, stop)
            write_all(descriptor, made.data)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fills a buffer of whole elements."""
        start, width = offset // self._width, self._width
        self._fill(np.frombuffer(buffer, np.uint8), start, start + len(buffer) // width)

    def _fill(self, made: NDArray[np.uint8], start: int, stop: int) -> None:
        """Reads elements `start` to `stop`, and masks them where they are."""
        self._base.read_into(self._start + start * self._width, made.data)
        bits = made.view(f"u{self._width}")
        np.multiply(bits, self._stays.part(start, stop), out=bits)

    def hold(self) -> None:
        """Keeps open what is masked."""
        self._base.hold()

    def release(self) -> None:
        """Nothing is open here."""
