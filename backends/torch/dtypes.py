"""Element types of ONNX as torch carries them, and arrays of either as those of the other.

torch computes with few of the narrow types. What it cannot compute with is carried by a wider type that holds every one
of its numbers: 2 and 4 bits by 8, unsigned 16 to 64 bits by signed 32 and 64, floats of 8 bits and fewer by float32.
Which type is meant, the plan knows (`kinds`); numbers are rounded to it where an op makes them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from secateur.backends.torch.lazy import torch
from secateur.ir import DataType

if TYPE_CHECKING:
    from torch import Tensor

_NAMES = {
    DataType.FLOAT32: "float32",
    DataType.FLOAT64: "float64",
    DataType.FLOAT16: "float16",
    DataType.BFLOAT16: "bfloat16",
    DataType.UINT8: "uint8",
    DataType.INT8: "int8",
    DataType.INT16: "int16",
    DataType.INT32: "int32",
    DataType.INT64: "int64",
    DataType.BOOL: "bool",
    DataType.COMPLEX64: "complex64",
    DataType.COMPLEX128: "complex128",
}
_CARRIERS = {
    DataType.INT4: "int8",
    DataType.INT2: "int8",
    DataType.UINT4: "uint8",
    DataType.UINT2: "uint8",
    DataType.UINT16: "int32",
    DataType.UINT32: "int64",
    DataType.UINT64: "int64",
    DataType.FLOAT8E4M3FN: "float32",
    DataType.FLOAT8E4M3FNUZ: "float32",
    DataType.FLOAT8E5M2: "float32",
    DataType.FLOAT8E5M2FNUZ: "float32",
    DataType.FLOAT8E8M0: "float32",
    DataType.FLOAT4E2M1: "float32",
    DataType.FLOAT6E2M3: "float32",
    DataType.FLOAT6E3M2: "float32",
}
_LARGEST = {
    DataType.FLOAT8E4M3FN: 448.0,
    DataType.FLOAT8E4M3FNUZ: 240.0,
    DataType.FLOAT8E5M2: 57344.0,
    DataType.FLOAT8E5M2FNUZ: 57344.0,
    DataType.FLOAT4E2M1: 6.0,
    DataType.FLOAT6E2M3: 7.5,
    DataType.FLOAT6E3M2: 28.0,
}


def is_carried(dtype: DataType) -> bool:
    """Whether numbers of this type lie in tensors of another."""
    return dtype in _CARRIERS


def is_known(dtype: DataType) -> bool:
    """Whether torch can hold numbers of this type at all; strings it cannot."""
    return dtype in _CARRIERS or dtype in _NAMES


def torch_dtype(dtype: DataType) -> Any:
    """The torch dtype of the tensors that hold this type."""
    return getattr(torch, _CARRIERS.get(dtype) or _NAMES[dtype])


def data_type(tensor: Tensor) -> DataType:
    """The type of a tensor that carries no other."""
    name = str(tensor.dtype).removeprefix("torch.")
    return next(dtype for dtype, known in _NAMES.items() if known == name)


def limits(dtype: DataType) -> tuple[float, float]:
    """The smallest and the largest number of a type, of those that are finite."""
    if dtype in _LARGEST:
        return -_LARGEST[dtype], _LARGEST[dtype]
    if dtype.is_float:
        largest = float(torch.finfo(torch_dtype(dtype)).max)
        return -largest, largest
    if dtype.short.startswith("u"):
        return 0, 2**dtype.bits - 1
    return -(2 ** (dtype.bits - 1)), 2 ** (dtype.bits - 1) - 1


def from_array(array: NDArray[Any]) -> Tensor:
    """A tensor with the numbers of an array; memory is shared where it may be written and torch knows the type."""
    dtype = DataType.of(array.dtype)
    if dtype in _CARRIERS:
        wide = array.astype(str(torch_dtype(dtype)).removeprefix("torch."))
        return torch.from_numpy(np.ascontiguousarray(wide)).reshape(array.shape)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    usable = array.flags.c_contiguous and array.flags.writeable and array.flags.aligned
    array = array if usable else np.array(array, order="C")
    if dtype is DataType.BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def to_array(tensor: Tensor, dtype: DataType | None = None) -> NDArray[Any]:
    """A new array with the numbers of a tensor, which carries `dtype`; None where it carries no other type."""
    held = tensor.detach().cpu()
    if held.dtype == torch.bfloat16:
        array = np.array(held.contiguous().view(torch.int16).numpy()).view(DataType.BFLOAT16.numpy)
    else:
        array = np.array(held.numpy())
    if dtype is None or dtype not in _CARRIERS or held.dtype != torch_dtype(dtype):
        return array
    if dtype.is_float:
        return array.astype(dtype.numpy)
    codes = array.astype(np.int64)
    return (codes & 0xF if dtype is DataType.UINT4 else codes).astype(dtype.numpy)


def rounded(tensor: Tensor, dtype: DataType, *, saturate: bool = True) -> Tensor:
    """Numbers rounded to a type, in tensors that hold it: casts as ONNX defines them.

    Whole types take the whole part, modulo their range; floats of 8 bits go to the nearest, ties to even, and to the
    largest where `saturate`, else to infinity or NaN.
    """
    if dtype in _NAMES:
        return tensor != 0 if dtype is DataType.BOOL else tensor.to(torch_dtype(dtype))
    if dtype is DataType.FLOAT8E8M0:
        return _power_of_two(tensor, saturate)
    if dtype.is_float:
        return _narrow_float(tensor, dtype, saturate)
    codes = tensor.to(torch.int64)
    if dtype is DataType.UINT64:
        return codes
    low, high = limits(dtype)
    span = int(high) - int(low) + 1
    return (torch.remainder(codes - int(low), span) + int(low)).to(torch_dtype(dtype))


def _power_of_two(tensor: Tensor, saturate: bool) -> Tensor:
    """The power of two that is not smaller: what ONNX does unless another `round_mode` is asked for."""
    wide = tensor.to(torch.float32)
    fraction, exponent = torch.frexp(wide)
    exponent = torch.where(fraction == 0.5, exponent - 1, exponent)
    if saturate:
        exponent = torch.where(wide == 0, -127, exponent.clamp(-127, 127))
    made = torch.ldexp(torch.ones_like(wide, dtype=torch.float64), exponent).to(torch.float32)
    return torch.where(torch.isnan(wide) | (wide < 0), math.nan, made)


def bits_as(tensor: Tensor, held: DataType, wanted: DataType) -> Tensor:
    """The same bits as another type of the same width, each in tensors that hold its numbers."""
    widths = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits = (tensor.to(widths[held.bits // 8]) if held in _CARRIERS else tensor).contiguous()
    if wanted not in _CARRIERS:
        return bits.view(torch_dtype(wanted))
    return rounded(bits.view(widths[wanted.bits // 8]), wanted)


def _narrow_float(tensor: Tensor, dtype: DataType, saturate: bool) -> Tensor:
    wide = tensor.to(torch.float32)
    if saturate and dtype in _LARGEST and dtype.bits == 8:
        low, high = limits(dtype)
        wide = torch.where(torch.isnan(wide), wide, wide.clamp(low, high))
    array = wide.detach().cpu().numpy()
    with np.errstate(all="ignore"):
        through = array.astype(dtype.numpy).astype(np.float32)
    return torch.from_numpy(np.array(through)).to(tensor.device)
