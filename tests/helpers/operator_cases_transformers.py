"""Graphs for attention, rotary positions, mixtures of experts, and quantized numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from helpers.operator_net import Cases, Net

from secateur.ir import DataType, Value

CASES = Cases()
Q, S, HIDDEN = 3, 4, 5
"""Positions of queries and of keys, and the width of what comes in."""


def _projected(net: Net, data: Value, *widths: int) -> list[Value]:
    return [net.dense(data, HIDDEN, width) for width in widths]


def _heads(net: Net, value: Value, length: int, heads: int) -> Value:
    """[batch, positions, heads * width] as [batch, heads, positions, width]."""
    return net.op("Transpose", net.op("Reshape", value, net.const([2, length, heads, -1])), perm=[0, 2, 1, 3])


def _by_head(net: Net, values: list[Value], heads: int, *widths: int) -> list[Value]:
    """Linear maps of [batch, heads, positions, width]."""
    return [
        net.op("Einsum", value, net.weight(heads, width, 3), equation="bhsd,hdo->bso")
        for value, width in zip(values, widths, strict=True)
    ]


def _memory(net: Net) -> tuple[Value, Value]:
    return net.input(2, Q, HIDDEN), net.input(2, S, HIDDEN)


# ---- Attention of ONNX ---------------------------------------------------------------------------------------------


@CASES.case("Attention", [2, 7, 11], opset=23)
def attention(net: Net) -> Value:
    """Two heads of seven, which bring back eleven."""
    data, memory = _memory(net)
    query, key, value = net.dense(data, 5, 14), net.dense(memory, 5, 14), net.dense(memory, 5, 22)
    return net.dense(net.op("Attention", query, key, value, q_num_heads=2, kv_num_heads=2), 22, 6)


@CASES.case("Attention", [2, 3, 4, 7], opset=23)
def attention__shared_keys(net: Net) -> Value:
    """Two heads of keys for six of queries; a mask for each head; soft-capped."""
    data, memory = _memory(net)
    query, key, value = net.dense(data, 5, 24), net.dense(memory, 5, 8), net.dense(memory, 5, 14)
    heads = {"q_num_heads": 6, "kv_num_heads": 2}
    return net.dense(net.op("Attention", query, key, value, net.weight(6, Q, S), softcap=5.0, **heads), 42, 6)


@CASES.case("Attention", [2, 4, 7], opset=23)
def attention__heads_as_an_axis(net: Net) -> Value:
    data = net.input(2, Q, HIDDEN)
    query, key, value = (_heads(net, one, Q, 2) for one in _projected(net, data, 14, 14, 8))
    made = net.op("Attention", query, key, value, is_causal=1)
    flat = net.op("Reshape", net.op("Transpose", made, perm=[0, 2, 1, 3]), net.const([2, Q, 8]))
    return net.dense(flat, 8, 6)


@CASES.case("Attention", [4, 6], opset=23)
def attention__past(net: Net) -> list[Value]:
    """The past of keys and values is fed, in heads of a fixed width; what leads there is free."""
    data = net.op("Relu", net.dense(net.input(2, Q, HIDDEN), 5, 6))
    query, key, value = (net.dense(data, 6, 4) for _ in range(3))
    past = [net.input(2, 2, 3, 2), net.input(2, 2, 3, 2)]
    made = net.ops("Attention", 3, query, key, value, None, *past, q_num_heads=2, kv_num_heads=2)
    return [net.dense(net.op("Relu", net.dense(made[0], 4, 4)), 4, 2), *made[1:]]


@CASES.case("Attention", [2, 7, 11], opset=23)
def attention__present(net: Net) -> list[Value]:
    """Keys and values leave too, through linear maps of their own; so do the scores."""
    data = net.input(2, Q, HIDDEN)
    made = net.ops("Attention", 4, *_projected(net, data, 14, 14, 22), q_num_heads=2, kv_num_heads=2)
    scores = net.op("Einsum", made[3], net.weight(2, 3), equation="bhqk,ho->bqko")
    return [net.dense(made[0], 22, 6), *_by_head(net, made[1:3], 2, 7, 11), scores]


# ---- attention of com.microsoft ------------------------------------------------------------------------------------

MHA = "com.microsoft::MultiHeadAttention"
GQA = "com.microsoft::GroupQueryAttention"


@CASES.case(MHA, [2, 7, 11])
def multi_head(net: Net) -> Value:
    """With a bias for all three, and one on the scores of each head."""
    data, memory = _memory(net)
    query, key, value = net.dense(data, 5, 14), net.dense(memory, 5, 14), net.dense(memory, 5, 22)
    made = net.op(MHA, query, key, value, net.weight(14 + 14 + 22), None, net.weight(1, 2, Q, S), num_heads=2)
    return net.dense(made, 22, 6)


@CASES.case(MHA, [2, 7], runs="")
def multi_head__packed(net: Net) -> Value:
    """Queries, keys and values of each head beside each other."""
    packed = net.op("Reshape", net.dense(net.input(2, Q, HIDDEN), 5, 42), net.const([2, Q, 2, 3, 7]))
    return net.dense(net.op(MHA, packed, num_heads=2), 14, 6)


@CASES.case(MHA, [2, 7], runs="")
def multi_head__packed_keys_and_values(net: Net) -> Value:
    data, memory = _memory(net)
    packed = net.op("Reshape", net.dense(memory, 5, 28), net.const([2, S, 2, 2, 7]))
    return net.dense(net.op(MHA, net.dense(data, 5, 14), packed, num_heads=2), 14, 6)


@CASES.case(MHA, [2, 7])
def multi_head__keys_by_head(net: Net) -> Value:
    data, memory = _memory(net)
    key, value = (_heads(net, one, S, 2) for one in _projected(net, memory, 14, 14))
    mask = net.const(np.ones((2, S)), np.int32)
    return net.dense(net.op(MHA, net.dense(data, 5, 14), key, value, None, mask, num_heads=2), 14, 6)


@CASES.case(MHA, [2, 7, 11])
def multi_head__present(net: Net) -> list[Value]:
    data = net.input(2, Q, HIDDEN)
    made = net.ops(MHA, 3, *_projected(net, data, 14, 14, 22), num_heads=2, unidirectional=1)
    return [net.dense(made[0], 22, 6), *_by_head(net, made[1:], 2, 7, 11)]


def _lengths(net: Net) -> list[Value]:
    return [net.const([Q - 1] * 2, np.int32), net.const(Q, np.int32)]


@CASES.case(GQA, [2, 3, 5])
def group_query(net: Net) -> Value:
    """Two heads of keys for six of queries, of width forty in keys and values alike: five times eight."""
    query, key, value = _projected(net, net.input(2, Q, HIDDEN), 240, 80, 80)
    made = net.op(GQA, query, key, value, None, None, *_lengths(net), num_heads=6, kv_num_heads=2)
    return net.dense(made, 240, 6)


@CASES.case(GQA, [2, 3, 5])
def group_query__packed(net: Net) -> Value:
    packed = net.dense(net.input(2, Q, HIDDEN), 5, 240 + 80 + 80)
    sinks = [None] * 4 + [net.weight(6)]
    made = net.op(GQA, packed, None, None, None, None, *_lengths(net), *sinks, num_heads=6, kv_num_heads=2)
    return net.dense(made, 240, 6)


@CASES.case(GQA, [2, 3, 3])
def group_query__rotary(net: Net) -> list[Value]:
    """Forty-eight columns turn in three times eight pairs; the tables lose what the heads lose."""
    query, key, value = _projected(net, net.input(2, Q, HIDDEN), 288, 96, 96)
    inputs = [query, key, value, None, None, *_lengths(net), net.weight(6, 24), net.weight(6, 24)]
    made = net.ops(GQA, 3, *inputs, num_heads=6, kv_num_heads=2, do_rotary=1)
    return [net.dense(made[0], 288, 6), *_by_head(net, made[1:], 2, 48, 48)]


@CASES.case("com.microsoft::Attention", [2, 5, 7, 11])
def packed_attention(net: Net) -> Value:
    data = net.dense(net.input(2, Q, 6), 6, 5)
    attributes: dict[str, Any] = {"num_heads": 2, "qkv_hidden_sizes": [14, 14, 22], "unidirectional": 1}
    made = net.op("com.microsoft::Attention", data, net.weight(5, 50), net.weight(50), **attributes)
    return net.dense(made, 22, 6)


@CASES.case("com.microsoft::Attention", [2, 8])
def packed_attention__equal_widths(net: Net) -> list[Value]:
    """Keys and values leave too, stacked, so they keep one width."""
    made = net.ops("com.microsoft::Attention", 2, net.input(2, Q, 5), net.weight(5, 48), net.weight(48), num_heads=2)
    past = net.op("Einsum", made[1], net.weight(2, 8, 3), equation="cbhsd,hdo->bso")
    return [net.dense(made[0], 16, 6), past]


@CASES.case("LinearAttention", [2, 3, 7, 11], opset=27, runs="reference")
def linear_attention(net: Net) -> list[Value]:
    """Two heads of keys for six of queries; a decay for each column of a key."""
    data = net.input(2, Q, HIDDEN)
    inputs = _projected(net, data, 42, 14, 22)
    decay, rate = net.op("Neg", net.op("Softplus", net.dense(data, 5, 14))), net.op("Sigmoid", net.dense(data, 5, 2))
    made = net.ops("LinearAttention", 2, *inputs, None, decay, rate, q_num_heads=6, kv_num_heads=2)
    state = net.op("Einsum", made[1], net.weight(2, 7, 11, 3), equation="bhde,hdeo->bo")
    return [net.dense(made[0], 66, 6), state]


@CASES.case("com.microsoft::LinearAttention", [2, 7, 11])
def linear_attention_of_contrib(net: Net) -> Value:
    data = net.input(2, Q, HIDDEN)
    state = net.op("Einsum", data, net.weight(5, 2, 7, 11), equation="bsi,ihde->bhde")
    attributes = {"q_num_heads": 2, "kv_num_heads": 2, "update_rule": "linear"}
    made = net.ops("com.microsoft::LinearAttention", 2, *_projected(net, data, 14, 14, 22), state, **attributes)
    return net.dense(made[0], 22, 6)


# ---- rotary positions ----------------------------------------------------------------------------------------------


def _rotary(op: str, given: bool, four: bool, partial: bool, interleaved: int) -> Any:
    """Two heads of eight, of which all or six turn in pairs; every position is multiplied with itself behind it."""

    def build(net: Net) -> Value:
        data, columns = net.dense(net.input(2, Q, HIDDEN), 5, 32), 6 if partial else 8
        if four:
            data = _heads(net, data, Q, 2)
        rows = (9,) if given else (2, Q)
        tables = [net.weight(*rows, columns), net.weight(*rows, columns)]
        where = [net.const(np.arange(2 * Q).reshape(2, Q))] if given else []
        inputs = [*where, *tables] if "::" in op else [*tables, *where]
        heads = {} if four and not partial else {"num_heads": 2}
        turned = net.op(op, data, *inputs, interleaved=interleaved, **heads, rotary_embedding_dim=12 if partial else 0)
        shape = (2, 2, Q, 16) if four else (2, Q, 32)
        return net.op("ReduceSum", net.op("Mul", net.typed(turned, *shape), data), net.const([-1]))

    return build


for _given, _four, _partial, _interleaved in (
    (True, False, False, 0),
    (True, True, False, 1),
    (False, False, True, 0),
    (False, True, True, 1),
    (True, False, True, 1),
):
    _name = " ".join(
        word
        for word, said in (
            ("positions", _given),
            ("by head", _four),
            ("partial", _partial),
            ("neighbours", _interleaved),
        )
        if said
    )
    # Two heads and the pairs, and what does not turn; by head, heads are an axis of the output.
    _free = [8] if not _partial else [4, 6]
    _free = _free if _four else [2, *_free]
    _case = _rotary("RotaryEmbedding", _given, _four, _partial, _interleaved)
    CASES.add("RotaryEmbedding", _case, _free, opset=23, name=_name)
    if _given:
        _op = "com.microsoft::RotaryEmbedding"
        CASES.add(_op, _rotary(_op, _given, _four, _partial, _interleaved), _free, name=_name)


# ---- mixtures of experts -------------------------------------------------------------------------------------------


def _mixture(fusion: int, activation: str, three: bool = False) -> Any:
    def build(net: Net) -> Value:
        data = net.dense(net.input(2, Q, HIDDEN), 5, 6)
        router = net.op("Reshape", net.dense(data, 6, 8), net.const([-1, 8]))
        rows = 14 if fusion else 7
        weights = [net.weight(8, rows, 6), net.weight(8, rows), net.weight(8, 6, 7), net.weight(8, 6)]
        if three:
            weights += [net.weight(8, 7, 6), net.weight(8, 7)]
        attributes = {"k": 2, "activation_type": activation, "swiglu_fusion": fusion, "normalize_routing_weights": 1}
        return net.dense(net.op("com.microsoft::MoE", data, router, *weights, **attributes), 6, 3)

    return build


CASES.add("com.microsoft::MoE", _mixture(0, "relu"), [6, 7], [8])
CASES.add("com.microsoft::MoE", _mixture(1, "swiglu"), [6, 7], [8], name="gates beside values")
CASES.add("com.microsoft::MoE", _mixture(2, "swiglu"), [6, 7], [8], name="gates before values", runs="")
CASES.add("com.microsoft::MoE", _mixture(0, "silu", True), [6, 7], [8], name="three maps", runs="")


def _quantized_mixture(bits: int, block: int) -> Any:
    """Hidden 64, neurons 32, 8 experts."""

    def build(net: Net) -> Value:
        data = net.dense(net.input(2, Q, HIDDEN), 5, 64)
        router = net.op("Reshape", net.dense(data, 64, 8), net.const([-1, 8]))
        packed = [
            net.const(net.random.integers(0, 256, (8, rows, columns * bits // 8)), np.uint8)
            for rows, columns in ((64, 64), (64, 32))
        ]
        scales = [net.weight(8, 64, *([columns // block] if block else []), low=0.05) for columns in (64, 32)]
        inputs = [data, router, packed[0], scales[0], net.weight(8, 64), packed[1], scales[1], net.weight(8, 64)]
        attributes = {"k": 2, "expert_weight_bits": bits, "activation_type": "swiglu", "swiglu_fusion": 1}
        if block:
            attributes["block_size"] = block
        return net.dense(net.op("com.microsoft::QMoE", *inputs, **attributes), 64, 3)

    return build


CASES.add("com.microsoft::QMoE", _quantized_mixture(4, 0), [16, 32], [8], name="four bits")
CASES.add("com.microsoft::QMoE", _quantized_mixture(8, 0), [32, 64], [8], name="eight bits")
CASES.add("com.microsoft::QMoE", _quantized_mixture(4, 16), [2, 4], [8], name="blocks")


# ---- quantized numbers ---------------------------------------------------------------------------------------------

NBITS = "com.microsoft::MatMulNBits"


def _packed(bits: int, zeros: str = "", bias: bool = False) -> Any:
    """64 rows in four blocks, 7 columns."""

    def build(net: Net) -> Value:
        data = net.op("Relu", net.dense(net.input(2, HIDDEN), 5, 64))
        weight = net.const(net.random.integers(0, 256, (7, 4, 16 * bits // 8)), np.uint8)
        inputs: list[Value | None] = [data, weight, net.weight(7, 4, low=0.05)]
        if zeros == "packed":
            inputs.append(net.const(net.random.integers(0, 256, (7, 4 * bits // 8)), np.uint8))
        elif zeros == "numbers":
            inputs.append(net.weight(7, 4, low=7.0))
        if bias:
            inputs += [None] * (5 - len(inputs)) + [net.weight(7)]
        made = net.op(NBITS, *inputs, K=64, N=7, bits=bits, block_size=16)
        return net.dense(net.op("Relu", net.typed(made, 2, 7)), 7, 3)

    return build


CASES.add(NBITS, _packed(4), [4, 7])
CASES.add(NBITS, _packed(8, bias=True), [4, 7], name="bias")
CASES.add(NBITS, _packed(4, "packed"), [7], name="packed zero points")
CASES.add(NBITS, _packed(4, "numbers"), [4, 7], name="zero points")


@CASES.case("QuantizeLinear", [6, 10])
def quantize(net: Net) -> Value:
    """Activations by one scale; weights by one for each output channel; a chain of two convolutions."""
    image = net.op("Relu", net.conv(net.input(2, 3, 5, 5), 3, 6))
    scale, zero = net.const(0.02, np.float32), net.const(3, np.uint8)
    stored = net.op("QuantizeLinear", image, scale, zero)
    kernel = net.const(net.random.integers(-127, 128, (10, 6, 1, 1)), np.int8)
    weight = net.op("DequantizeLinear", kernel, net.weight(10, low=0.01), net.const(np.zeros(10), np.int8), axis=0)
    made = net.op("Conv", net.op("DequantizeLinear", stored, scale, zero), weight, net.weight(10))
    return net.conv(made, 10, 4)


@CASES.case("DequantizeLinear", [3, 7])
def dequantize__blocks(net: Net) -> Value:
    """Rows in three blocks of four, each with a scale; columns one by one."""
    data = net.op("Relu", net.dense(net.input(2, 5), 5, 12))
    stored = net.const(net.random.integers(-127, 128, (12, 7)), np.int8)
    weight = net.op("DequantizeLinear", stored, net.weight(3, 7, low=0.01), axis=0, block_size=4)
    return net.dense(net.op("MatMul", data, weight), 7, 2)


@CASES.case("QuantizeLinear", [3, 7])
def quantize__blocks(net: Net) -> Value:
    """The weight is quantized in the graph, in blocks, and back."""
    data, scale = net.op("Relu", net.dense(net.input(2, 5), 5, 12)), net.weight(3, 7, low=0.01)
    stored = net.op("QuantizeLinear", net.weight(12, 7), scale, axis=0, block_size=4, output_dtype=int(DataType.INT8))
    weight = net.op("DequantizeLinear", stored, scale, axis=0, block_size=4)
    return net.dense(net.op("MatMul", data, weight), 7, 2)


for _name in ("com.microsoft::QuantizeLinear", "com.microsoft::DequantizeLinear"):

    @CASES.case(_name, [6])
    def quantize_by_contrib(net: Net) -> Value:
        data, scale, zero = net.dense(net.input(2, 5), 5, 6), net.const(0.02, np.float32), net.const(3, np.uint8)
        stored = net.typed(net.op("com.microsoft::QuantizeLinear", data, scale, zero), 2, 6, dtype=DataType.UINT8)
        return net.dense(net.typed(net.op("com.microsoft::DequantizeLinear", stored, scale, zero), 2, 6), 6, 3)


@CASES.case("DynamicQuantizeLinear", [5], [7])
def quantize_dynamically(net: Net) -> Value:
    """Only what lies behind the whole numbers is exact."""
    stored, scale, zero = net.ops("DynamicQuantizeLinear", 3, net.op("Relu", net.dense(net.input(2, 4), 4, 7)))
    data = net.op("DequantizeLinear", stored, scale, zero)
    return net.dense(net.op("Relu", net.dense(data, 7, 5)), 5, 3)


def _bytes(net: Net, *shape: int) -> Value:
    return net.const(net.random.integers(0, 256, shape), np.uint8)


@CASES.case("ConvInteger", [2, 3, 5])
def conv_integer(net: Net) -> Value:
    image = net.op("Relu", net.conv(net.input(2, 3, 5, 5), 3, 6))
    scale, zero = net.const(0.02, np.float32), net.const(3, np.uint8)
    stored = net.op("QuantizeLinear", image, scale, zero)
    made = net.op("ConvInteger", stored, _bytes(net, 10, 3, 1, 1), zero, net.const(100, np.uint8), group=2)
    return net.conv(net.cast(made, DataType.FLOAT32), 10, 4)


@CASES.case("QLinearConv", [6, 10])
def qlinear_conv(net: Net) -> Value:
    image = net.op("Relu", net.conv(net.input(2, 3, 5, 5), 3, 6))
    scale, zero = net.const(0.02, np.float32), net.const(3, np.uint8)
    stored = net.op("QuantizeLinear", image, scale, zero)
    kernel = net.const(net.random.integers(-127, 128, (10, 6, 1, 1)), np.int8)
    of_kernel = [net.weight(10, low=0.001), net.const(np.zeros(10), np.int8)]
    of_output = [net.const(0.5, np.float32), net.const(128, np.uint8)]
    bias = net.const(net.random.integers(-500, 500, 10), np.int32)
    made = net.op("QLinearConv", stored, scale, zero, kernel, *of_kernel, *of_output, bias)
    return net.conv(net.op("DequantizeLinear", made, *of_output), 10, 4)


@CASES.case("MatMulInteger", [6, 10])
def matmul_integer(net: Net) -> Value:
    data = net.op("Relu", net.dense(net.input(2, 5), 5, 6))
    scale, zero = net.const(0.02, np.float32), net.const(3, np.uint8)
    codes = net.op("QuantizeLinear", data, scale, zero)
    made = net.op("MatMulInteger", codes, _bytes(net, 6, 10), zero, _bytes(net, 10))
    return net.dense(net.cast(made, DataType.FLOAT32), 10, 4)


@CASES.case("QLinearMatMul", [6, 10])
def qlinear_matmul(net: Net) -> Value:
    data = net.op("Relu", net.dense(net.input(2, 5), 5, 6))
    scale, zero = net.const(0.02, np.float32), net.const(3, np.uint8)
    of_output = [net.const(2.0, np.float32), net.const(128, np.uint8)]
    inputs = [net.op("QuantizeLinear", data, scale, zero), scale, zero, _bytes(net, 6, 10)]
    made = net.op("QLinearMatMul", *inputs, net.weight(10, low=0.01), _bytes(net, 10), *of_output)
    return net.dense(net.op("DequantizeLinear", made, *of_output), 10, 4)
