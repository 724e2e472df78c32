"""A small real model with everything the first road handles, and what a run of the command line gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from secateur.ir import DataType, Graph, Header, TensorType, Value
from secateur.ir.build import add_constant, add_input, emit


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Standard output, which must be one JSON document and nothing else."""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


Cli = Callable[..., Ran]


def make_graph(batch: int | str = "N", image: int = 8) -> Graph:
    """Conv, BatchNormalization, a depthwise Conv, Conv, pool, Gemm, Softmax; about 5,600 parameters."""
    random = np.random.default_rng(0)
    graph = Graph("small", header=Header(opsets=(("", 18),)))

    def weight(name: str, *shape: int) -> Value:
        scaled = random.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        return add_constant(graph, name, scaled.astype(np.float32))

    def convolve(data: Value, inputs: int, outputs: int, name: str, group: int = 1) -> Value:
        parameters = [weight(f"{name}.weight", outputs, inputs // group, 3, 3), weight(f"{name}.bias", outputs)]
        pads = {"pads": [1, 1, 1, 1], "group": group}
        made = emit(graph, "Conv", [data, *parameters], pads, outputs=[name]).output
        return emit(graph, "Relu", [made], outputs=[f"{name}_relu"]).output

    value = add_input(graph, "x", (batch, 3, image, image))
    made = [weight("conv1.weight", 16, 3, 3, 3), weight("conv1.bias", 16)]
    value = emit(graph, "Conv", [value, *made], {"pads": [1, 1, 1, 1]}, outputs=["conv1"]).output
    spread = [add_constant(graph, f"bn.{n}", np.linspace(0.5, 1.5, 16, dtype=np.float32)) for n in ("s", "b", "m", "v")]
    value = emit(graph, "BatchNormalization", [value, *spread], outputs=["bn"]).output
    value = emit(graph, "Relu", [value], outputs=["conv1_relu"]).output
    value = convolve(value, 16, 16, "depthwise", group=16)
    value = convolve(value, 16, 32, "conv2")
    value = emit(graph, "GlobalAveragePool", [value], outputs=["pool"]).output
    value = emit(graph, "Flatten", [value], outputs=["flat"]).output
    head = [weight("fc.weight", 10, 32), weight("fc.bias", 10)]
    value = emit(graph, "Gemm", [value, *head], {"transB": 1}, outputs=["fc"]).output
    value = emit(graph, "Softmax", [value], outputs=["y"]).output
    value.type = TensorType(DataType.FLOAT32, (batch, 10))
    graph.set_interface(outputs=[value])
    return graph
