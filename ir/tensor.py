"""Tensor: an immutable constant array, mapped from where it lies until somebody needs the numbers."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.ir.errors import ModelError
from secateur.ir.storage import Storage, write_all
from secateur.ir.types import DataType

_PIECE = 1 << 18
"""Elements that are compared at a time."""


class Tensor:
    """An element type, a shape, and numbers that are read only when asked for.

    Immutable: a changed weight is a new Tensor. Narrow types (4, 2 and 6 bits) are packed in storage, as ONNX packs
    them (lowest bits first), and take one byte an element in numpy.
    """

    __slots__ = ("_array", "_digest", "_offset", "_storage", "dtype", "metadata", "shape")

    def __init__(self, array: NDArray[Any], dtype: DataType | None = None) -> None:
        """Takes over `array` without copying it: do not change it afterwards.

        Args:
            array: any shape. Strings are an object array of bytes or str.
            dtype: only where numpy's dtype does not say it.

        Raises:
            TypeError: no ONNX element type for this dtype.
        """
        self.dtype = DataType.of(array.dtype) if dtype is None else dtype
        if self.dtype is DataType.STRING:
            flat = [item.encode() if isinstance(item, str) else bytes(item) for item in array.reshape(-1)]
            array = np.array([*flat, None], dtype=object)[:-1].reshape(array.shape)
        elif array.dtype != self.dtype.numpy or not array.dtype.isnative:
            array = array.astype(self.dtype.numpy)
        view = array.view()
        view.flags.writeable = False
        self._array: NDArray[Any] | None = view
        self.shape: tuple[int, ...] = array.shape
        self._storage: Storage | None = None
        self._offset = 0
        self._digest: str | None = None
        self.metadata: tuple[tuple[str, str], ...] = ()

    @classmethod
    def mapped(cls, dtype: DataType, shape: tuple[int, ...], storage: Storage, offset: int) -> Tensor:
        """A tensor whose little-endian bytes lie at `offset` in `storage`; nothing is read now.

        Raises:
            ModelError: the storage is too short for this shape.
        """
        self = cls.__new__(cls)
        self.dtype, self.shape = dtype, shape
        self._array, self._storage, self._offset = None, storage, offset
        self._digest, self.metadata = None, ()
        if offset < 0 or offset + self.nbytes > storage.size:
            raise ModelError(
                f"{storage.path or 'the model'} is too short: {dtype.short}{list(shape)} needs {self.nbytes} bytes "
                f"at offset {offset}, but there are {storage.size} bytes in all",
                hint="the file was cut short or belongs to another model; restore it",
            )
        return self

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in storage (narrow types packed); for strings the sum of their lengths."""
        if self.dtype is DataType.STRING:
            return sum(len(item) for item in self.numpy().reshape(-1))
        return (self.size * self.dtype.bits + 7) // 8

    @property
    def is_mapped(self) -> bool:
        """True while the numbers still lie where they were loaded from."""
        return self._array is None

    def numpy(self) -> NDArray[Any]:
        """The numbers: a read-only array of `shape`; narrow types are unpacked to one byte an element."""
        if self._array is not None:
            return self._array
        assert self._storage is not None
        raw = np.frombuffer(self._storage.view(self._offset, self.nbytes), dtype=np.uint8)
        if self.dtype.bits < 8:
            array = unpack_bits(raw, self.size, self.dtype.bits).view(self.dtype.numpy)
            array.flags.writeable = False
        else:
            array = raw.view(self.dtype.numpy)
        return array.reshape(self.shape)

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The stored little-endian bytes in pieces, without making untouched weights resident."""
        if self._array is None:
            assert self._storage is not None
            yield from self._storage.chunks(self._offset, self.nbytes)
        else:
            yield _raw(self._array, self.dtype)

    def copy_to(self, descriptor: int) -> None:
        """Appends the stored bytes to an open file."""
        if self._array is None:
            assert self._storage is not None
            self._storage.copy_to(descriptor, self._offset, self.nbytes)
        else:
            for piece in self.chunks():
                write_all(descriptor, piece)

    @property
    def storage(self) -> Storage | None:
        """Where the bytes lie while nobody has touched them; None for an array in memory."""
        return self._storage

    @property
    def offset(self) -> int:
        """Where the bytes begin in `storage`."""
        return self._offset

    def elements(self, start: int, stop: int, buffer: NDArray[np.uint8] | None = None) -> NDArray[Any]:
        """Elements `start` to `stop` of the flat tensor, of a type of whole bytes: read, not mapped, if untouched.

        With a buffer of enough bytes, they are read into that, and are good until it is used again.
        """
        if self._array is not None:
            # Flattening what is not in order would copy all of it.
            return (self._array.reshape(-1) if self._array.flags.c_contiguous else self._array.flat)[start:stop]
        assert self._storage is not None
        width = self.dtype.bits // 8
        if buffer is not None:
            found = buffer[: (stop - start) * width]
            self._storage.read_into(self._offset + start * width, found.data)
            return found.view(self.dtype.numpy)
        raw = self._storage.read(self._offset + start * width, (stop - start) * width)
        return np.frombuffer(raw, np.uint8).view(self.dtype.numpy)

    def location(self) -> tuple[str, int, int] | None:
        """(path, offset, length) where the bytes lie in a file, or None."""
        if self._array is None and self._storage is not None and self._storage.path is not None:
            return os.fspath(self._storage.path), self._offset, self.nbytes
        return None

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that stand for element type, shape and numbers in the text form."""
        if self._digest is None:
            hashed = hashlib.blake2b(f"{self.dtype.short}{self.shape}".encode(), digest_size=8)
            # The bits that the last packed byte leaves unused may be anything in a file; they are no part of the value.
            is_ragged = self._array is None and self.size * self.dtype.bits % 8 != 0
            for piece in (_raw(self.numpy(), self.dtype),) if is_ragged else self.chunks():
                hashed.update(piece)
            self._digest = hashed.hexdigest()
        return self._digest

    def equals(self, other: Tensor) -> bool:
        """Same element type, shape and bytes (so NaN equals itself, and 0.0 differs from -0.0)."""
        if self is other:
            return True
        if (self.dtype, self.shape) != (other.dtype, other.shape):
            return False
        if self.dtype is DataType.STRING:
            return bool(np.array_equal(self.numpy(), other.numpy()))
        mine, theirs = self.location(), other.location()
        if mine is not None and mine == theirs and self._storage is other._storage:
            return True
        if self.dtype.bits < 8:
            return bool(np.array_equal(_codes(self), _codes(other)))
        # Piece by piece: most that differ do so at once, and large ones are not to be in memory twice.
        return all(
            np.array_equal(_as_bytes(self.elements(start, stop)), _as_bytes(other.elements(start, stop)))
            for start, stop in pairwise([*range(0, self.size, _PIECE), self.size])
        )

    def __repr__(self) -> str:
        return f"Tensor({self.dtype.short}{list(self.shape)})"


