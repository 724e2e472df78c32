"""Constructs that TensorRT takes, refuses, changes or slows down, each as a tiny model with the verdict it must get."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import ml_dtypes
import numpy as np
import onnx
from helpers import tensorrt_models as models
from helpers import tensorrt_packed as packed
from helpers.tensorrt_models import FLOAT, INT64, value
from onnx import TensorProto, helper, numpy_helper

Verdict = Literal["taken", "refused", "changed", "slower"]
Array = np.ndarray
_TARGET = ("8.9",)


@dataclass(frozen=True)
class Construct:
    """`runs` is what the engine must show: in "int8" (or another narrow type), in "float" although quantized, or ""."""

    name: str
    make: Callable[[], onnx.ModelProto]
    verdict: Verdict
    runs: Literal["int8", "float", ""] = ""
    targets: tuple[str, ...] = _TARGET
    shapes: tuple[str, ...] = field(default=())


def _tensor(array: Array | onnx.TensorProto, name: str) -> onnx.TensorProto:
    return array if isinstance(array, onnx.TensorProto) else numpy_helper.from_array(np.asarray(array), name)


def net(nodes, inputs, constants=None, *, outputs=None, opset: int = 21, domains: Sequence[str] = ()):
    """Nodes as (op, inputs, outputs, attributes), inputs as name -> (type, shape); y is the output."""
    made = []
    for index, (op_type, reads, makes, attributes) in enumerate(nodes):
        domain, _, name = op_type.rpartition("::")
        made.append(
            helper.make_node(
                name, reads.split(","), makes.split(","), name=f"{name}_{index}", domain=domain, **attributes
            )
        )
    kinds = outputs or {"y": FLOAT}
    return models.model(
        made,
        [value(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [value(name, kind, None) for name, kind in kinds.items()],
        [_tensor(array, name) for name, array in (constants or {}).items()],
        opset=opset,
        domains=domains,
    )


def _codes(*shape: int) -> Array:
    return np.random.default_rng(0).integers(-127, 128, shape).astype(np.int8)


_SHAPES = {
    "Conv": ([1, 8, 16, 16], (8, 8, 3, 3), 0),
    "ConvTranspose": ([1, 8, 16, 16], (8, 8, 3, 3), 1),
    "Gemm": ([16, 64], (64, 64), 1),
    "MatMul": ([16, 64], (64, 64), 1),
}


@dataclass(frozen=True)
class How:
    """`axis` gives the weight a scale for each position along it; `channels` the activation one for each channel."""

    axis: int | None = None
    channels: bool = False
    activation: bool = True
    weight: bool = True
    float_weight: bool = False
    between: str = ""
    domain: str = ""
    scale: object = np.float32


def quantized(op_type: str = "Conv", attributes: dict[str, object] | None = None, **how: object) -> onnx.ModelProto:
    """Q -> DQ -> [between] -> op with int8 weights behind a DQ; nodes are named by op type and position."""
    asked = How(**how)
    axis, scale, between, domain = asked.axis, asked.scale, asked.between, asked.domain
    shape, weights_shape, _ = _SHAPES[op_type]
    kind = models.element_type(scale)
    at = 1 if axis is None else axis
    prefix = f"{domain}::" if domain else ""
    constants: dict[str, Array] = {
        "xs": np.full(shape[1], 0.1, scale) if asked.channels else np.array(0.1, scale),
        "ws": np.array(0.02, scale) if axis is None else np.full(weights_shape[axis], 0.02, scale),
        "z": np.zeros(shape[1], np.int8) if asked.channels else np.array(0, np.int8),
        "w": models.weights(*weights_shape, dtype=scale)
        if asked.float_weight or not asked.weight
        else _codes(*weights_shape),
    }
    nodes: list[tuple[str, str, str, dict[str, object]]] = []
    data, operand = "x", "w"
    if asked.activation:
        nodes += [
            (f"{prefix}QuantizeLinear", "x,xs,z", "q", {"axis": 1}),
            (f"{prefix}DequantizeLinear", "q,xs,z", "d", {"axis": 1}),
        ]
        data = "d"
    if between:
        nodes.append((between, f"{data},{data}" if between == "Concat" else data, "m", _BETWEEN[between]))
        data = "m"
        if between == "Concat":
            constants["w"] = _codes(weights_shape[0], 2 * weights_shape[1], *weights_shape[2:])
    if asked.weight:
        codes = "w"
        if asked.float_weight:
            constants["wz"] = np.zeros(constants["ws"].shape, np.int8)
            nodes.append((f"{prefix}QuantizeLinear", "w,ws,wz", "wq", {"axis": at}))
            codes = "wq"
        nodes.append((f"{prefix}DequantizeLinear", f"{codes},ws", "wd", {"axis": at}))
        operand = "wd"
    nodes.append((op_type, f"{data},{operand}", "y", attributes or {}))
    domains = [domain] if domain else []
    return net(nodes, {"x": (kind, shape)}, constants, outputs={"y": kind}, domains=domains)


_BETWEEN: dict[str, dict[str, object]] = {"MaxPool": {"kernel_shape": [2, 2]}, "Concat": {"axis": 1}}


def blocks(kind: int, block: int, scale: object = np.float16) -> onnx.ModelProto:
    """x [16, 256] times a weight [256, 64] of a narrow type with one scale for `block` numbers; 0: for each channel."""
    raw = bytes(256 * 64 // (2 if kind == TensorProto.INT4 else 1))
    weight = helper.make_tensor("w", kind, [256, 64], raw, raw=True)
    shape = (256 // block, 64) if block else (64,)
    attributes = {"axis": 0, "block_size": block} if block else {"axis": 1}
    nodes = [("DequantizeLinear", "w,s", "d", attributes), ("MatMul", "x,d", "y", {})]
    half = models.element_type(scale)
    return net(nodes, {"x": (half, [16, 256])}, {"w": weight, "s": np.full(shape, 0.1, scale)}, outputs={"y": half})


def zero_point(zero: Array) -> Callable[[], onnx.ModelProto]:
    return lambda: models.quantized_conv(zero)


def _one(op_type: str, shape=(1, 4, 8, 8), constants=None, *, reads: str = "", outputs=None, **attributes):
    """One op on x, with constants behind it in order."""
    constants = constants or {}
    names = reads or ",".join(["x", *constants])
    makes = ",".join(outputs or {"y": FLOAT})
    return net([(op_type, names, makes, attributes)], {"x": (FLOAT, list(shape))}, constants, outputs=outputs)


def _typed_initializer(kind: int, raw: bytes = b"\0" * 6) -> onnx.ModelProto:
    proto = models.single("Relu", [value("y", FLOAT, [2, 3])])
    proto.graph.initializer.append(helper.make_tensor("odd", kind, [2, 3], raw, raw=True))
    return proto


def _versions(opset: int = 17, ir_version: int = 10) -> onnx.ModelProto:
    proto = models.conv()
    proto.opset_import[0].version = opset
    proto.ir_version = ir_version
    return proto


def _sparse() -> onnx.ModelProto:
    proto = models.matmul()
    weight = numpy_helper.to_array(proto.graph.initializer[0])
    del proto.graph.initializer[:]
    values = numpy_helper.from_array(weight.reshape(-1)[:4].copy(), "w")
    indices = numpy_helper.from_array(np.arange(4, dtype=np.int64), "w_indices")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [64, 64]))
    return proto


def _mixed() -> onnx.ModelProto:
    return _one("Add", (2, 3), {"w": np.ones((2, 3), np.float16)})


def _integer(op_type: str) -> onnx.ModelProto:
    q = "x,s,z,w,s,z,s,z"
    constants = {"s": np.array(0.1, np.float32), "z": np.array(0, np.int8), "w": _codes(8, 8)}
    if op_type.endswith("Conv"):
        constants["w"] = _codes(8, 8, 3, 3)
    reads = {"MatMulInteger": "x,w", "ConvInteger": "x,w"}.get(op_type, q)
    shape = [1, 8, 8, 8] if "Conv" in op_type else [4, 8]
    if op_type == "ConvInteger":
        constants["w"] = _codes(8, 8, 3, 3)
    kind = TensorProto.INT8 if op_type.startswith("Q") else TensorProto.INT32
    return net([(op_type, reads, "y", {})], {"x": (TensorProto.INT8, shape)}, constants, outputs={"y": kind})


def _bias_in_int32() -> onnx.ModelProto:
    proto = quantized()
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(8, np.int32), "b"))
    proto.graph.node.insert(0, helper.make_node("DequantizeLinear", ["b", "ws"], ["bd"], name="bias"))
    proto.graph.node[-1].input.append("bd")
    return proto


def _integer_io() -> onnx.ModelProto:
    constants = {"s": np.array(0.1, np.float32), "z": np.array(0, np.int8), "w": _codes(64, 64)}
    nodes = [
        ("DequantizeLinear", "x,s,z", "d", {}),
        ("DequantizeLinear", "w,s,z", "wd", {}),
        ("MatMul", "d,wd", "m", {}),
        ("QuantizeLinear", "m,s,z", "y", {}),
    ]
    return net(nodes, {"x": (TensorProto.INT8, [16, 64])}, constants, outputs={"y": TensorProto.INT8})


def _computed_axes() -> onnx.ModelProto:
    nodes = [("Add", "a,a", "b", {}), ("ReduceSum", "x,b", "y", {})]
    return net(nodes, {"x": (FLOAT, [2, 3])}, {"a": np.array([0], np.int64)})


def _attention(kind: object, *, past: bool = False, **attributes: object) -> onnx.ModelProto:
    element = models.element_type(kind)
    shape = [1, 4, 16, 64]
    outputs = {"y": element, "pk": element, "pv": element} if past else {"y": element}
    makes = ",".join(outputs)
    names = {"q": (element, shape), "k": (element, shape), "v": (element, shape)}
    return net([("Attention", "q,k,v", makes, attributes)], names, outputs=outputs, opset=23)


def _scatter(reduction: str) -> onnx.ModelProto:
    constants = {"i": np.array([[0], [2]], np.int64), "u": np.ones((2, 3), np.float32)}
    return _one("ScatterND", (4, 3), constants, reduction=reduction)


def _normalize(outputs: int) -> onnx.ModelProto:
    makes = dict.fromkeys(("y", "mean", "deviation")[:outputs], FLOAT)
    return _one("LayerNormalization", (4, 16), {"g": np.ones(16, np.float32)}, outputs=makes)


def _suppress() -> onnx.ModelProto:
    inputs = {"boxes": (FLOAT, [1, 3, 4]), "scores": (FLOAT, [1, 2, 3])}
    nodes = [("NonMaxSuppression", "boxes,scores,most", "y", {})]
    return net(nodes, inputs, {"most": np.array([2], np.int64)}, outputs={"y": INT64})


def _unsigned_by_default() -> onnx.ModelProto:
    nodes = [("QuantizeLinear", "x,s", "q", {}), ("DequantizeLinear", "q,s", "y", {})]
    return net(nodes, {"x": (FLOAT, [2, 3])}, {"s": np.array(0.1, np.float32)})


def _batch_normalization(training: int) -> onnx.ModelProto:
    constants = {name: np.ones(4, np.float32) for name in "abcd"}
    makes = dict.fromkeys(("y", "mean", "variance") if training else ("y",), FLOAT)
    return _one("BatchNormalization", constants=constants, outputs=makes, training_mode=training)


def _resize(**attributes: object) -> onnx.ModelProto:
    constants = {"s": np.array([1, 1, 0.5, 0.5], np.float32)}
    return _one("Resize", constants=constants, reads="x,,s", mode="linear", **attributes)


def _lstm() -> onnx.ModelProto:
    constants = {"w": models.weights(1, 32, 8), "r": models.weights(1, 32, 8)}
    return _one("LSTM", (5, 1, 8), constants, hidden_size=8)


def _foreign(domain: str, op_type: str) -> onnx.ModelProto:
    return models.single(op_type, [value("y", FLOAT, [2, 3])], domain=domain)


def _matmul_bits() -> onnx.ModelProto:
    constants = {"w": np.zeros((8, 1, 16), np.uint8), "s": np.ones(8, np.float32)}
    attributes = {"K": 32, "N": 8, "bits": 4, "block_size": 32}
    nodes = [("com.microsoft::MatMulNBits", "x,w,s", "y", attributes)]
    return net(nodes, {"x": (FLOAT, [4, 32])}, constants, domains=["com.microsoft"])


def _unsigned_weight() -> onnx.ModelProto:
    proto = quantized()
    codes = numpy_helper.from_array(np.abs(_codes(8, 8, 3, 3)).astype(np.uint8), "w")
    next(one for one in proto.graph.initializer if one.name == "w").CopyFrom(codes)
    return proto


_BF16 = ml_dtypes.bfloat16


def _taken() -> Iterator[Construct]:
    for kind in (np.float32, np.float16, _BF16):
        yield Construct(f"conv {np.dtype(kind).name}", lambda kind=kind: models.conv(kind), "taken")
        yield Construct(f"matmul {np.dtype(kind).name}", lambda kind=kind: models.matmul(kind), "taken")
        yield Construct(f"int8 conv {np.dtype(kind).name}", lambda kind=kind: quantized(scale=kind), "taken", "int8")
    yield Construct("int8 conv, scale for each channel", lambda: quantized(axis=0), "taken", "int8")
    yield Construct("int8 conv, float weight and Q", lambda: quantized(axis=0, float_weight=True), "taken", "int8")
    yield Construct("int8 gemm", lambda: quantized("Gemm", axis=1), "taken", "int8")
    yield Construct("int8 gemm transposed", lambda: quantized("Gemm", {"transB": 1}, axis=0), "taken", "int8")
    yield Construct("int8 matmul", lambda: quantized("MatMul", axis=1), "taken", "int8")
    yield Construct("pool behind DQ", lambda: quantized(between="MaxPool"), "taken", "int8")
    yield Construct("concat behind DQ", lambda: quantized(between="Concat"), "taken", "int8")
    yield Construct("com.microsoft Q/DQ", lambda: quantized(domain="com.microsoft"), "taken", "int8")
    yield Construct("int8 inputs and outputs", _integer_io, "taken", "int8")
    yield Construct("float8 conv of 4x8", lambda: models.float8_conv(4, 8), "taken", "int8")
    yield Construct("float8 matmul", models.float8_matmul, "taken", "int8")
    for name, make in packed.MISSED.items():
        yield Construct(f"packed heads: {name}", make, "taken", "int8")
    for block in (16, 128):
        yield Construct(f"int4 blocks of {block}", lambda block=block: blocks(TensorProto.INT4, block), "taken")
    yield Construct("lstm", _lstm, "taken")
    yield Construct("layer normalization, one output", lambda: _normalize(1), "taken")
    yield Construct("attention float16", lambda: _attention(np.float16), "taken")
    yield Construct("opset 7", lambda: _versions(opset=7), "taken")
    yield Construct("opset 26, IR 3", lambda: _versions(opset=26, ir_version=3), "taken")
    yield Construct("scatter", lambda: _scatter("none"), "taken")
    yield Construct("resize", _resize, "taken")
    yield Construct("batch normalization", lambda: _batch_normalization(0), "taken")
    yield Construct(
        "dynamic batch", lambda: models.conv(batch="n"), "taken", shapes=("x=1x8x16x16,2x8x16x16,4x8x16x16",)
    )


def _refused() -> Iterator[Construct]:
    kinds = (("UINT4", 3), ("INT2", 2), ("INT16", 12), ("FLOAT8E5M2", 6))
    for name, size in kinds:
        make = lambda name=name, size=size: _typed_initializer(getattr(TensorProto, name), bytes(size))  # noqa: E731
        yield Construct(f"{name} initializer", make, "refused")
    for name in ("QLinearConv", "QLinearMatMul", "MatMulInteger", "ConvInteger"):
        yield Construct(name, lambda name=name: _integer(name), "refused")
    yield Construct("DynamicQuantizeLinear", lambda: _one("DynamicQuantizeLinear", outputs=_DYNAMIC), "refused")
    yield Construct("mixed types", _mixed, "refused")
    yield Construct("uint8 weight", _unsigned_weight, "refused")
    yield Construct("zero point 3", zero_point(np.array(3, np.int8)), "refused")
    yield Construct("zero point 128", zero_point(np.array(128, np.uint8)), "refused")
    yield Construct("int32 bias", _bias_in_int32, "refused")
    yield Construct("sparse initializer", _sparse, "refused")
    yield Construct("MatMulNBits", _matmul_bits, "refused")
    yield Construct("NonZero", lambda: _one("NonZero", outputs={"y": INT64}), "refused")
    yield Construct("NonMaxSuppression", _suppress, "refused")
    yield Construct("dilated pool", lambda: _one("MaxPool", kernel_shape=[2, 2], dilations=[2, 2]), "refused")
    yield Construct("batch normalization in training", lambda: _batch_normalization(1), "refused")
    training = {"r": np.array(0.5, np.float32), "t": np.array(True)}
    yield Construct("dropout in training", lambda: _one("Dropout", constants=training), "refused")
    yield Construct("scatter with reduction", lambda: _scatter("add"), "refused")
    yield Construct("resize antialiased", lambda: _resize(antialias=1), "refused")
    yield Construct("computed axes", _computed_axes, "refused")
    yield Construct("layer normalization, three outputs", lambda: _normalize(3), "refused")
    yield Construct("attention with past", lambda: _attention(np.float16, past=True), "refused")
    yield Construct("attention float32", lambda: _attention(np.float32), "refused")
    yield Construct("attention with softcap", lambda: _attention(np.float16, softcap=2.0), "refused")
    yield Construct("unknown operator", lambda: _foreign("acme", "Frobnicate"), "refused")
    yield Construct("bfloat16 for 7.5", lambda: models.conv(_BF16), "refused", targets=("7.5",))
    yield Construct("float32 matmul for 7.5", models.matmul, "refused", targets=("7.5",))
    yield Construct("int4 for 7.5", lambda: blocks(TensorProto.INT4, 128), "refused", targets=("7.5",))
    yield Construct("float8 for 8.6 and 8.9", models.float8_matmul, "refused", targets=("8.6", "8.9"))
    yield Construct("compute capability 9.0", models.conv, "refused", targets=("9.0",))
    wrong = ("x=1x8x16x16,2x8x16x16,4x9x16x16",)
    yield Construct("profile of other sizes", lambda: models.conv(batch="n"), "refused", shapes=wrong)
    yield Construct("profile of another input", models.conv, "refused", shapes=("nobody=1x8x16x16",))


_DYNAMIC = {"y": TensorProto.UINT8, "s": FLOAT, "z": TensorProto.UINT8}


def _silent() -> Iterator[Construct]:
    yield Construct("uint8 activation", zero_point(np.array(0, np.uint8)), "changed")
    yield Construct("opset 99", lambda: _versions(opset=99), "changed")
    yield Construct("opset 6", lambda: models.model(*_OLD, opset=6), "changed")
    yield Construct("IR 99", lambda: _versions(ir_version=99), "changed")
    yield Construct("no zero point", _unsigned_by_default, "changed")
    yield Construct("float64", lambda: _typed_initializer(TensorProto.DOUBLE, bytes(48)), "changed")
    yield Construct("Relu of another domain", lambda: _foreign("acme", "Relu"), "changed")
    yield Construct("activation scale for each channel", lambda: quantized(channels=True), "changed", "float")
    yield Construct("conv, scales along the inputs", lambda: quantized(axis=1), "changed", "float")
    yield Construct("matmul, scales along the inputs", lambda: quantized("MatMul", axis=0), "changed", "float")
    yield Construct("gemm, scales along the inputs", lambda: quantized("Gemm", axis=0), "changed", "float")
    yield Construct("float8 conv of 7x7", lambda: models.float8_conv(7, 7), "changed", "float")
    yield Construct("float8 conv of 1x33", lambda: models.float8_conv(1, 33), "changed", "float")
    yield Construct("quantized ConvTranspose", lambda: quantized("ConvTranspose"), "changed", "float")
    for name, make in packed.MATCHED.items():
        yield Construct(f"packed heads: {name}", make, "changed", "float")
    yield Construct("weight only", lambda: quantized(axis=0, activation=False), "slower", "float")
    yield Construct("activation only", lambda: quantized(weight=False), "slower", "float")
    yield Construct("int4 for each channel", lambda: blocks(TensorProto.INT4, 0), "slower")
    yield Construct("int8 blocks", lambda: blocks(TensorProto.INT8, 64), "slower")


_OLD = (
    [helper.make_node("Relu", ["x"], ["y"], name="relu")],
    [value("x", FLOAT, [2, 3])],
    [value("y", FLOAT, [2, 3])],
)

CONSTRUCTS = {one.name: one for one in (*_taken(), *_refused(), *_silent())}
