"""Large new weights wait in files, so that a model may be larger than memory while all of it is rewritten."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress

from secateur.ir.node import Value
from secateur.ir.storage import Storage, write_all
from secateur.ir.tensor import Tensor
from secateur.ir.types import DataType

LARGE = 16 << 20
"""Bytes that are worth a file of their own."""
SMALL = 1 << 16
"""Bytes below which a tensor is left where it is."""
_ALIGNMENT = 64


class Spool:
    """Collects constants, and moves those that lie in memory into a file as soon as they are large together.

    Args:
        above: bytes from which they go to a file: there is one open file for so many.
    """

    def __init__(self, above: int = LARGE) -> None:
        self.above = above
        self._waiting: dict[Value, None] = {}

    def add(self, values: Iterable[Value | None]) -> None:
        """Takes note of values; what is no constant, or lies in a file anyhow, is left alone."""
        self._waiting.update((value, None) for value in values if value is not None and _tensor_of(value))
        pairs = [(value, tensor) for value in self._waiting if (tensor := _tensor_of(value))]
        if sum(tensor.nbytes for _, tensor in pairs) < self.above:
            return
        self._waiting.clear()
        for (value, _), tensor in zip(pairs, _written([tensor for _, tensor in pairs]), strict=True):
            value.set_const(tensor)


def spilled(tensor: Tensor, above: int = LARGE) -> Tensor:
    """The same tensor, its bytes in a file without a name in the folder for temporary files.

    The file goes with the last tensor that refers to it, whatever becomes of the process. Smaller tensors, those that
    lie in a file anyhow, and those that the folder has no room for, come back as they are.

    Args:
        tensor: any.
        above: bytes from which it goes to a file.
    """
    return tensor if tensor.is_mapped or tensor.nbytes < above else _written([tensor])[0]


def _tensor_of(value: Value) -> Tensor | None:
    """A constant that takes memory."""
    tensor = value.const
    if tensor is None or tensor.is_mapped or tensor.dtype is DataType.STRING or tensor.nbytes < SMALL:
        return None
    return tensor


def _written(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The same tensors in one file, or themselves where there is no room."""
    with suppress(OSError):
        descriptor, path = tempfile.mkstemp(prefix="secateur-", suffix=".weights")
        try:
            try:
                for tensor in tensors:
                    tensor.copy_to(descriptor)
                    write_all(descriptor, bytes(-tensor.nbytes % _ALIGNMENT))
            finally:
                os.close(descriptor)
            storage = Storage(path)
            storage.hold()
        finally:
            os.unlink(path)
        return _mapped(tensors, storage)
    return list(tensors)


def _mapped(tensors: Sequence[Tensor], storage: Storage) -> list[Tensor]:
    """Tensors that lie in a file one behind the other."""
    found, offset = [], 0
    for tensor in tensors:
        mapped = Tensor.mapped(tensor.dtype, tensor.shape, storage, offset)
        mapped.metadata = tensor.metadata
        found.append(mapped)
        offset += tensor.nbytes + -tensor.nbytes % _ALIGNMENT
    return found
