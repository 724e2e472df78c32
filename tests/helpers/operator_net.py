"""Tiny graphs around one operator: seeded weights, one line an op, and what the analysis must find in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from secateur.ir import DataType, Graph, Header, Value
from secateur.ir.build import add_constant, add_input, emit


class Net:
    """Writes a graph and the feeds that it runs on."""

    def __init__(self, opset: int, seed: int = 0) -> None:
        self.graph = Graph("net", header=Header(ir_version=10, opsets=(("", opset), ("com.microsoft", 1))))
        self.random = np.random.default_rng(seed)
        self.feeds: dict[str, np.ndarray] = {}

    def input(self, *shape: int, name: str = "", dtype: type = np.float32, most: int = 2) -> Value:
        """A fed input: normal numbers, or whole ones below `most`."""
        kind = np.dtype(dtype)
        array = self.random.normal(size=shape) if kind.kind == "f" else self.random.integers(0, most, shape)
        value = add_input(self.graph, name or f"x{len(self.feeds)}", shape, DataType.of(kind))
        self.feeds[value.name] = array.astype(kind)
        return value

    def weight(self, *shape: int, low: float | None = None) -> Value:
        """Normal numbers, or uniform ones from `low` up by one."""
        random = self.random
        array = random.normal(size=shape) if low is None else random.uniform(low, low + 1, size=shape)
        return add_constant(self.graph, "w", array.astype(np.float32))

    def const(self, array: Any, dtype: type = np.int64) -> Value:
        """A constant, whole numbers as a rule."""
        return add_constant(self.graph, "c", np.asarray(array, dtype))

    def op(self, kind: str, *inputs: Value | None, **attributes: Any) -> Value:
        """One op with one output."""
        return emit(self.graph, kind, inputs, attributes).output

    def ops(self, kind: str, count: int, *inputs: Value | None, **attributes: Any) -> list[Value]:
        """One op with several outputs."""
        made = emit(self.graph, kind, inputs, attributes, outputs=[""] * count).outputs
        return [value for value in made if value is not None]

    def dense(self, value: Value, inputs: int, outputs: int) -> Value:
        """A linear map of the last axis, with a bias."""
        return self.op("Add", self.op("MatMul", value, self.weight(inputs, outputs)), self.weight(outputs))

    def conv(self, value: Value, inputs: int, outputs: int, kernel: int = 1, **attributes: Any) -> Value:
        """A convolution of [n, c, h, w], with a bias."""
        weight = self.weight(outputs, inputs // attributes.get("group", 1), kernel, kernel)
        return self.op("Conv", value, weight, self.weight(outputs), **attributes)

    def cast(self, value: Value, dtype: DataType) -> Value:
        return self.op("Cast", value, to=int(dtype))

    def typed(self, value: Value, *shape: int, dtype: DataType = DataType.FLOAT32) -> Value:
        """Says what an op that no shape inference knows makes."""
        from secateur.ir import TensorType

        value.type = TensorType(dtype, tuple(shape))
        return value

    def done(self, *values: Value) -> None:
        self.graph.set_interface(outputs=values)


Build: TypeAlias = Callable[[Net], Sequence[Value] | Value]


@dataclass(frozen=True)
class Case:
    """A graph for an operator.

    Attributes:
        op: the operator, `domain::Name` outside the default domain.
        name: what is special about it.
        build: writes it and returns its outputs.
        exact: sizes of the groups that must be free and exact, sorted.
        inexact: sizes of the groups that must be free and inexact, sorted.
        opset: of the default domain.
        runs: with what it can be run: "ort", "reference" (onnx's own evaluator), or "" for not at all.
    """

    op: str
    name: str
    build: Build
    exact: tuple[int, ...]
    inexact: tuple[int, ...]
    opset: int = 21
    runs: str = "ort"

    @property
    def title(self) -> str:
        return f"{self.op}[{self.name}]" if self.name else self.op

    def make(self) -> Net:
        """A new copy of the graph, the same every time."""
        net = Net(self.opset)
        made = self.build(net)
        net.done(*(made if isinstance(made, list | tuple) else [made]))
        return net


@dataclass
class Cases:
    """The graphs of one family of operators."""

    found: list[Case] = field(default_factory=list)

    def add(
        self, op: str, build: Build, exact: Sequence[int] = (), inexact: Sequence[int] = (), **options: Any
    ) -> None:
        name = options.pop("name", "")
        self.found.append(Case(op, name, build, tuple(sorted(exact)), tuple(sorted(inexact)), **options))

    def case(self, op: str, exact: Sequence[int] = (), inexact: Sequence[int] = (), **options: Any) -> Any:
        """Decorator: the function that writes the graph; what follows `op_` in its name says what is special."""

        def keep(build: Build) -> Build:
            name = build.__name__.partition("__")[2].replace("_", " ")
            self.add(op, build, exact, inexact, name=name, **options)
            return build

        return keep
