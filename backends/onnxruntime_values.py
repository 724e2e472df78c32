"""Arrays and onnxruntime's values, element types included that numpy does not know."""

from __future__ import annotations

import ctypes
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.ir import DataType, Tensor
from secateur.ir.errors import BackendError
from secateur.ir.tensor import unpack_bits

_EXOTIC = re.compile(r"bfloat16|float8|float4|int4|int2\b")
_CODES: dict[int, np.dtype[Any]] = {1: np.dtype(np.uint8), 2: np.dtype(np.uint16)}


def is_exotic(type_name: str) -> bool:
    """Whether a type, as onnxruntime spells it ("tensor(bfloat16)"), has no numpy dtype that onnxruntime knows."""
    return _EXOTIC.search(type_name) is not None


def value_from_tensor(onnxruntime: Any, tensor: Tensor) -> Any:
    """A weight as an `OrtValue` on top of the tensor's own memory, which it keeps alive.

    Copies are made only of weights that lie misaligned in their file, and of 4-bit ones (of their packed bytes).
    """
    if tensor.dtype.bits >= 8:
        return value_from_array(onnxruntime, tensor.numpy())
    # onnxruntime takes one element of the array for each element of the tensor, but reads the packed bytes from its
    # start: what lies behind them is reserved, and never touched.
    buffer = np.empty(tensor.size, np.uint8)
    end = 0
    for piece in tensor.chunks():
        start, end = end, end + len(piece)
        buffer[start:end] = np.frombuffer(piece, np.uint8)
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(buffer.reshape(tensor.shape), int(tensor.dtype))


def value_from_array(onnxruntime: Any, array: NDArray[Any]) -> Any:
    """An array as an `OrtValue`; a contiguous, aligned one of 8 bits or more is not copied but kept alive."""
    array = np.require(array, requirements=("A", "C"))
    if array.dtype.isbuiltin == 1:
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)
    dtype = DataType.of(array.dtype)
    if dtype.bits < 8:
        return value_from_tensor(onnxruntime, Tensor(array))
    codes = array.view(_CODES[array.itemsize])
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(codes, int(dtype))


def array_from_value(value: Any, name: str) -> NDArray[Any]:
    """A new array with what an `OrtValue` holds; narrow types as the IR has them (ml_dtypes, one byte an element).

    Raises:
        BackendError: it is no dense tensor.
    """
    if not value.is_tensor():
        raise BackendError(
            f"{name!r} is a {value.data_type()}, which cannot be fetched together with narrow types",
            hint="fetch the tensors that it is made of",
        )
    if not is_exotic(value.data_type()):
        array: NDArray[Any] = value.numpy()
        return array
    dtype = DataType(value.element_type())
    shape = tuple(value.shape())
    size = value.tensor_size_in_bytes()
    raw = np.frombuffer(ctypes.string_at(value.data_ptr(), size), np.uint8) if size else np.empty(0, np.uint8)
    if dtype.bits < 8:
        raw = unpack_bits(raw, int(np.prod(shape, dtype=np.int64)), dtype.bits)
    return raw.view(dtype.numpy).reshape(shape).copy()
