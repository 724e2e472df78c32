"""Random graphs with everything in them that the IR can hold: not runnable, but well formed (`verify` passes)."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np

from secateur.ir import Attribute, AttributeKind, DataType, FunctionKey, Graph, Header, Op, Tensor, TensorType, Value
from secateur.ir.node import NOTHING, ConstantNode, SparseTensor
from secateur.ir.types import MapType, OpaqueType, OptionalType, SequenceType, SparseTensorType, ValueType

_CHARACTERS = 'abz09_./:-$%@#"\\{}()[]<>=,; \t\n\r\x00\x7f\u00e9\u202e\u4e2d\U0001f600\udc80'
_DTYPES = [dtype for dtype in DataType if dtype is not DataType.UNDEFINED]
_INTEGERS = (0, 1, -1, 2**31, -(2**63), 2**63 - 1)
_FLOATS = (0.0, -0.0, 0.1, 1e-45, 3.4e38, math.inf, -math.inf, math.nan)
_FUNCTION = "Call"


def random_graph(seed: int, size: int = 8) -> Graph:
    """A model of about `size` ops with bodies, functions, odd names, odd tensors and every kind of attribute."""
    return _Generator(random.Random(seed)).model(size)


def random_tensor(seed: int, dtype: DataType, shape: tuple[int, ...]) -> Tensor:
    """Random bits: every NaN, infinity and subnormal of the type can come."""
    return _Generator(random.Random(seed)).tensor_of(dtype, shape)


class _Generator:
    def __init__(self, source: random.Random) -> None:
        self.random = source
        self.names: set[str] = set()

    # ---- small things ----------------------------------------------------------------------------------------------

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def text(self) -> str:
        if self.chance(0.5):
            return self.random.choice(
                ("", "a", "conv1", "/layer.0/Conv_output_0", "onnx::Add_3", "true", "doc", "_", "inf")
            )
        return "".join(self.random.choices(_CHARACTERS, k=self.random.randrange(6)))

    def name(self) -> str:
        while True:
            name = self.text()
            if name and name not in self.names:
                self.names.add(name)
                return name
            if self.chance(0.3):
                name += str(len(self.names))

    def pairs(self) -> dict[str, str]:
        return {self.text(): self.text() for _ in range(self.random.randrange(3))} if self.chance(0.2) else {}

    def doc(self) -> str:
        return self.text() if self.chance(0.2) else ""

    def shape(self) -> tuple[int, ...]:
        return tuple(self.random.randrange(5) for _ in range(self.random.randrange(4)))

    def tensor(self) -> Tensor:
        return self.tensor_of(self.random.choice(_DTYPES), self.shape())

    def tensor_of(self, dtype: DataType, shape: tuple[int, ...]) -> Tensor:
        count = math.prod(shape)
        if dtype is DataType.STRING:
            items = [self.random.randbytes(self.random.randrange(4)) for _ in range(count)]
            return Tensor(np.array([*items, None], object)[:-1].reshape(shape), dtype)
        raw = np.frombuffer(self.random.randbytes(count * dtype.numpy.itemsize), np.uint8)
        if dtype is DataType.BOOL:
            raw = raw & 1
        elif dtype.bits < 8:
            raw = raw & ((1 << dtype.bits) - 1)
        made = Tensor(raw.view(dtype.numpy).reshape(shape), dtype)
        if self.chance(0.1):
            made.metadata = tuple(self.pairs().items())
        return made

    def type(self, depth: int = 0) -> ValueType | None:
        kind = self.random.randrange(3 if depth > 2 else 9)
        dtype = self.random.choice(list(DataType))
        if kind < 4:
            dims = tuple(self.random.choice((0, 1, 64, None, "N", "batch size", "", "3", "n?")) for _ in self.shape())
            shape = None if self.chance(0.1) else dims
            if self.chance(0.9):
                return TensorType(dtype, shape)
            return TensorType(dtype, shape, self.text(), tuple(self.text() for _ in dims))
        denotation = self.text() if self.chance(0.2) else ""
        made: list[ValueType | None] = [
            None,
            SparseTensorType(dtype, (3, "N", None), denotation),
            SequenceType(self.type(depth + 1), denotation),
            OptionalType(self.type(depth + 1), denotation),
            MapType(dtype, self.type(depth + 1), denotation),
            OpaqueType(self.text(), self.text(), denotation),
        ]
        return self.random.choice(made)

    def single(self, kind: AttributeKind) -> Any:
        if kind is AttributeKind.INT:
            return self.random.choice(_INTEGERS)
        if kind is AttributeKind.FLOAT:
            return float(np.float32(self.random.choice(_FLOATS)))
        if kind is AttributeKind.STRING:
            return self.text()
        if kind is AttributeKind.TENSOR:
            return self.tensor()
        if kind is AttributeKind.SPARSE_TENSOR:
            return SparseTensor(self.tensor(), self.tensor(), self.shape())
        return self.type()

    def attribute(self, parameters: tuple[str, ...]) -> Attribute:
        kind = self.random.choice([kind for kind in AttributeKind if "GRAPH" not in kind.name])
        if parameters and self.chance(0.3):
            return Attribute(kind, None, self.random.choice(parameters), self.doc())
        if kind is AttributeKind.UNDEFINED:
            return Attribute(kind, None, "", self.doc())
        if kind.name.endswith("S"):
            single = AttributeKind[kind.name[:-1]]
            return Attribute(kind, tuple(self.single(single) for _ in range(self.random.randrange(4))), "", self.doc())
        return Attribute(kind, self.single(kind), "", self.doc())

    # ---- graphs ----------------------------------------------------------------------------------------------------

    def value(self, const: Tensor | None = None) -> Value:
        kind = self.type() if const is None and self.chance(0.6) else None
        node = None
        if const is not None and self.chance(0.3):
            node = ConstantNode(self.text(), self.doc(), self.pairs() or NOTHING)
        return Value(self.name(), kind, const, node, self.doc(), self.pairs() or NOTHING)

    def header(self, parameters: tuple[str, ...] = ()) -> Header:
        return Header(
            ir_version=self.random.randrange(3, 14),
            opsets=(("", self.random.randrange(30)), ("my domain", 2), ("ai.onnx.ml", 3)),
            producer=(self.text(), self.text()),
            domain=self.text(),
            model_version=self.random.choice(_INTEGERS),
            doc=self.text(),
            metadata=tuple((self.text(), self.text()) for _ in range(self.random.randrange(3))),
            extra=self.random.randbytes(self.random.randrange(3)),
            parameters=tuple((name, self.attribute(()) if self.chance(0.5) else None) for name in parameters),
        )

    def model(self, size: int) -> Graph:
        graph = self.fill(Graph(self.text(), header=self.header()), size, [], ())
        for index in range(self.random.randrange(3)):
            self.names = set()
            parameters = tuple(name for name in {self.text(): None for _ in range(3)} if name)
            function = Graph(self.random.choice((_FUNCTION, self.text())), header=self.header(parameters))
            overload = f"overload {index}" if index else ""
            graph.functions[FunctionKey("example.functions", _FUNCTION, overload)] = self.fill(
                function, size // 2, [], parameters
            )
        return graph

    def fill(self, graph: Graph, size: int, outer: list[Value], parameters: tuple[str, ...]) -> Graph:
        graph.doc, graph.metadata = self.doc(), self.pairs()
        known = list(outer)
        inputs = [graph.add_value(self.value(self.tensor() if self.chance(0.2) else None)) for _ in range(2)]
        graph.set_interface(inputs=inputs)
        known += inputs
        for _ in range(size):
            if self.chance(0.5):
                known.append(graph.add_value(self.value(self.tensor())))
            op = self.op(known, parameters, size)
            graph.add_op(op)
            known += [value for value in op.outputs if value is not None]
        offered = known if graph.is_body else list(graph.values())
        graph.set_interface(outputs=self.random.choices(offered, k=2))
        return graph

    def op(self, known: list[Value], parameters: tuple[str, ...], size: int) -> Op:
        inputs = tuple(self.random.choice([*known, None]) for _ in range(self.random.randrange(4)))
        attributes = {self.text(): self.attribute(parameters) for _ in range(self.random.randrange(3))}
        if size > 2 and self.chance(0.2):
            body = self.fill(Graph(self.text(), body=True), size // 3, known, parameters)
            attributes["body"] = Attribute(AttributeKind.GRAPH, body, "", self.doc())
        if size > 2 and self.chance(0.05):
            bodies = tuple(self.fill(Graph(body=True), 1, known, parameters) for _ in range(self.random.randrange(3)))
            attributes["bodies"] = Attribute(AttributeKind.GRAPHS, bodies)
        outputs = tuple(
            None if self.chance(0.1) else self.value() for _ in range(self.random.choice((0, 1, 1, 1, 2, 3)))
        )
        domain = self.random.choice(("", "", "ai.onnx", "my domain", "ai.onnx.ml"))
        op_type = self.random.choice(("Add", "Constant", _FUNCTION, "doc", "an op"))
        op = Op(op_type, inputs, outputs, attributes, domain, self.doc() or self.text())
        op.overload = self.random.choice(("", "", "fast", "over load"))
        op.doc, op.metadata = self.doc(), self.pairs() or NOTHING
        op.extra = self.random.randbytes(self.random.randrange(1, 3)) if self.chance(0.1) else b""
        return op
