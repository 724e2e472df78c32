"""Writing convolutional graphs line by line, with seeded random weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from secateur.ir import Graph, Value
from secateur.ir.build import add_constant, add_input, emit


class Net:
    """A chain of ops on an input `x` of shape [n, channels, size, size]; each method adds one and returns the net."""

    def __init__(self, channels: int = 3, size: int = 9) -> None:
        self.graph = Graph("net")
        self.random = np.random.default_rng(7)
        self.value = add_input(self.graph, "x", ["n", channels, size, size])
        self.width = channels

    def weight(self, *shape: int) -> Value:
        return add_constant(self.graph, "w", (self.random.normal(size=shape) / 3).astype(np.float32))

    def conv(self, outputs: int, kernel: int = 3, group: int = 1, bias: bool = True, **attributes: Any) -> Net:
        weight = self.weight(outputs, self.width // group, kernel, kernel)
        inputs = [self.value, weight] + ([self.weight(outputs)] if bias else [])
        self.value = emit(self.graph, "Conv", inputs, {"group": group, **attributes}).output
        self.width = outputs
        return self

    def op(self, kind: str, *extra: Value, **attributes: Any) -> Net:
        self.value = emit(self.graph, kind, [self.value, *extra], attributes).output
        return self

    def norm(self) -> Net:
        scales = [self.weight(self.width) for _ in range(3)]
        spread = add_constant(self.graph, "var", self.random.uniform(0.5, 2, self.width).astype(np.float32))
        return self.op("BatchNormalization", *scales, spread)

    def gemm(self, inputs: int, outputs: int, transposed: bool) -> Net:
        shape = (outputs, inputs) if transposed else (inputs, outputs)
        self.width = outputs
        return self.op("Gemm", self.weight(*shape), self.weight(outputs), transB=int(transposed), alpha=0.5, beta=2.0)

    def swish(self) -> Net:
        gate = emit(self.graph, "Sigmoid", [self.value]).output
        return self.op("Mul", gate)

    def done(self) -> Graph:
        self.graph.set_interface(outputs=[self.value])
        self.graph.verify()
        return self.graph
