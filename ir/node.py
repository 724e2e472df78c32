"""Value, Op and Attribute: the nodes of a graph. Compared by identity; data lives here, never in networkx."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from secateur.ir.tensor import Tensor
from secateur.ir.types import TensorType, ValueType

if TYPE_CHECKING:
    from secateur.ir.graph import Graph

NOTHING: Mapping[str, str] = MappingProxyType({})
"""The metadata of nearly every node: one shared, empty mapping."""


@dataclass(frozen=True, slots=True)
class ConstantNode:
    """Remembers that a constant came as a `Constant` node, so that it leaves as one."""

    name: str = ""
    doc: str = ""
    metadata: Mapping[str, str] = field(default_factory=lambda: NOTHING, hash=False)


@dataclass(slots=True, eq=False, repr=False)
class Value:
    """A tensor (or sequence, map, optional) that flows along edges: an input, a constant, or an op's output.

    `const` makes it a constant; `type` is what the file says of it (facts know more).
    """

    name: str
    type: ValueType | None = None
    const: Tensor | None = None
    node: ConstantNode | None = None
    doc: str = ""
    metadata: Mapping[str, str] = field(default_factory=lambda: NOTHING)

    def __post_init__(self) -> None:
        if self.type is None and self.const is not None:
            self.type = TensorType(self.const.dtype, self.const.shape)

    def set_const(self, tensor: Tensor) -> None:
        """Replaces the constant and the type that follows from it."""
        self.const = tensor
        self.type = TensorType(tensor.dtype, tensor.shape)

    def __repr__(self) -> str:
        return f"%{self.name}"


class AttributeKind(Enum):
    """The kinds of attribute, numbered as ONNX numbers them."""

    UNDEFINED = 0
    FLOAT = 1
    INT = 2
    STRING = 3
    TENSOR = 4
    GRAPH = 5
    FLOATS = 6
    INTS = 7
    STRINGS = 8
    TENSORS = 9
    GRAPHS = 10
    SPARSE_TENSOR = 11
    SPARSE_TENSORS = 12
    TYPE_PROTO = 13
    TYPE_PROTOS = 14


_HOLD_GRAPHS = (AttributeKind.GRAPH, AttributeKind.GRAPHS)


@dataclass(frozen=True, slots=True)
class SparseTensor:
    """Non-zero values [n], their indices ([n] linear or [n, rank]), and the dense shape."""

    values: Tensor
    indices: Tensor
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Attribute:
    """One attribute. Sequences are tuples; strings are str (bytes that are no UTF-8 become surrogates).

    In a function body `reference` names the function's attribute that this one takes its value from; `value` is
    None then.
    """

    kind: AttributeKind
    value: Any
    reference: str = ""
    doc: str = ""

    @staticmethod
    def of(value: Any) -> Attribute:
        """Infers the kind from a Python value; an empty list becomes INTS.

        Raises:
            TypeError: no kind fits.
        """
        from secateur.ir.graph import Graph

        single = {
            bool: AttributeKind.INT,
            int: AttributeKind.INT,
            float: AttributeKind.FLOAT,
            str: AttributeKind.STRING,
            Tensor: AttributeKind.TENSOR,
            Graph: AttributeKind.GRAPH,
            SparseTensor: AttributeKind.SPARSE_TENSOR,
        }
        if kind := single.get(type(value)):
            return Attribute(kind, int(value) if kind is AttributeKind.INT else value)
        if isinstance(value, list | tuple):
            kinds = {single.get(type(item)) for item in value} or {AttributeKind.INT}
            if kinds == {AttributeKind.INT, AttributeKind.FLOAT}:
                kinds = {AttributeKind.FLOAT}
            kind = kinds.pop() if len(kinds) == 1 else None
            if kind is not None:
                plural = AttributeKind[kind.name + "S"]
                return Attribute(plural, tuple(float(item) if kind is AttributeKind.FLOAT else item for item in value))
        raise TypeError(f"no attribute kind fits {value!r}")

    def graphs(self) -> tuple[Graph, ...]:
        """The bodies in this attribute."""
        if self.value is None:
            return ()
        if self.kind is AttributeKind.GRAPH:
            return (self.value,)
        return self.value if self.kind is AttributeKind.GRAPHS else ()


@dataclass(slots=True, eq=False, repr=False)
class Op:
    """An operator applied to values. None marks an optional port left out; edges change through `Graph` only."""

    op_type: str
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value | None, ...]
    attributes: dict[str, Attribute] = field(default_factory=dict)
    domain: str = ""
    name: str = ""
    overload: str = ""
    doc: str = ""
    metadata: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    extra: bytes = b""
    """Protobuf fields of the node that nobody here interprets (device placement), kept as they came."""

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of an attribute, or `default` where it is left out or refers to a function's argument."""
        found = self.attributes.get(name)
        return default if found is None or found.value is None else found.value

    def input(self, port: int) -> Value | None:
        """The value at an input port, None where it is left out."""
        return self.inputs[port] if port < len(self.inputs) else None

    @property
    def output(self) -> Value:
        """The first output."""
        first = self.outputs[0]
        assert first is not None, f"{self.title} leaves out its first output"
        return first

    def bodies(self) -> tuple[Graph, ...]:
        """The graphs that this op's attributes hold, in attribute order."""
        holders = [one for one in self.attributes.values() if one.kind in _HOLD_GRAPHS]
        return tuple(body for one in holders for body in one.graphs()) if holders else ()

    @property
    def key(self) -> tuple[str, str]:
        """(domain, op type), as rule tables are keyed; the default domain is always ""."""
        return ("" if self.domain == "ai.onnx" else self.domain, self.op_type)

    @property
    def title(self) -> str:
        """How errors name this op: `Conv 'conv1'`, or by its first output where it has no name."""
        made = next((value.name for value in self.outputs if value is not None), "")
        shown = f"{self.domain}::{self.op_type}" if self.domain else self.op_type
        return f"{shown} {self.name or '-> ' + made!r}"

    def __repr__(self) -> str:
        return self.title
