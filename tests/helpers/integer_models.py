"""Graphs of integer operators, one for each that `import-quantized` rewrites, with random codes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from helpers.graphs import Net, random_feeds

from secateur.ir import DataType, Graph, Header, TensorType, Value
from secateur.ir.build import emit

_DOMAINS = (("", 21), ("com.microsoft", 1))


class Codes(Net):
    """Writes graphs of integer operators: `q` gives (codes, scale, zero point) of an input."""

    def __init__(self, name: str) -> None:
        super().__init__(name, graph=Graph(name, header=Header(ir_version=10, opsets=_DOMAINS)))

    def q(self, *shape: int, scale: float = 0.02, zero: int = 120) -> list[Value]:
        codes = self.input(f"x{len(self.graph.inputs)}", *shape, dtype=DataType.UINT8)
        return [codes, *self.grid(scale, zero)]

    def grid(self, scale: Any, zero: Any, dtype: Any = np.uint8) -> list[Value]:
        return [self.constant("s", np.asarray(scale, np.float32)), self.constant("z", np.asarray(zero, dtype))]

    def w(self, *shape: int, scale: Any = 0.01, dtype: Any = np.int8) -> list[Value]:
        codes = self.random.integers(-127 if dtype is np.int8 else 0, 127, shape).astype(dtype)
        return [self.constant("w", codes), *self.grid(scale, np.zeros(np.shape(scale)), dtype)]

    def op_many(self, op_type: str, *inputs: Value, outputs: int = 1, **attributes: Any) -> list[Value]:
        made = emit(self.graph, op_type, inputs, attributes, outputs=["made"] * outputs).outputs
        return [value for value in made if value is not None]

    def out(self, value: Value, *shape: int, dtype: DataType = DataType.UINT8) -> Graph:
        return self.done((value, shape), dtype=dtype)


def _conv(channels: int | None = None) -> Graph:
    net = Codes("conv")
    scale = 0.01 if channels is None else np.linspace(0.004, 0.02, channels)
    bias = net.constant("b", net.random.integers(-900, 900, 5).astype(np.int32))
    inputs = [*net.q(2, 3, 6, 6), *net.w(5, 3, 3, 3, scale=scale), *net.grid(0.05, 100), bias]
    return net.out(net.op("QLinearConv", *inputs, pads=[1, 1, 1, 1], strides=[2, 2]), 2, 5, 3, 3)


def matmul(columns: bool = False) -> Graph:
    net = Codes("matmul")
    weight = net.w(6, 5, scale=np.linspace(0.004, 0.02, 5) if columns else 0.01)
    return net.out(net.op("QLinearMatMul", *net.q(4, 6), *weight, *net.grid(0.05, 100)), 4, 5)


def _gemm(*, real: bool = False, transposed: int = 1) -> Graph:
    net = Codes("gemm")
    shape = (5, 6) if transposed else (6, 5)
    bias = net.constant("c", net.random.integers(-900, 900, 5).astype(np.int32))
    last = [] if real else net.grid(0.05, 100)
    scale = np.linspace(0.004, 0.02, 5)
    made = net.op(
        "com.microsoft::QGemm", *net.q(4, 6), *net.w(*shape, scale=scale), bias, *last, alpha=0.75, transB=transposed
    )
    return net.out(made, 4, 5, dtype=DataType.FLOAT32 if real else DataType.UINT8)


def _binary(name: str) -> Graph:
    net = Codes(name)
    inputs = [*net.q(3, 4), *net.q(3, 4, scale=0.03, zero=80), *net.grid(0.04, 110)]
    return net.out(net.op(f"com.microsoft::{name}", *inputs), 3, 4)


def _unary(name: str, *shape: int, out: tuple[int, ...] | None = None, **attributes: Any) -> Graph:
    net = Codes(name)
    grid = net.grid(0.004, 3) if name in ("QLinearSigmoid", "QLinearSoftmax") else net.grid(0.015, 90)
    made = net.op(f"com.microsoft::{name}", *net.q(*shape), *grid, **attributes)
    return net.out(made, *(out or shape))


def _concat() -> Graph:
    net = Codes("concat")
    inputs = [*net.grid(0.03, 100), *net.q(2, 3), *net.q(2, 4, scale=0.05, zero=90)]
    return net.out(net.op("com.microsoft::QLinearConcat", *inputs, axis=1), 2, 7)


def _where() -> Graph:
    net = Codes("where")
    condition = net.input("c", 3, 4, dtype=DataType.BOOL)
    inputs = [condition, *net.q(3, 4), *net.q(3, 4, scale=0.04, zero=70), *net.grid(0.05, 110)]
    return net.out(net.op("com.microsoft::QLinearWhere", *inputs), 3, 4)


def _foreign_pair() -> Graph:
    net = Codes("pair")
    x = net.input("x", 3, 4)
    codes = net.op("com.microsoft::QuantizeLinear", x, *net.grid(0.02, 110))
    return net.out(net.op("com.microsoft::DequantizeLinear", codes, *net.grid(0.02, 110)), 3, 4, dtype=DataType.FLOAT32)


def _dynamic_pair() -> Graph:
    net = Codes("dynamic_pair")
    made = net.op_many("DynamicQuantizeLinear", net.input("x", 4, 6), outputs=3)
    return net.out(net.op("DequantizeLinear", *made), 4, 6, dtype=DataType.FLOAT32)


def _dynamic(op_type: str) -> Graph:
    """x -> DynamicQuantizeLinear -> op_type (W) -> Cast -> Mul(scales), as onnxruntime's quantizer writes it."""
    net = Codes("dynamic")
    conv = op_type == "ConvInteger"
    x = net.input("x", 2, 3, 5, 5) if conv else net.input("x", 4, 6)
    codes, scale, zero = net.op_many("DynamicQuantizeLinear", x, outputs=3)
    weight, step, point = net.w(4, 3, 3, 3) if conv else net.w(6, 4, scale=np.linspace(0.004, 0.02, 4))
    if conv:
        point = net.constant("point", np.zeros((), np.int8))
    (product,) = net.op_many("Cast", net.op(op_type, codes, weight, zero, point), to=int(DataType.FLOAT32))
    made = net.op("Mul", product, net.op("Mul", scale, step))
    return net.out(made, *((2, 4, 3, 3) if conv else (4, 4)), dtype=DataType.FLOAT32)


