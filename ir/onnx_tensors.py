"""Tensors between onnx protobuf messages and the IR: raw, typed, sparse and external data."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import onnx
from numpy.typing import NDArray

from secateur.ir import wire
from secateur.ir.errors import ModelError
from secateur.ir.node import SparseTensor
from secateur.ir.onnx_types import read_dtype, read_pairs, text, write_properties
from secateur.ir.storage import OpenFiles, Storage
from secateur.ir.tensor import Tensor
from secateur.ir.types import DataType

_LARGEST_DENSE = 1 << 30
_DEEPEST = 64  # axes that a numpy array can have

_SOURCES = {
    DataType.FLOAT32: ("float_data", np.float32),
    DataType.COMPLEX64: ("float_data", np.float32),
    DataType.FLOAT64: ("double_data", np.float64),
    DataType.COMPLEX128: ("double_data", np.float64),
    DataType.INT64: ("int64_data", np.int64),
    DataType.UINT32: ("uint64_data", np.uint64),
    DataType.UINT64: ("uint64_data", np.uint64),
}


@dataclass
class Weights:
    """Where the tensors of one model lie: in its own bytes, in the message, and in files of its folder."""

    model: Storage | None = None
    mark: bytes = b""
    """How a placeholder for bytes of `model` starts (`secateur.ir.wire`)."""
    folder: Path | None = None
    files: OpenFiles = field(default_factory=OpenFiles)
    _storages: dict[str, Storage] = field(default_factory=dict)

    def read(self, proto: onnx.TensorProto, where: str) -> Tensor:
        """A dense tensor; nothing is copied that can stay where it is.

        Raises:
            ModelError: dimensions, element type and data do not belong together, or external data is not there.
        """
        where = f"tensor {proto.name!r} of {where}" if proto.name else f"a tensor of {where}"
        dtype, shape = read_dtype(proto.data_type, where), tuple(proto.dims)
        _check_shape(dtype, shape, where)
        if proto.HasField("segment"):
            raise ModelError(f"{where} is one segment of a tensor", hint="ONNX never gave segments a meaning")
        if proto.data_location == onnx.TensorProto.EXTERNAL:
            tensor = self._external(proto, dtype, shape, where)
        elif proto.HasField("raw_data") and dtype is not DataType.STRING:
            tensor = self._raw(proto.raw_data, dtype, shape, where)
        else:
            tensor = Tensor(_typed(proto, dtype, shape, where), dtype)
        if len(proto.metadata_props):
            tensor.metadata = read_pairs(proto.metadata_props)
        return tensor

    def _raw(self, raw: bytes, dtype: DataType, shape: tuple[int, ...], where: str) -> Tensor:
        place = wire.placeholder(raw, self.mark) if self.model is not None else None
        found = len(raw) if place is None else place[1]
        expected = _nbytes(dtype, shape)
        if found != expected:
            raise _mismatch(where, dtype, shape, expected, found)
        if place is not None and self.model is not None:
            return Tensor.mapped(dtype, shape, self.model, place[0])
        return Tensor.mapped(dtype, shape, Storage(raw), 0)

    def _external(self, proto: onnx.TensorProto, dtype: DataType, shape: tuple[int, ...], where: str) -> Tensor:
        entries = {entry.key: entry.value for entry in proto.external_data}
        expected = _nbytes(dtype, shape)
        if dtype is DataType.STRING:
            raise ModelError(f"{where} holds strings in external data", hint="ONNX allows that for numbers only")
        offset = _number(entries.get("offset", "0"), where)
        if (length := entries.get("length")) is not None and _number(length, where) != expected:
            raise _mismatch(where, dtype, shape, expected, length)
        storage = self._storage(text(entries.get("location", ""), where), where)
        if offset + expected > storage.size:
            raise ModelError(
                f"{storage.path} is too short for {where}: {dtype.short}{list(shape)} needs {expected} bytes from "
                f"offset {offset}, but the file has {storage.size} bytes",
                hint="the file was cut short or belongs to another model; restore it",
            )
        return Tensor.mapped(dtype, shape, storage, offset)

    def _storage(self, location: str, where: str) -> Storage:
        storage = self._storages.get(location)
        if storage is None:
            if self.folder is None:
                raise ModelError(
                    f"{where} lies in the file {location!r}, and the model's folder is not known",
                    hint="load the model from its path, or name the folder",
                )
            inside = os.path.normpath(PurePosixPath(location))
            if not location or os.path.isabs(inside) or inside.split(os.sep)[0] in ("..", "."):
                raise ModelError(
                    f"{where} lies in {location!r}, which is no file inside the model's folder",
                    hint="put the data beside the model and name it by a relative path",
                )
            try:
                storage = Storage(self.folder / inside, self.files)
            except ModelError as error:
                raise ModelError(f"{error.message}, the external data of {where}", hint=error.hint) from error
            self._storages[location] = storage
        return storage

    def read_sparse(self, proto: onnx.SparseTensorProto, where: str) -> SparseTensor:
        """A sparse tensor as it came.

        Raises:
            ModelError: its parts do not fit each other.
        """
        values, indices = self.read(proto.values, where), self.read(proto.indices, where)
        shape = tuple(proto.dims)
        where = f"sparse tensor {proto.values.name!r} of {where}"
        _check_shape(values.dtype, shape, where)
        count = values.size
        if len(values.shape) != 1 or indices.dtype is not DataType.INT64:
            raise ModelError(f"{where} needs values [n] and int64 indices, found {values} and {indices}")
        if indices.shape not in ((count,), (count, len(shape))):
            raise ModelError(f"{where} needs indices [{count}] or [{count}, {len(shape)}], found {indices}")
        return SparseTensor(values, indices, shape)


def densify(sparse: SparseTensor, where: str) -> Tensor:
    """The same numbers in a dense tensor, zero (or the empty string) where nothing is said.

    Raises:
        ModelError: an index lies outside the shape, or the dense tensor would take more than 1 GiB.
    """
    dtype, shape = sparse.values.dtype, sparse.shape
    size = math.prod(shape)
    if size * dtype.numpy.itemsize > _LARGEST_DENSE:
        raise ModelError(
            f"a sparse tensor of {where} would take {size * dtype.numpy.itemsize} bytes when dense",
            hint="sparse constants are densified when a model is loaded; more than 1 GiB is refused",
        )
    indices = sparse.indices.numpy()
    limits = np.array([size] if indices.ndim == 1 else shape, np.int64)
    if ((indices.reshape(len(indices), -1) < 0) | (indices.reshape(len(indices), -1) >= limits)).any():
        raise ModelError(f"a sparse tensor of {where} has an index outside its shape {list(shape)}")
    if indices.ndim == 2:
        indices = np.ravel_multi_index(tuple(indices.T), shape) if shape else np.zeros(len(indices), np.int64)
    dense = np.full(size, b"", object) if dtype is DataType.STRING else np.zeros(size, dtype.numpy)
    dense[indices] = sparse.values.numpy()
    return Tensor(dense.reshape(shape), dtype)


def describe(tensor: Tensor, name: str = "", doc: str = "") -> onnx.TensorProto:
    """A message that says everything of a tensor but its numbers; strings, which are never raw, are in it."""
    proto = onnx.TensorProto(dims=tensor.shape, data_type=int(tensor.dtype))
    if name:
        proto.name = name
    if doc:
        proto.doc_string = doc
    if tensor.metadata:
        write_properties(proto.metadata_props, tensor.metadata)
    if tensor.dtype is DataType.STRING:
        proto.string_data.extend(tensor.numpy().reshape(-1))
    return proto


def _check_shape(dtype: DataType, shape: tuple[int, ...], where: str) -> None:
    if dtype is DataType.UNDEFINED:
        raise ModelError(f"{where} has no element type", hint="the file is damaged")
    if any(dim < 0 for dim in shape) or len(shape) > _DEEPEST:
        raise ModelError(f"{where} cannot have the shape {list(shape)}", hint="the file is damaged")
    if math.prod(dim for dim in shape if dim) * dtype.numpy.itemsize >= 1 << 63:
        raise ModelError(f"{where} is larger than any memory: {list(shape)}", hint="the file is damaged")


def _nbytes(dtype: DataType, shape: tuple[int, ...]) -> int:
    return (math.prod(shape) * dtype.bits + 7) // 8


def _number(digits: str, where: str) -> int:
    if not digits.isdigit() or not digits.isascii() or len(digits) > 19:
        raise ModelError(f"{where} has {digits!r} in its external data", hint="expected a whole number of bytes")
    return int(digits)


def _typed(proto: onnx.TensorProto, dtype: DataType, shape: tuple[int, ...], where: str) -> NDArray[np.generic]:
    """The numbers from `float_data`, `int32_data` and so on, bit for bit."""
    size = math.prod(shape)
    if dtype is DataType.STRING:
        return _checked(np.array([*proto.string_data, None], object)[:-1], size, dtype, where).reshape(shape)
    name, stored = _SOURCES.get(dtype, ("int32_data", np.int32))
    data = np.array(getattr(proto, name), dtype=stored)
    if name in ("float_data", "double_data"):
        array = _checked(data, size * (dtype.numpy.itemsize // data.itemsize), dtype, where).view(dtype.numpy)
    elif dtype.bits in (2, 4):
        packed = _checked(data, _nbytes(dtype, shape), dtype, where).astype(np.uint8)
        return Tensor.mapped(dtype, shape, Storage(packed.tobytes()), 0).numpy()
    else:
        # Narrower than what carries it: the low bits are the element, whatever it is.
        carrier = np.dtype(f"u{dtype.numpy.itemsize}")
        array = _checked(data, size, dtype, where).astype(carrier, copy=False).view(dtype.numpy)
    return array.reshape(shape)


def _checked(data: NDArray[np.generic], expected: int, dtype: DataType, where: str) -> NDArray[np.generic]:
    if data.size != expected:
        raise ModelError(
            f"{where} should hold {expected} stored numbers for its shape ({dtype.short}), found {data.size}",
            hint="the file is damaged",
        )
    return data


def _mismatch(where: str, dtype: DataType, shape: tuple[int, ...], expected: int, found: int | str) -> ModelError:
    return ModelError(
        f"{where}: {dtype.short}{list(shape)} takes {expected} bytes, found {found}", hint="the file is damaged"
    )
