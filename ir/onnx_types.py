"""Value types and metadata between onnx protobuf messages and the IR."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import onnx

from secateur.ir.errors import ModelError
from secateur.ir.node import NOTHING
from secateur.ir.types import (
    DataType,
    Dim,
    MapType,
    OpaqueType,
    OptionalType,
    SequenceType,
    SparseTensorType,
    TensorType,
    ValueType,
)

QUANTIZATION = "onnx.quantization."
"""Prefix of the metadata in which a value keeps ONNX's quantization annotation."""


def text(found: Any, what: str) -> str:
    """A string field as it came; protobuf gives bytes for one that is no UTF-8.

    Raises:
        ModelError: it is no text.
    """
    if type(found) is not str:
        raise ModelError(f"{what} is no text: {found!r}", hint="the file is damaged")
    return found


def read_dtype(number: int, where: str) -> DataType:
    """The element type of this number.

    Raises:
        ModelError: ONNX knows no such number.
    """
    try:
        return DataType(number)
    except ValueError:
        raise ModelError(
            f"{where} has element type {number}, which is none of ONNX's", hint="a newer ONNX, or a damaged file?"
        ) from None


def read_type(proto: onnx.TypeProto, where: str) -> ValueType | None:
    """The type that a message describes; None where it says nothing."""
    kind = proto.WhichOneof("value")
    if kind is None:
        return None
    inner, denotation = getattr(proto, kind), text(proto.denotation, where)
    if kind == "tensor_type":
        shape, meanings = _read_shape(inner, where)
        return TensorType(read_dtype(inner.elem_type, where), shape, denotation, meanings)
    if kind == "sparse_tensor_type":
        return SparseTensorType(read_dtype(inner.elem_type, where), _read_shape(inner, where)[0], denotation)
    if kind == "sequence_type":
        return SequenceType(read_type(inner.elem_type, where), denotation)
    if kind == "optional_type":
        return OptionalType(read_type(inner.elem_type, where), denotation)
    if kind == "map_type":
        return MapType(read_dtype(inner.key_type, where), read_type(inner.value_type, where), denotation)
    return OpaqueType(text(inner.domain, where), text(inner.name, where), denotation)


def _read_shape(proto: Any, where: str) -> tuple[tuple[Dim, ...] | None, tuple[str, ...]]:
    if not proto.HasField("shape"):
        return None, ()
    shape: list[Dim] = []
    meanings: list[str] = []
    for dim in proto.shape.dim:
        # A negative size and the name "?" are how some exporters say "unknown"; axes of that name need not be equal.
        size, name = dim.dim_value, text(dim.dim_param, where)
        known = size > 0 or (size == 0 and dim.HasField("dim_value"))
        shape.append(size if known else None if name == "?" else name or None)
        if dim.denotation:
            meanings = meanings or [""] * len(proto.shape.dim)
            meanings[len(shape) - 1] = text(dim.denotation, where)
    return tuple(shape), tuple(meanings)


def write_type(kind: ValueType | None, into: onnx.TypeProto | None = None) -> onnx.TypeProto:
    """The inverse of `read_type`; a new message unless an empty one is given."""
    proto = onnx.TypeProto() if into is None else into
    if kind is None:
        return proto
    if kind.denotation:
        proto.denotation = kind.denotation
    match kind:
        case TensorType(dtype, shape):
            _write_tensor_type(proto.tensor_type, dtype, shape, kind.dim_denotations)
        case SparseTensorType(dtype, shape):
            _write_tensor_type(proto.sparse_tensor_type, dtype, shape, ())
        case SequenceType(element):
            _write_element(proto.sequence_type, "elem_type", element)
        case OptionalType(element):
            _write_element(proto.optional_type, "elem_type", element)
        case MapType(key, element):
            proto.map_type.key_type = int(key)
            _write_element(proto.map_type, "value_type", element)
        case OpaqueType(domain, name):
            proto.opaque_type.domain, proto.opaque_type.name = domain, name
    return proto


def _write_element(proto: Any, field: str, element: ValueType | None) -> None:
    proto.SetInParent()
    if element is not None:
        write_type(element, getattr(proto, field))


def _write_tensor_type(proto: Any, dtype: DataType, shape: tuple[Dim, ...] | None, meanings: tuple[str, ...]) -> None:
    proto.elem_type = int(dtype)
    if shape is None:
        return
    proto.shape.SetInParent()
    for axis, size in enumerate(shape):
        if isinstance(size, int):
            dim = proto.shape.dim.add(dim_value=size)
        else:
            dim = proto.shape.dim.add(dim_param=size) if size is not None else proto.shape.dim.add()
        if meanings and meanings[axis]:
            dim.denotation = meanings[axis]


def read_pairs(entries: Any) -> tuple[tuple[str, str], ...]:
    """The pairs of a repeated `StringStringEntryProto`."""
    if not len(entries):
        return ()
    return tuple((text(entry.key, "a metadata key"), text(entry.value, "a metadata value")) for entry in entries)


def read_properties(entries: Any) -> Mapping[str, str]:
    """The same as a mapping; one shared empty one for nearly every message."""
    return dict(read_pairs(entries)) if len(entries) else NOTHING


def write_properties(proto: Any, properties: Mapping[str, str] | Iterable[tuple[str, str]]) -> None:
    """Appends pairs to a repeated field of `StringStringEntryProto`."""
    for name, value in properties.items() if isinstance(properties, Mapping) else properties:
        proto.add(key=name, value=value)