def _codes(tensor: Tensor) -> NDArray[np.uint8]:
    codes = _as_bytes(tensor.numpy())
    # The unused high bits of a narrow element may be sign-extended or not; only the low ones are its value.
    return codes if tensor.dtype.bits >= 8 else codes & np.uint8((1 << tensor.dtype.bits) - 1)


def _as_bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _raw(array: NDArray[Any], dtype: DataType) -> memoryview:
    if dtype is DataType.STRING:
        return memoryview(b"".join(len(item).to_bytes(8, "little") + item for item in array.reshape(-1)))
    data = _as_bytes(array)
    return (pack_bits(data, dtype.bits) if dtype.bits < 8 else data).data


def pack_bits(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Packs the low `bits` bits of each code into bytes, the first element in the lowest bits (ONNX's order)."""
    planes = np.unpackbits(codes.reshape(-1, 1), axis=1, bitorder="little")[:, :bits]
    return np.packbits(planes.reshape(-1), bitorder="little")


def unpack_bits(packed: NDArray[np.uint8], count: int, bits: int) -> NDArray[np.uint8]:
    """The inverse of `pack_bits`: `count` codes of `bits` bits, one a byte."""
    planes = np.unpackbits(packed, bitorder="little")[: count * bits].reshape(count, bits)
    return np.packbits(planes, axis=1, bitorder="little").reshape(-1)
