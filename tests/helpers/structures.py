"""Small graphs, one for each structure that pruning must understand: valid ONNX, runnable, with seeded weights.

Sizes differ wherever they can, so that nothing comes out right by coincidence.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from helpers.graphs import Net

from secateur.ir import DataType, Graph, Value
from secateur.ir.build import emit


def _linear(net: Net, value: Value, to: str, inputs: int, outputs: int) -> Value:
    """MatMul with a weight [inputs, outputs], and a bias."""
    made = net.op("MatMul", value, net.weight(f"{to}.weight", inputs, outputs), to=f"{to}_product")
    return net.op("Add", made, net.weight(f"{to}.bias", outputs), to=to)


def _reshape(net: Net, value: Value, to: str, *target: int) -> Value:
    return net.op("Reshape", value, net.constant(f"{to}.shape", np.array(target)), to=to)


def _vector(net: Net, name: str, *numbers: int) -> Value:
    return net.constant(name, np.array(numbers))


# ---- convolutions --------------------------------------------------------------------------------------------------


def conv_bn_relu_conv() -> Graph:
    """5 free channels between two convolutions."""
    net = Net("conv_bn_relu_conv")
    value = net.conv(net.input("x", 1, 3, 7, 6), "first", 5, 3, 3, 3, bias=False, pads=[1, 1, 1, 1])
    value = net.op("Relu", net.batch_norm(value, "bn", 5))
    return net.done((net.conv(value, "second", 4, 5, 1, 1), (1, 4, 7, 6)))


def residual_trunk() -> Graph:
    """A trunk of 6 channels through two residual blocks of 8 and 10, to a classifier."""
    net = Net("residual_trunk")
    trunk = net.conv(net.input("x", 1, 3, 5, 7), "stem", 6, 3, 1, 1)
    for name, inner in (("a", 8), ("b", 10)):
        value = net.op("Relu", net.conv(trunk, f"{name}1", inner, 6, 3, 3, pads=[1, 1, 1, 1]))
        value = net.conv(value, f"{name}2", 6, inner, 1, 1)
        trunk = net.op("Relu", net.op("Add", trunk, value, to=f"{name}_sum"))
    value = net.op("Flatten", net.op("GlobalAveragePool", trunk), axis=1)
    return net.done(
        (net.op("Gemm", value, net.weight("head.weight", 4, 6), net.weight("head.bias", 4), transB=1), (1, 4))
    )


def depthwise() -> Graph:
    """7 channels through a depthwise convolution."""
    net = Net("depthwise")
    value = net.op("Relu", net.conv(net.input("x", 1, 3, 6, 5), "expand", 7, 3, 1, 1))
    value = net.conv(value, "depthwise", 7, 1, 3, 3, group=7, pads=[1, 1, 1, 1])
    return net.done((net.conv(net.op("Relu", value), "project", 4, 7, 1, 1), (1, 4, 6, 5)))


def depthwise_multiplier() -> Graph:
    """A depthwise convolution that makes 2 channels of each of 5: a channel goes with its two, or all first ones go."""
    net = Net("depthwise_multiplier")
    value = net.op("Relu", net.conv(net.input("x", 1, 3, 6, 5), "expand", 5, 3, 1, 1))
    value = net.conv(value, "depthwise", 10, 1, 3, 3, group=5, pads=[1, 1, 1, 1])
    return net.done((net.conv(net.op("Relu", value), "project", 4, 10, 1, 1), (1, 4, 6, 5)))


def grouped_conv() -> Graph:
    """3 groups that read 2 channels each and make 4: the same offset goes in every group, or a group on both sides."""
    net = Net("grouped_conv")
    value = net.op("Relu", net.conv(net.input("x", 1, 5, 6, 4), "before", 6, 5, 1, 1))
    value = net.conv(value, "grouped", 12, 2, 3, 3, group=3, pads=[1, 1, 1, 1])
    return net.done((net.conv(net.op("Relu", value), "after", 7, 12, 1, 1), (1, 7, 6, 4)))


def dense_concat() -> Graph:
    """Dense connections: 5 channels, then 4 more, then 3 more; each layer reads all that came before it."""
    net = Net("dense_concat")
    trunk = net.conv(net.input("x", 1, 2, 6, 4), "stem", 5, 2, 1, 1)
    for name, width, growth in (("one", 5, 4), ("two", 9, 3)):
        value = net.op("Relu", net.batch_norm(trunk, f"{name}_bn", width))
        value = net.conv(value, name, growth, width, 3, 3, pads=[1, 1, 1, 1])
        trunk = net.op("Concat", trunk, value, axis=1, to=f"{name}_joined")
    return net.done((net.conv(net.op("Relu", trunk), "head", 8, 12, 1, 1), (1, 8, 6, 4)))


def channel_shuffle() -> Graph:
    """Grouped (3 x 6 channels), shuffled to 6 x 3, depthwise, grouped again (3 x 6): 3 x 3 x 2 in three ways."""
    net = Net("channel_shuffle")
    value = net.conv(net.input("x", 1, 4, 5, 7), "before", 12, 4, 1, 1)
    value = net.op("Relu", net.conv(value, "narrow", 18, 4, 1, 1, group=3))
    value = _reshape(net, value, "apart", 0, 3, 6, 5, 7)
    value = _reshape(net, net.op("Transpose", value, perm=[0, 2, 1, 3, 4]), "shuffled", 0, 18, 5, 7)
    value = net.conv(value, "depthwise", 18, 1, 3, 3, group=18, pads=[1, 1, 1, 1])
    value = net.conv(value, "wide", 15, 6, 1, 1, group=3)
    return net.done((net.conv(value, "after", 8, 15, 1, 1), (1, 8, 5, 7)))


def split_shuffle() -> Graph:
    """Two branches of 4 and 4 joined, shuffled to 4 x 2, and split in two halves for one convolution each."""
    net = Net("split_shuffle")
    x = net.input("x", 1, 3, 5, 7)
    branches = [net.op("Relu", net.conv(x, name, 4, 3, 1, 1)) for name in ("left", "right")]
    value = _reshape(net, net.op("Concat", *branches, axis=1), "apart", 0, 2, 4, 5, 7)
    value = _reshape(net, net.op("Transpose", value, perm=[0, 2, 1, 3, 4]), "shuffled", 0, 8, 5, 7)
    made = emit(net.graph, "Split", [value, _vector(net, "halves", 4, 4)], {"axis": 1}, outputs=["near", "far"])
    near, far = made.outputs
    assert near is not None and far is not None
    one, other = net.conv(near, "one", 6, 4, 1, 1), net.conv(far, "other", 6, 4, 3, 3, pads=[1, 1, 1, 1])
    return net.done((net.op("Add", one, other), (1, 6, 5, 7)))


def flatten_gemm() -> Graph:
    """5 channels of 3 x 4 places, flattened: a channel is 12 rows that follow each other."""
    net = Net("flatten_gemm")
    value = net.op("Relu", net.conv(net.input("x", 1, 2, 3, 4), "conv", 5, 2, 3, 3, pads=[1, 1, 1, 1]))
    value = net.op("Flatten", value, axis=1)
    value = net.op("Gemm", value, net.weight("fc1.weight", 7, 60), net.weight("fc1.bias", 7), to="fc1", transB=1)
    value = net.op("Gemm", net.op("Relu", value), net.weight("fc2.weight", 7, 2), net.weight("fc2.bias", 2), to="fc2")
    return net.done((value, (1, 2)))


def group_norm() -> Graph:
    """8 channels normalised in 2 groups the way exporters write it, then scaled."""
    net = Net("group_norm")
    value = net.conv(net.input("x", 1, 3, 3, 5), "before", 8, 3, 1, 1)
    ones, zeros = np.ones(2, np.float32), np.zeros(2, np.float32)
    value = _reshape(net, value, "grouped", 0, 2, -1)
    value = net.op("InstanceNormalization", value, net.constant("ones", ones), net.constant("zeros", zeros))
    value = _reshape(net, value, "ungrouped", 1, 8, 3, 5)
    value = net.op("Add", net.op("Mul", value, net.scale("gamma", 8, 1, 1)), net.weight("beta", 8, 1, 1))
    return net.done((net.conv(net.op("Relu", value), "after", 6, 8, 1, 1), (1, 6, 3, 5)))


def upsampling() -> Graph:
    """A transposed convolution (3 to 6 channels), resized, and 12 channels laid out as 3 x 2 x 2 places."""
    net = Net("upsampling")
    value = net.op(
        "ConvTranspose", net.input("x", 1, 3, 4, 3), net.weight("up.weight", 3, 6, 2, 2), to="up", strides=[2, 2]
    )
    scales = net.constant("scales", np.array([1, 1, 2, 1], np.float32))
    value = net.op("Resize", net.op("Relu", value), None, scales, mode="nearest")
    value = net.op("DepthToSpace", net.conv(value, "deep", 12, 6, 1, 1), blocksize=2)
    return net.done((net.conv(value, "last", 5, 3, 1, 1), (1, 5, 32, 12)))


# ---- attention -----------------------------------------------------------------------------------------------------


def _heads(net: Net, value: Value, to: str, heads: int, width: int, *, transposed: bool = False) -> Value:
    """[n, time, heads x width] to [n, heads, time, width], or to [n, heads, width, time]."""
    value = _reshape(net, value, f"{to}_heads", 0, 0, heads, width)
    return net.op("Transpose", value, perm=[0, 2, 3, 1] if transposed else [0, 2, 1, 3], to=f"{to}_moved")


def _mixed(net: Net, query: Value, key: Value, value: Value, width: int) -> Value:
    """Attention of queries [n, h, t, width], keys [n, h, width, t], values [n, h, t, depth] to [n, t, h x depth]."""
    scores = net.op("Mul", net.op("MatMul", query, key), net.constant("scaling", np.float32(width**-0.5)))
    mixed = net.op("MatMul", net.op("Softmax", scores, axis=-1), value)
    return _reshape(net, net.op("Transpose", mixed, perm=[0, 2, 1, 3]), "joined", 0, 0, -1)


def attention() -> Graph:
    """3 heads; queries and keys 4 wide, values 7; a trunk of 10 that the interface holds."""
    net = Net("attention")
    x = net.input("x", 2, 5, 10)
    query = _heads(net, _linear(net, x, "query", 10, 12), "query", 3, 4)
    key = _heads(net, _linear(net, x, "key", 10, 12), "key", 3, 4, transposed=True)
    value = _heads(net, _linear(net, x, "value", 10, 21), "value", 3, 7)
    made = _linear(net, _mixed(net, query, key, value, 4), "output", 21, 10)
    return net.done((net.op("Add", x, made), (2, 5, 10)))


def grouped_query_attention() -> Graph:
    """2 key-value heads, each for 3 query heads, by Expand; queries and keys 4 wide, values 5."""
    net = Net("grouped_query_attention")
    x = net.input("x", 1, 7, 9)
    query = _heads(net, net.op("MatMul", x, net.weight("query.weight", 9, 24)), "query", 6, 4)
    repeated = []
    for name, width in (("key", 4), ("value", 5)):
        few = _heads(net, net.op("MatMul", x, net.weight(f"{name}.weight", 9, 2 * width)), name, 2, width)
        apart = net.op("Unsqueeze", few, _vector(net, f"{name}.axis", 2))
        many = net.op("Expand", apart, _vector(net, f"{name}.expand", 1, 2, 3, 7, width))
        repeated.append(_reshape(net, many, f"{name}_repeated", 1, 6, 7, width))
    key = net.op("Transpose", repeated[0], perm=[0, 1, 3, 2])
    mixed = _mixed(net, query, key, repeated[1], 4)
    return net.done((net.op("MatMul", mixed, net.weight("output.weight", 30, 9)), (1, 7, 9)))


def _rotated(net: Net, value: Value, half: int, cosine: Value, sine: Value) -> Value:
    """x * cos + (-second half, first half) * sin, as exporters write it."""
    first = net.op("Slice", value, *(_vector(net, "bound", bound) for bound in (0, half, 3)))
    second = net.op("Slice", value, *(_vector(net, "bound", bound) for bound in (half, 2 * half, 3)))
    turned = net.op("Concat", net.op("Neg", second), first, axis=-1)
    return net.op("Add", net.op("Mul", value, cosine), net.op("Mul", turned, sine))


def rotary() -> Graph:
    """2 heads; queries and keys of 2 halves of 3, rotated by tables that both share; values 5 wide."""
    net = Net("rotary")
    x = net.input("x", 1, 4, 7)
    angles = np.outer(np.arange(4), 10.0 ** -np.arange(3))
    angles = np.concatenate([angles, angles], axis=1).astype(np.float32)
    cosine, sine = net.constant("cosine", np.cos(angles)), net.constant("sine", np.sin(angles))
    query, key = (
        _rotated(
            net, _heads(net, net.op("MatMul", x, net.weight(f"{name}.weight", 7, 12)), name, 2, 6), 3, cosine, sine
        )
        for name in ("query", "key")
    )
    value = _heads(net, net.op("MatMul", x, net.weight("value.weight", 7, 10)), "value", 2, 5)
    mixed = _mixed(net, query, net.op("Transpose", key, perm=[0, 1, 3, 2]), value, 6)
    return net.done((net.op("MatMul", mixed, net.weight("output.weight", 10, 7)), (1, 4, 7)))


def fused_qkv_split() -> Graph:
    """One projection to 12 + 12 + 15 that Split takes apart; 3 heads, queries and keys 4 wide, values 5."""
    net = Net("fused_qkv_split")
    x = net.input("x", 1, 6, 8)
    fused = _linear(net, x, "fused", 8, 39)
    made = emit(net.graph, "Split", [fused, _vector(net, "parts", 12, 12, 15)], {"axis": -1}, outputs=["q", "k", "v"])
    q, k, v = made.outputs
    assert q is not None and k is not None and v is not None
    query, key = _heads(net, q, "query", 3, 4), _heads(net, k, "key", 3, 4, transposed=True)
    mixed = _mixed(net, query, key, _heads(net, v, "value", 3, 5), 4)
    return net.done((_linear(net, mixed, "output", 15, 8), (1, 6, 8)))


def packed_qkv() -> Graph:
    """One projection to 3 x 2 heads x 5 that Reshape and Gather take apart, as vision transformers are exported."""
    net = Net("packed_qkv")
    x = net.input("x", 1, 6, 7)
    packed = _reshape(net, _linear(net, x, "packed", 7, 30), "apart", 1, 6, 3, 2, 5)
    packed = net.op("Transpose", packed, perm=[2, 0, 3, 1, 4], to="moved")
    query, key, value = (
        net.op("Gather", packed, net.constant(f"{name}.index", np.array(index)), axis=0, to=name)
        for index, name in enumerate(("query", "key", "value"))
    )
    mixed = _mixed(net, query, net.op("Transpose", key, perm=[0, 1, 3, 2]), value, 5)
    return net.done((_linear(net, mixed, "output", 10, 7), (1, 6, 7)))


# ---- the rest of a network -----------------------------------------------------------------------------------------


def gated_ffn() -> Graph:
    """13 neurons, each with a gate."""
    net = Net("gated_ffn")
    x = net.input("x", 1, 4, 9)
    gate = net.op("MatMul", x, net.weight("gate.weight", 9, 13), to="gate")
    gate = net.op("Mul", gate, net.op("Sigmoid", gate), to="silu")
    inner = net.op("Mul", gate, net.op("MatMul", x, net.weight("up.weight", 9, 13), to="up"))
    return net.done((net.op("MatMul", inner, net.weight("down.weight", 13, 9)), (1, 4, 9)))


def embedded_trunk() -> Graph:
    """Tokens to a trunk of 6 by two tables, normalised; the trunk is inexact, its 11 tokens stay."""
    net = Net("embedded_trunk")
    tokens = net.input("tokens", 1, 5, dtype=DataType.INT64)
    places = net.op("Gather", net.weight("places", 8, 6), net.constant("order", np.arange(5)), axis=0)
    trunk = net.op("Add", net.op("Gather", net.weight("table", 11, 6), tokens, axis=0), places)
    value = net.op("LayerNormalization", trunk, net.scale("norm.scale", 6), net.weight("norm.bias", 6), axis=-1)
    value = net.op("Gelu", _linear(net, value, "up", 6, 14))
    trunk = net.op("Add", trunk, _linear(net, value, "down", 14, 6), to="sum")
    return net.done((_linear(net, trunk, "head", 6, 4), (1, 5, 4)))


def recurrent() -> Graph:
    """An LSTM of 5 cells over 3 inputs, read by a linear layer."""
    net = Net("recurrent")
    weights = [net.weight("w", 1, 20, 3), net.weight("r", 1, 20, 5), net.weight("b", 1, 40)]
    state = net.op("LSTM", net.op("MatMul", net.input("x", 6, 2, 4), net.weight("in", 4, 3)), *weights, hidden_size=5)
    flat = net.op("Squeeze", state, _vector(net, "axis", 1))
    return net.done((net.op("MatMul", flat, net.weight("out", 5, 7)), (6, 2, 7)))


_ALL: tuple[Callable[[], Graph], ...] = (
    conv_bn_relu_conv,
    residual_trunk,
    depthwise,
    depthwise_multiplier,
    grouped_conv,
    dense_concat,
    channel_shuffle,
    split_shuffle,
    flatten_gemm,
    group_norm,
    upsampling,
    attention,
    grouped_query_attention,
    rotary,
    fused_qkv_split,
    packed_qkv,
    gated_ffn,
    embedded_trunk,
    recurrent,
)


def structures() -> dict[str, Callable[[], Graph]]:
    """Each graph's builder by name; every call builds it anew, with the same weights."""
    return {build.__name__: build for build in _ALL}