def _dynamic_matmul(name: str) -> Graph:
    net = Codes(name)
    x = net.input("x", 4, 6)
    weight, step, point = net.w(6, 4, scale=np.linspace(0.004, 0.02, 4))
    bias = net.weight("bias", 4)
    if name == "DynamicQuantizeMatMul":
        made = net.op(f"com.microsoft::{name}", x, weight, step, point, bias)
    else:
        codes, scale, zero = net.op_many("DynamicQuantizeLinear", x, outputs=3)
        made = net.op(f"com.microsoft::{name}", codes, weight, scale, step, zero, point, bias)
    return net.out(made, 4, 4, dtype=DataType.FLOAT32)


STATIC: dict[str, Callable[[], Graph]] = {
    "QLinearConv": _conv,
    "QLinearConv, by channel": partial(_conv, 5),
    "QLinearMatMul": matmul,
    "QLinearMatMul, by column": partial(matmul, columns=True),
    "QGemm": _gemm,
    "QGemm to float": partial(_gemm, real=True),
    "QGemm, not transposed": partial(_gemm, transposed=0),
    "QLinearAdd": partial(_binary, "QLinearAdd"),
    "QLinearMul": partial(_binary, "QLinearMul"),
    "QLinearSigmoid": partial(_unary, "QLinearSigmoid", 3, 4),
    "QLinearLeakyRelu": partial(_unary, "QLinearLeakyRelu", 3, 4, alpha=0.125),
    "QLinearSoftmax": partial(_unary, "QLinearSoftmax", 3, 4, axis=-1, opset=13),
    "QLinearSoftmax, before opset 13": partial(_unary, "QLinearSoftmax", 3, 4, axis=1, opset=11),
    "QLinearGlobalAveragePool": partial(
        _unary, "QLinearGlobalAveragePool", 2, 3, 4, 4, out=(2, 3, 1, 1), channels_last=0
    ),
    "QLinearAveragePool": partial(
        _unary, "QLinearAveragePool", 2, 3, 4, 4, out=(2, 3, 2, 2), kernel_shape=[2, 2], strides=[2, 2]
    ),
    "QLinearConcat": _concat,
    "QLinearWhere": _where,
    "QuantizeLinear, DequantizeLinear": _foreign_pair,
}


def float8() -> Graph:
    """As NVIDIA's tools write it: types are not stated, and onnxruntime has no such operators."""
    net = Codes("float8")
    net.graph.header = Header(ir_version=8, opsets=(("", 17), ("trt", 1)))
    real = []
    for value, scale in ((net.input("x", 4, 16), 0.02), (net.weight("w", 16, 8), 0.01)):
        step = net.constant("s", np.float32(scale))
        real.append(net.op("trt::TRT_FP8DequantizeLinear", net.op("trt::TRT_FP8QuantizeLinear", value, step), step))
    return net.done((net.op("MatMul", *real), (4, 8)))


DYNAMIC: dict[str, Callable[[], Graph]] = {
    "MatMulInteger": partial(_dynamic, "MatMulInteger"),
    "ConvInteger": partial(_dynamic, "ConvInteger"),
    "DynamicQuantizeMatMul": partial(_dynamic_matmul, "DynamicQuantizeMatMul"),
    "MatMulIntegerToFloat": partial(_dynamic_matmul, "MatMulIntegerToFloat"),
    "DequantizeLinear, DynamicQuantizeLinear": _dynamic_pair,
}


def integer_feeds(graph: Graph, seed: int) -> dict[str, Any]:
    random, feeds = np.random.default_rng(seed), random_feeds(graph, seed)
    for value in graph.inputs:
        if isinstance(value.type, TensorType) and value.type.dtype is DataType.UINT8:
            feeds[value.name] = random.integers(0, 256, value.type.shape).astype(np.uint8)
    return feeds
