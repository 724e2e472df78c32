"""Which Python values each kind of attribute holds: one table for the verifier, the text form and equality."""

from __future__ import annotations

from typing import Any

from secateur.ir.graph import Graph
from secateur.ir.node import Attribute, AttributeKind, SparseTensor
from secateur.ir.tensor import Tensor
from secateur.ir.types import MapType, OpaqueType, OptionalType, SequenceType, SparseTensorType, TensorType

HELD: dict[AttributeKind, tuple[type, ...]] = {
    AttributeKind.FLOAT: (float,),
    AttributeKind.INT: (int,),
    AttributeKind.STRING: (str,),
    AttributeKind.TENSOR: (Tensor,),
    AttributeKind.GRAPH: (Graph,),
    AttributeKind.SPARSE_TENSOR: (SparseTensor,),
    AttributeKind.TYPE_PROTO: (
        TensorType,
        SparseTensorType,
        SequenceType,
        OptionalType,
        MapType,
        OpaqueType,
        type(None),
    ),
}
"""The exact Python types of the singular kinds: a bool is no INT, a numpy float no FLOAT."""

SINGULAR: dict[AttributeKind, AttributeKind] = {AttributeKind[kind.name + "S"]: kind for kind in HELD}
"""FLOATS -> FLOAT, and so on."""

INT64 = range(-(2**63), 2**63)
"""What an INT may hold."""


def mismatch(attribute: Attribute) -> str | None:
    """What is wrong with the value of an attribute for its kind, or None where it fits."""
    kind, value = attribute.kind, attribute.value
    if attribute.reference or kind is AttributeKind.UNDEFINED:
        return None if value is None else f"holds {value!r} besides a reference or without a kind"
    if kind in HELD:
        return _mismatch(kind, value)
    if type(value) is not tuple:
        return f"is {kind.name} and must hold a tuple, found {_article(value)}"
    found = (_mismatch(SINGULAR[kind], item) for item in value)
    return next((fault for fault in found if fault is not None), None)


def _mismatch(kind: AttributeKind, value: Any) -> str | None:
    if type(value) not in HELD[kind]:
        return f"is {kind.name} and must hold {HELD[kind][0].__name__}, found {_article(value)}"
    if kind is AttributeKind.INT and value not in INT64:
        return f"holds {value}, which does not fit in 64 bits"
    return None


def _article(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__} {value!r}".removeprefix("builtins.")
