"""The models that `benchmarks/ir.py` measures with: written with onnx alone, piece by piece, the same every time."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

BLOCK = 1 << 20


class Builder:
    """Collects nodes, and writes weights to a file of external data (or keeps them, if there is none)."""

    def __init__(self, path: Path, external: bool) -> None:
        self.path = path
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []
        self.data = path.with_name(path.name + ".data").open("wb") if external else None
        self._noise = np.random.default_rng(0).standard_normal(BLOCK // 4, np.float32).tobytes()

    def weight(self, *shape: int) -> str:
        """A new weight, and its name. Each begins elsewhere in the noise: equal ones would be merged."""
        start = 4 * len(self.weights) % BLOCK
        noise = self._noise[start:] + self._noise[:start]
        tensor = TensorProto(name=f"weight_{len(self.weights)}", data_type=TensorProto.FLOAT, dims=shape)
        size = math.prod(shape) * 4
        if self.data is None:
            tensor.raw_data = (noise * -(-size // BLOCK))[:size]
        else:
            tensor.data_location = TensorProto.EXTERNAL
            offset = self.data.tell()
            for key, value in (("location", Path(self.data.name).name), ("offset", offset), ("length", size)):
                tensor.external_data.add(key=key, value=str(value))
            for done in range(0, size, BLOCK):
                self.data.write(noise[: size - done])
        self.weights.append(tensor)
        return tensor.name

    def op(self, op_type: str, *inputs: str, **attributes: object) -> str:
        """A new node with one output, and the output's name."""
        name = f"{op_type.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=f"node_{name}", **attributes))
        return name

    def finish(self, shape: list[int | str], output: str, classes: int) -> bool:
        """Writes the model from input `x` of a shape to an output [..., classes]; true if its weights are external."""
        leading = shape[:1] if len(shape) == 4 else shape[:-1]
        given = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        made = helper.make_tensor_value_info(output, TensorProto.FLOAT, [*leading, classes])
        graph = helper.make_graph(self.nodes, "benchmark", [given], [made], self.weights)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), self.path)
        if self.data is not None:
            self.data.close()
        return self.data is not None


def chain(path: Path) -> bool:
    """2,400 x (MatMul, Add, Relu, residual Add) of width 256: many ops, 632 MB of external weights."""
    build, value = Builder(path, external=True), "x"
    for _ in range(2400):
        hidden = build.op("Add", build.op("MatMul", value, build.weight(256, 256)), build.weight(256))
        value = build.op("Add", value, build.op("Relu", hidden))
    return build.finish(["batch", 256], value, 256)


def decoder(path: Path, layers: int = 28, width: int = 1024, inner: int = 2816) -> bool:
    """The shape of a decoder-only transformer, attention without its head split: 1.67 GB external."""
    build = Builder(path, external=True)
    value = "x"
    for _ in range(layers):
        normal = build.op("LayerNormalization", value, build.weight(width), axis=-1)
        query, keys, values = (build.op("MatMul", normal, build.weight(width, width)) for _ in range(3))
        scores = build.op("MatMul", query, build.op("Transpose", keys, perm=[0, 2, 1]))
        mixed = build.op("MatMul", build.op("Softmax", build.op("Mul", scores, build.weight(1)), axis=-1), values)
        value = build.op("Add", value, build.op("MatMul", mixed, build.weight(width, width)))
        normal = build.op("LayerNormalization", value, build.weight(width), axis=-1)
        gate = build.op("MatMul", normal, build.weight(width, inner))
        gate = build.op("Mul", gate, build.op("Sigmoid", gate))
        gate = build.op("Mul", gate, build.op("MatMul", normal, build.weight(width, inner)))
        value = build.op("Add", value, build.op("MatMul", gate, build.weight(inner, width)))
    return build.finish(["batch", "length", width], build.op("MatMul", value, build.weight(width, 56000)), 56000)


def resnet(path: Path) -> bool:
    """ResNet-50 without batch normalisation (folded): 102 MB inside the model file."""
    build = Builder(path, external=False)

    def conv(value: str, given: int, made: int, kernel: int, stride: int = 1) -> str:
        pads = [kernel // 2] * 4
        weights = build.weight(made, given, kernel, kernel), build.weight(made)
        return build.op("Conv", value, *weights, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads)

    value = build.op("Relu", conv("x", 3, 64, 7, 2))
    value = build.op("MaxPool", value, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    width = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        inner = 64 << stage
        for block in range(blocks):
            stride = 2 if block == 0 and stage > 0 else 1
            branch = build.op("Relu", conv(value, width, inner, 1))
            branch = build.op("Relu", conv(branch, inner, inner, 3, stride))
            branch = conv(branch, inner, 4 * inner, 1)
            shortcut = conv(value, width, 4 * inner, 1, stride) if block == 0 else value
            value, width = build.op("Relu", build.op("Add", branch, shortcut)), 4 * inner
    pooled = build.op("Flatten", build.op("GlobalAveragePool", value))
    return build.finish(
        ["batch", 3, 224, 224], build.op("Gemm", pooled, build.weight(2048, 1000), build.weight(1000)), 1000
    )


def large(path: Path) -> bool:
    """37 x (MatMul 4096 x 4096, Relu): 2.5 GB external, more than a protobuf file may hold."""
    build, value = Builder(path, external=True), "x"
    for _ in range(37):
        value = build.op("Relu", build.op("MatMul", value, build.weight(4096, 4096)))
    return build.finish(["batch", 4096], value, 4096)


MODELS: dict[str, Callable[[Path], bool]] = {"chain": chain, "decoder": decoder, "resnet": resnet, "large": large}
"""Each writes a model to a path, external weights to `<path>.data`, and says whether it has external weights."""
