"""Tiny ONNX models for the TensorRT tests, written to a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray
value = helper.make_tensor_value_info
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def element_type(dtype: object) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def model(
    nodes, inputs, outputs, weights: Sequence[onnx.TensorProto] = (), opset: int = 17, domains: Sequence[str] = ()
):
    graph = helper.make_graph(nodes, "graph", inputs, outputs, list(weights))
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def save(path: Path, proto: onnx.ModelProto) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def weights(*shape: int, dtype: object = np.float32, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def conv(dtype: object = np.float32, channels: int = 8, batch: int | str = 1, layers: int = 1) -> onnx.ModelProto:
    """`layers` times 3x3 convolution and sigmoid on x [batch, channels, 16, 16]; nodes conv0, sigmoid0, …"""
    kind = element_type(dtype)
    nodes, constants, last = [], [], "x"
    for index in range(layers):
        constants.append(
            numpy_helper.from_array(weights(channels, channels, 3, 3, dtype=dtype, seed=index), f"w{index}")
        )
        nodes.append(helper.make_node("Conv", [last, f"w{index}"], [f"c{index}"], name=f"conv{index}", pads=[1] * 4))
        last = f"y{index}"
        nodes.append(helper.make_node("Sigmoid", [f"c{index}"], [last], name=f"sigmoid{index}"))
    shape = [batch, channels, 16, 16]
    return model(nodes, [value("x", kind, shape)], [value(last, kind, shape)], constants)


def matmul(dtype: object = np.float32) -> onnx.ModelProto:
    """x [16, 64] times w [64, 64]; node matmul."""
    kind = element_type(dtype)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="matmul")
    constant = numpy_helper.from_array(weights(64, 64, dtype=dtype), "w")
    return model([node], [value("x", kind, [16, 64])], [value("y", kind, [16, 64])], [constant])


def quantized_conv(zero: Array | None = None) -> onnx.ModelProto:
    """Q -> DQ -> conv with per-channel int8 weights behind a DQ, x [1, 8, 16, 16]; nodes quantize, dequantize, conv."""
    constants = [
        numpy_helper.from_array(np.rint(weights(8, 8, 3, 3) * 30).clip(-127, 127).astype(np.int8), "w"),
        numpy_helper.from_array(np.full(8, 0.03, np.float32), "w_scale"),
        numpy_helper.from_array(np.array(0.1, np.float32), "x_scale"),
        numpy_helper.from_array(np.array(0, np.int8) if zero is None else zero, "x_zero"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["q"], name="quantize"),
        helper.make_node("DequantizeLinear", ["q", "x_scale", "x_zero"], ["d"], name="dequantize"),
        helper.make_node("DequantizeLinear", ["w", "w_scale"], ["wd"], name="dequantize_w", axis=0),
        helper.make_node("Conv", ["d", "wd"], ["y"], name="conv", pads=[1] * 4),
    ]
    shape = [1, 8, 16, 16]
    return model(nodes, [value("x", FLOAT, shape)], [value("y", FLOAT, shape)], constants)


def float8_matmul() -> onnx.ModelProto:
    """Q -> DQ in float8 E4M3 on both sides of a MatMul [16, 64] x [64, 64]; node matmul."""
    raw = weights(64, 64).astype(ml_dtypes.float8_e4m3fn).tobytes()
    constants = [
        helper.make_tensor("w", TensorProto.FLOAT8E4M3FN, [64, 64], raw, raw=True),
        helper.make_tensor("zero", TensorProto.FLOAT8E4M3FN, [], b"\0", raw=True),
        numpy_helper.from_array(np.array(0.1, np.float32), "scale"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], name="quantize"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"], name="dequantize"),
        helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["wd"], name="dequantize_w"),
        helper.make_node("MatMul", ["d", "wd"], ["y"], name="matmul"),
    ]
    return model(nodes, [value("x", FLOAT, [16, 64])], [value("y", FLOAT, [16, 64])], constants, opset=19)


def float8_conv(height: int, width: int) -> onnx.ModelProto:
    """Q -> DQ in float8 E4M3 on both sides of a convolution of that kernel, x [1, 16, 40, 40]; node conv."""
    shape = [16, 16, height, width]
    raw = weights(*shape).astype(ml_dtypes.float8_e4m3fn).tobytes()
    constants = [
        helper.make_tensor("w", TensorProto.FLOAT8E4M3FN, shape, raw, raw=True),
        helper.make_tensor("zero", TensorProto.FLOAT8E4M3FN, [], b"\0", raw=True),
        numpy_helper.from_array(np.array(0.1, np.float32), "scale"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], name="quantize"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"], name="dequantize"),
        helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["wd"], name="dequantize_w"),
        helper.make_node("Conv", ["d", "wd"], ["y"], name="conv"),
    ]
    ends = [value("x", FLOAT, [1, 16, 40, 40]), value("y", FLOAT, None)]
    return model(nodes, ends[:1], ends[1:], constants, opset=19)


def two_inputs(first: Sequence[int | str], second: Sequence[int | str]) -> onnx.ModelProto:
    """a + b."""
    node = helper.make_node("Add", ["a", "b"], ["y"], name="add")
    return model([node], [value("a", FLOAT, first), value("b", FLOAT, second)], [value("y", FLOAT, None)])


def reshape() -> onnx.ModelProto:
    """x [4, 6] brought to the shape that the values of input `shape` [2] say."""
    node = helper.make_node("Reshape", ["x", "shape"], ["y"], name="reshape")
    return model([node], [value("x", FLOAT, [4, 6]), value("shape", INT64, [2])], [value("y", FLOAT, None)])


def single(op_type: str, outputs, *, name: str = "it", domain: str = "") -> onnx.ModelProto:
    """One node with input x [2, 3]."""
    node = helper.make_node(op_type, ["x"], [output.name for output in outputs], name=name, domain=domain)
    return model([node], [value("x", FLOAT, [2, 3])], outputs, domains=[domain] if domain else ())
