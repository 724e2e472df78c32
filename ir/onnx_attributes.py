"""Attributes between onnx protobuf messages and the IR, and which `Constant` nodes are constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx

from secateur.ir.errors import ModelError
from secateur.ir.node import Attribute, AttributeKind
from secateur.ir.onnx_tensors import Weights, densify
from secateur.ir.onnx_types import read_type, text, write_type
from secateur.ir.tensor import Tensor

ReadGraph = Callable[[onnx.GraphProto, str], Any]
"""Reads the body in an attribute; the text says where it is."""

FIELDS: dict[AttributeKind, str] = {
    AttributeKind.FLOAT: "f",
    AttributeKind.INT: "i",
    AttributeKind.STRING: "s",
    AttributeKind.TENSOR: "t",
    AttributeKind.GRAPH: "g",
    AttributeKind.SPARSE_TENSOR: "sparse_tensor",
    AttributeKind.TYPE_PROTO: "tp",
    AttributeKind.FLOATS: "floats",
    AttributeKind.INTS: "ints",
    AttributeKind.STRINGS: "strings",
    AttributeKind.TENSORS: "tensors",
    AttributeKind.GRAPHS: "graphs",
    AttributeKind.SPARSE_TENSORS: "sparse_tensors",
    AttributeKind.TYPE_PROTOS: "type_protos",
}
_PLAIN = (AttributeKind.FLOAT, AttributeKind.INT)
_PLAINS = (AttributeKind.FLOATS, AttributeKind.INTS)
_KINDS = {int(kind.value): kind for kind in AttributeKind}


class AttributeReader:
    """Turns attribute messages into attributes; bodies go to the function that is given."""

    def __init__(self, weights: Weights, graph: ReadGraph) -> None:
        self._readers: dict[AttributeKind, Callable[[Any, str], Any]] = {
            AttributeKind.STRING: lambda found, where: decode(found),
            AttributeKind.TENSOR: weights.read,
            AttributeKind.GRAPH: graph,
            AttributeKind.SPARSE_TENSOR: weights.read_sparse,
            AttributeKind.TYPE_PROTO: read_type,
        }

    def read(self, proto: onnx.AttributeProto, where: str) -> Attribute:
        """One attribute.

        Raises:
            ModelError: what it holds cannot be read.
        """
        kind = _KINDS[proto.type] if proto.type else _guess(proto)
        reference, doc = text(proto.ref_attr_name, where), text(proto.doc_string, where)
        if reference or kind is AttributeKind.UNDEFINED:
            return Attribute(kind, None, reference, doc)
        found = getattr(proto, FIELDS[kind])
        if kind in _PLAIN:
            value = found
        elif kind in _PLAINS:
            value = tuple(found)
        elif (reader := self._readers.get(kind)) is not None:
            value = reader(found, where)
        else:
            reader = self._readers[AttributeKind[kind.name[:-1]]]
            value = tuple([reader(item, where) for item in found])
        return Attribute(kind, value, "", doc)


def _guess(proto: onnx.AttributeProto) -> AttributeKind:
    """The kind of an attribute that doesn't say it, as the first versions of ONNX allowed."""
    for kind, name in FIELDS.items():
        if kind.name.endswith("S"):
            if len(getattr(proto, name)):
                return kind
        elif proto.HasField(name):
            return kind
    return AttributeKind.UNDEFINED


def write_attribute(name: str, attribute: Attribute) -> onnx.AttributeProto:
    """The message for an attribute; tensors and graphs, which are streamed, are left out of it."""
    proto = onnx.AttributeProto(name=name, type=attribute.kind.value)
    if attribute.reference:
        proto.ref_attr_name = attribute.reference
    if attribute.doc:
        proto.doc_string = attribute.doc
    value, kind = attribute.value, attribute.kind
    if value is None:
        return proto
    if kind in _PLAIN:
        setattr(proto, FIELDS[kind], value)
    elif kind in _PLAINS:
        getattr(proto, FIELDS[kind]).extend(value)
    elif kind is AttributeKind.STRING:
        proto.s = encode(value)
    elif kind is AttributeKind.STRINGS:
        proto.strings.extend(map(encode, value))
    elif kind is AttributeKind.TYPE_PROTO:
        proto.tp.CopyFrom(write_type(value))
    elif kind is AttributeKind.TYPE_PROTOS:
        proto.type_protos.extend(map(write_type, value))
    return proto


def decode(raw: bytes) -> str:
    """A string attribute; bytes that are no UTF-8 become surrogates."""
    return raw.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    """The inverse of `decode`."""
    return text.encode("utf-8", "surrogateescape")


def constant_of(attributes: dict[str, Attribute], where: str) -> Tensor | None:
    """The tensor that a `Constant` node makes; None where it takes it from a function's attribute.

    Raises:
        ModelError: not exactly one value, or one of another kind than its name says.
    """
    if any(attribute.reference for attribute in attributes.values()):
        return None
    if len(attributes) != 1:
        raise ModelError(f"{where} needs exactly one value, found {sorted(attributes) or 'none'}")
    ((name, attribute),) = attributes.items()
    if attribute.kind is not _CONSTANTS.get(name):
        raise ModelError(f"{where} has an attribute {name!r} of kind {attribute.kind.name}, which is no constant value")
    value = attribute.value
    if attribute.kind is AttributeKind.TENSOR:
        assert isinstance(value, Tensor)
        return value
    if attribute.kind is AttributeKind.SPARSE_TENSOR:
        return densify(value, where)
    if attribute.kind in (AttributeKind.STRING, AttributeKind.STRINGS):
        texts = [encode(value)] if isinstance(value, str) else list(map(encode, value))
        return Tensor(np.array([*texts, None], object)[:-1].reshape(() if isinstance(value, str) else -1))
    integral = attribute.kind in (AttributeKind.INT, AttributeKind.INTS)
    return Tensor(np.array(value, np.int64 if integral else np.float32))


_CONSTANTS = {
    "value": AttributeKind.TENSOR,
    "sparse_value": AttributeKind.SPARSE_TENSOR,
    "value_float": AttributeKind.FLOAT,
    "value_floats": AttributeKind.FLOATS,
    "value_int": AttributeKind.INT,
    "value_ints": AttributeKind.INTS,
    "value_string": AttributeKind.STRING,
    "value_strings": AttributeKind.STRINGS,
}
