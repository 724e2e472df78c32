"""What a model is: ops and values on networkx, lazily mapped weights, ONNX in and out, a text form."""

from __future__ import annotations

from secateur.ir.graph import Graph
from secateur.ir.model import FunctionKey, Header
from secateur.ir.node import Attribute, AttributeKind, Op, Value
from secateur.ir.tensor import Tensor
from secateur.ir.types import DataType, TensorType

__all__ = [
    "Attribute",
    "AttributeKind",
    "DataType",
    "FunctionKey",
    "Graph",
    "Header",
    "Op",
    "Tensor",
    "TensorType",
    "Value",
]
