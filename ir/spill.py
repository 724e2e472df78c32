"""Large new weights wait in a file, so that a model may be larger than memory while all of it is rewritten."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress

from secateur.ir.storage import Storage
from secateur.ir.tensor import Tensor

LARGE = 16 << 20
"""Bytes from which a tensor is worth a file of its own."""


def spilled(tensor: Tensor, above: int = LARGE) -> Tensor:
    """The same tensor, its bytes in a file without a name in the folder for temporary files.

    The file goes with the last tensor that refers to it, whatever becomes of the process. Smaller tensors, those that
    lie in a file anyhow, and those that the folder has no room for, come back as they are.

    Args:
        tensor: any.
        above: bytes from which it goes to a file.
    """
    if tensor.is_mapped or tensor.nbytes < above:
        return tensor
    with suppress(OSError):
        descriptor, path = tempfile.mkstemp(prefix="secateur-", suffix=".weights")
        try:
            try:
                tensor.copy_to(descriptor)
            finally:
                os.close(descriptor)
            storage = Storage(path)
            storage.hold()
        finally:
            os.unlink(path)
        mapped = Tensor.mapped(tensor.dtype, tensor.shape, storage, 0)
        mapped.metadata = tensor.metadata
        return mapped
    return tensor
