"""Which element types the ports of an operator take, and which of them must agree: ONNX's own schemas, as data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from onnx import defs

from secateur.ir.node import Op
from secateur.ir.types import DataType


@dataclass(frozen=True, slots=True)
class Port:
    """One input or output.

    Attributes:
        variable: what ports of one element type share ("T"); "" where each is of its own.
        types: the element types that it takes; empty where it takes no tensors, or anything.
    """

    variable: str
    types: frozenset[DataType]


@dataclass(frozen=True, slots=True)
class Signature:
    """The ports of an operator, in order; where there may be any number of the last, it stands for all of them."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def input(self, port: int) -> Port:
        """The input at a position."""
        return self.inputs[min(port, len(self.inputs) - 1)]

    def output(self, port: int) -> Port:
        """The output at a position."""
        return self.outputs[min(port, len(self.outputs) - 1)]


def signature(op: Op, opset: int) -> Signature | None:
    """What ONNX says of an op under an opset of its domain; None where it knows no such operator."""
    domain, name = op.key
    return _signature(name, domain, opset)


@lru_cache(maxsize=1024)
def _signature(name: str, domain: str, opset: int) -> Signature | None:
    try:
        schema = defs.get_schema(name, opset, domain)
    except defs.SchemaError:
        return None
    inputs, outputs = (tuple(_port(one) for one in ports) for ports in (schema.inputs, schema.outputs))
    return Signature(inputs, outputs)


def _port(parameter: defs.OpSchema.FormalParameter) -> Port:
    found = (_dtype(text) for text in parameter.types)
    variable = parameter.type_str if parameter.is_homogeneous and "(" not in parameter.type_str else ""
    return Port(variable, frozenset(kind for kind in found if kind is not None))


_NAMES = {"float": DataType.FLOAT32, "double": DataType.FLOAT64} | {kind.name.lower(): kind for kind in DataType}


def _dtype(text: str) -> DataType | None:
    return _NAMES.get(text.removeprefix("tensor(").removesuffix(")")) if text.startswith("tensor(") else None
