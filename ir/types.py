"""Element types and value types, exactly those of ONNX, without protobuf."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np

Dim: TypeAlias = int | str | None
"""One axis of a shape: a size, a symbolic name that stands for one size everywhere, or None for unknown."""


class DataType(IntEnum):
    """Element types, numbered as ONNX numbers them."""

    UNDEFINED = 0
    FLOAT32 = 1
    UINT8 = 2
    INT8 = 3
    UINT16 = 4
    INT16 = 5
    INT32 = 6
    INT64 = 7
    STRING = 8
    BOOL = 9
    FLOAT16 = 10
    FLOAT64 = 11
    UINT32 = 12
    UINT64 = 13
    COMPLEX64 = 14
    COMPLEX128 = 15
    BFLOAT16 = 16
    FLOAT8E4M3FN = 17
    FLOAT8E4M3FNUZ = 18
    FLOAT8E5M2 = 19
    FLOAT8E5M2FNUZ = 20
    UINT4 = 21
    INT4 = 22
    FLOAT4E2M1 = 23
    FLOAT8E8M0 = 24
    UINT2 = 25
    INT2 = 26
    FLOAT6E2M3 = 27
    FLOAT6E3M2 = 28

    @property
    def short(self) -> str:
        """The name used by the text form: `f32`, `bf16`, `i4`, `f8e4m3fn`."""
        return _SHORT[self]

    @property
    def bits(self) -> int:
        """Bits that one element takes when stored; 0 where an element has no fixed size (strings)."""
        return _BITS.get(self) or (0 if self not in _NUMPY else _NUMPY[self].itemsize * 8)

    @property
    def is_float(self) -> bool:
        """True for every floating-point format, wide or narrow."""
        return self.short.startswith(("f", "bf"))

    @property
    def numpy(self) -> np.dtype[Any]:
        """The numpy dtype that holds one element; narrow types take a byte each (ml_dtypes)."""
        return _NUMPY[self]

    @staticmethod
    def of(dtype: np.dtype[Any] | type) -> DataType:
        """The element type of a numpy dtype, in whatever byte order.

        Raises:
            TypeError: no ONNX type matches.
        """
        found = _FROM_NUMPY.get(np.dtype(dtype).newbyteorder("="))
        if found is None:
            if np.dtype(dtype).kind in "USO":
                return DataType.STRING
            raise TypeError(f"no ONNX element type for numpy dtype {np.dtype(dtype)}")
        return found

    @staticmethod
    def from_short(name: str) -> DataType:
        """The inverse of `short`; raises KeyError for an unknown name."""
        return _FROM_SHORT[name]


_NUMPY: dict[DataType, np.dtype[Any]] = {
    DataType.FLOAT32: np.dtype(np.float32),
    DataType.UINT8: np.dtype(np.uint8),
    DataType.INT8: np.dtype(np.int8),
    DataType.UINT16: np.dtype(np.uint16),
    DataType.INT16: np.dtype(np.int16),
    DataType.INT32: np.dtype(np.int32),
    DataType.INT64: np.dtype(np.int64),
    DataType.STRING: np.dtype(object),
    DataType.BOOL: np.dtype(np.bool_),
    DataType.FLOAT16: np.dtype(np.float16),
    DataType.FLOAT64: np.dtype(np.float64),
    DataType.UINT32: np.dtype(np.uint32),
    DataType.UINT64: np.dtype(np.uint64),
    DataType.COMPLEX64: np.dtype(np.complex64),
    DataType.COMPLEX128: np.dtype(np.complex128),
    DataType.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
    DataType.FLOAT8E4M3FN: np.dtype(ml_dtypes.float8_e4m3fn),
    DataType.FLOAT8E4M3FNUZ: np.dtype(ml_dtypes.float8_e4m3fnuz),
    DataType.FLOAT8E5M2: np.dtype(ml_dtypes.float8_e5m2),
    DataType.FLOAT8E5M2FNUZ: np.dtype(ml_dtypes.float8_e5m2fnuz),
    DataType.UINT4: np.dtype(ml_dtypes.uint4),
    DataType.INT4: np.dtype(ml_dtypes.int4),
    DataType.FLOAT4E2M1: np.dtype(ml_dtypes.float4_e2m1fn),
    DataType.FLOAT8E8M0: np.dtype(ml_dtypes.float8_e8m0fnu),
    DataType.UINT2: np.dtype(ml_dtypes.uint2),
    DataType.INT2: np.dtype(ml_dtypes.int2),
    DataType.FLOAT6E2M3: np.dtype(ml_dtypes.float6_e2m3fn),
    DataType.FLOAT6E3M2: np.dtype(ml_dtypes.float6_e3m2fn),
}
_FROM_NUMPY = {dtype: kind for kind, dtype in _NUMPY.items() if kind is not DataType.STRING}
_BITS = {
    DataType.STRING: 0,
    DataType.UNDEFINED: 0,
    DataType.UINT4: 4,
    DataType.INT4: 4,
    DataType.FLOAT4E2M1: 4,
    DataType.UINT2: 2,
    DataType.INT2: 2,
    DataType.FLOAT6E2M3: 6,
    DataType.FLOAT6E3M2: 6,
}
_SHORT = {
    kind: kind.name.lower()
    .replace("bfloat", "bf")
    .replace("float", "f")
    .replace("uint", "u")
    .replace("int", "i")
    .replace("complex", "c")
    for kind in DataType
}
_FROM_SHORT = {short: kind for kind, short in _SHORT.items()}


@dataclass(frozen=True, slots=True)
class TensorType:
    """A dense tensor. `shape` is None where even the rank is unknown. Denotations are ONNX's semantic labels."""

    dtype: DataType
    shape: tuple[Dim, ...] | None = None
    denotation: str = ""
    dim_denotations: tuple[str, ...] = ()

    @property
    def is_static(self) -> bool:
        """True where every axis has a known size."""
        return self.shape is not None and all(isinstance(dim, int) for dim in self.shape)

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype.short}[...]"
        return f"{self.dtype.short}[{', '.join('?' if dim is None else str(dim) for dim in self.shape)}]"


@dataclass(frozen=True, slots=True)
class SparseTensorType:
    """A sparse tensor (ONNX `SparseTensorProto`) as a value's type."""

    dtype: DataType
    shape: tuple[Dim, ...] | None = None
    denotation: str = ""

    def __str__(self) -> str:
        return f"sparse({TensorType(self.dtype, self.shape)})"


@dataclass(frozen=True, slots=True)
class SequenceType:
    """A sequence; `element` is None where the model doesn't say of what."""

    element: ValueType | None
    denotation: str = ""

    def __str__(self) -> str:
        return f"seq({self.element or ''})"


@dataclass(frozen=True, slots=True)
class OptionalType:
    """A value that may be absent."""

    element: ValueType | None
    denotation: str = ""

    def __str__(self) -> str:
        return f"optional({self.element or ''})"


@dataclass(frozen=True, slots=True)
class MapType:
    """A map from a scalar key type to values of one type."""

    key: DataType
    element: ValueType | None
    denotation: str = ""

    def __str__(self) -> str:
        return f"map({self.key.short}, {self.element or ''})"


@dataclass(frozen=True, slots=True)
class OpaqueType:
    """A type that only its own domain understands."""

    domain: str
    name: str
    denotation: str = ""

    def __str__(self) -> str:
        return f"opaque({self.domain!r}, {self.name!r})"


ValueType: TypeAlias = TensorType | SparseTensorType | SequenceType | OptionalType | MapType | OpaqueType
