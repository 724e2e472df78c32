"""Graphs for the operators that sum over a shared axis, and for recurrent layers."""

from __future__ import annotations

from typing import Any

import numpy as np
from helpers.operator_net import Cases, Net

from secateur.ir import DataType, Value

CASES = Cases()


@CASES.case("MatMul", [7, 11])
def matmul(net: Net) -> Value:
    left = net.dense(net.input(2, 3, 5), 5, 7)
    right = net.op("MatMul", net.weight(7, 11), net.weight(11, 13))
    return net.op("MatMul", left, right)


@CASES.case("MatMul", [6, 7])
def matmul__vectors(net: Net) -> Value:
    rows = net.op("Relu", net.op("MatMul", net.weight(6, 5), net.op("MatMul", net.input(5, 4), net.weight(4, 7))))
    columns = net.op("Relu", net.op("MatMul", net.input(4, 5), net.weight(5, 7)))
    weighed = net.op("MatMul", net.op("MatMul", net.weight(6), rows), net.op("Transpose", columns))
    return net.op("Add", weighed, net.op("MatMul", columns, net.weight(7)))


@CASES.case("Gemm", [7, 11])
def gemm(net: Net) -> Value:
    hidden = net.op("Gemm", net.input(2, 5), net.weight(5, 7), net.weight(7))
    hidden = net.op("Gemm", net.weight(7, 11), hidden, net.weight(11, 1), transA=1, transB=1, alpha=0.5, beta=2.0)
    return net.op("Gemm", hidden, net.weight(3, 11), transA=1, transB=1)


@CASES.case("com.microsoft::FusedGemm", [7])
def fused_gemm(net: Net) -> Value:
    fused = "com.microsoft::FusedGemm"
    hidden = net.op(fused, net.input(2, 5), net.weight(5, 7), net.weight(7), activation="Relu")
    return net.op(fused, hidden, net.weight(3, 7), net.weight(3), transB=1, activation="Tanh")


@CASES.case("Conv", [6, 10])
def conv(net: Net) -> Value:
    value = net.op("Relu", net.conv(net.input(2, 3, 5, 5), 3, 6, 3))
    return net.conv(net.op("Relu", net.conv(value, 6, 10)), 10, 4)


@CASES.case("Conv", [2, 3, 5])
def conv__groups(net: Net) -> Value:
    """Six channels in two groups make ten: the groups, and both kinds of channel in a group."""
    value = net.op("Relu", net.conv(net.input(2, 3, 5, 5), 3, 6))
    return net.conv(net.op("Relu", net.conv(value, 6, 10, 3, group=2)), 10, 4)


@CASES.case("Conv", [3, 6])
def conv__depthwise(net: Net) -> Value:
    """Every channel makes three."""
    value = net.op("Relu", net.conv(net.input(2, 3, 5, 5), 3, 6))
    return net.conv(net.op("Relu", net.conv(value, 6, 18, 3, group=6)), 18, 4)


@CASES.case("Conv", [7])
def conv__in_one_dimension(net: Net) -> Value:
    value = net.op("Conv", net.input(2, 3, 9), net.weight(7, 3, 3), net.weight(7), pads=[1, 1])
    return net.op("Conv", net.op("Relu", value), net.weight(4, 7, 1))


@CASES.case("ConvTranspose", [6, 10])
def conv_transpose(net: Net) -> Value:
    value = net.op("Relu", net.conv(net.input(2, 3, 5, 5), 3, 6))
    value = net.op("ConvTranspose", value, net.weight(6, 10, 3, 3), net.weight(10), strides=[2, 2])
    return net.conv(net.op("Relu", value), 10, 4)


@CASES.case("ConvTranspose", [2, 3, 5])
def conv_transpose__groups(net: Net) -> Value:
    value = net.op("Relu", net.conv(net.input(2, 3, 5, 5), 3, 6))
    value = net.op("ConvTranspose", value, net.weight(6, 5, 3, 3), net.weight(10), strides=[2, 2], group=2)
    return net.conv(net.op("Relu", value), 10, 4)


@CASES.case("DeformConv", [2, 3, 7])
def deform_conv(net: Net) -> Value:
    """Six channels in two groups of offsets."""
    image = net.input(2, 3, 6, 6)
    value = net.op("Relu", net.conv(image, 3, 6))
    offset = net.op("Conv", image, net.weight(2 * 2 * 9, 3, 3, 3))
    mask = net.op("Sigmoid", net.op("Conv", image, net.weight(2 * 9, 3, 3, 3)))
    value = net.op("DeformConv", value, net.weight(7, 6, 3, 3), offset, net.weight(7), mask, offset_group=2)
    return net.conv(net.op("Relu", value), 7, 4)


@CASES.case("com.microsoft::FusedConv", [6])
def fused_conv(net: Net) -> Value:
    image, fused = net.input(2, 3, 5, 5), "com.microsoft::FusedConv"
    other = net.op("Relu", net.conv(image, 3, 6))
    value = net.op(fused, image, net.weight(6, 3, 1, 1), net.weight(6), other, activation="Relu")
    return net.conv(value, 6, 4)


@CASES.case("CausalConvWithState", [6], opset=27, runs="reference")
def causal_conv(net: Net) -> list[Value]:
    value = net.op("Conv", net.input(2, 3, 9), net.weight(6, 3, 1))
    made, state = net.ops("CausalConvWithState", 2, value, net.weight(6, 1, 4), net.weight(6), activation="silu")
    out = net.op("Conv", made, net.weight(4, 6, 1))
    return [out, net.op("Conv", state, net.weight(4, 6, 1))]


@CASES.case("com.microsoft::CausalConvWithState", [6])
def causal_conv_of_contrib(net: Net) -> list[Value]:
    op = "com.microsoft::CausalConvWithState"
    value = net.op("Conv", net.input(2, 3, 9), net.weight(6, 3, 1))
    made, state = net.ops(op, 2, value, net.weight(6, 1, 4), net.weight(6), activation="silu")
    net.typed(made, 2, 6, 9)
    net.typed(state, 2, 6, 3)
    return [net.op("Conv", one, net.weight(4, 6, 1)) for one in (made, state)]


# ---- Einsum --------------------------------------------------------------------------------------------------------


def _einsum(equation: str, *operands: tuple[int, ...]) -> Any:
    """Constant operands behind a fed one; the last letter of the output goes on into a linear map."""

    def build(net: Net) -> Value:
        data = net.op("Relu", net.dense(net.input(*operands[0][:-1], 2), 2, operands[0][-1]))
        return net.op("Einsum", data, *(net.weight(*shape) for shape in operands[1:]), equation=equation)

    return build


CASES.add("Einsum", _einsum("bij,jk,kl->bil", (2, 3, 5), (5, 7), (7, 4)), [5, 7], name="chain")
CASES.add("Einsum", _einsum("bij, jk", (2, 3, 5), (5, 7)), [5], name="implicit output")
CASES.add("Einsum", _einsum("...j,jk->...k", (2, 3, 5), (5, 7)), [5], name="ellipsis")
CASES.add("Einsum", _einsum("...ij,...jk->...ik", (2, 3, 4, 5), (1, 3, 5, 7)), [5], name="broadcast ellipsis")
CASES.add("Einsum", _einsum("bij,ikj->bk", (2, 3, 5), (3, 7, 5)), [5], name="two contracted")
CASES.add("Einsum", _einsum("bij,jj->bi", (2, 3, 5), (5, 5)), [5], name="diagonal")
CASES.add("Einsum", _einsum("bij,kk->bi", (2, 3, 5), (7, 7)), [5, 7], name="trace")
CASES.add("Einsum", _einsum("bhd,hdo->bo", (2, 3, 5), (3, 5, 7)), [5], name="heads")


@CASES.case("Einsum", [4, 5, 7])
def einsum__attention(net: Net) -> Value:
    data = net.input(2, 3, 6)
    query, key = (net.op("Einsum", data, net.weight(6, 4, 5), equation="bsi,ihd->bshd") for _ in range(2))
    value = net.op("Einsum", data, net.weight(6, 4, 7), equation="bsi,ihd->bshd")
    scores = net.op("Softmax", net.op("Einsum", query, key, equation="bqhd,bkhd->bhqk"))
    mixed = net.op("Einsum", scores, value, equation="bhqk,bkhd->bqhd")
    return net.op("Einsum", mixed, net.weight(4, 7, 6), equation="bqhd,hdo->bqo")


# ---- FusedMatMul ---------------------------------------------------------------------------------------------------


def _fused(op: str, left: tuple[int, ...], right: tuple[int, ...], **attributes: Any) -> Any:
    def build(net: Net) -> Value:
        data = net.op("Relu", net.dense(net.input(*left[:-1], 4), 4, left[-1]))
        return net.op(op, data, net.weight(*right), **attributes)

    return build


CASES.add("com.microsoft::FusedMatMul", _fused("com.microsoft::FusedMatMul", (2, 3, 5), (5, 7), alpha=0.5), [5])
CASES.add(
    "com.microsoft::FusedMatMul",
    _fused("com.microsoft::FusedMatMul", (3, 5), (7, 5), transB=1),
    [5],
    name="right turned",
)
CASES.add(
    "com.microsoft::FusedMatMul",
    _fused("com.microsoft::FusedMatMul", (3, 2, 5), (2, 5, 7), transBatchA=1),
    [5],
    name="batch turned",
)
CASES.add("com.microsoft::TransposeMatMul", _fused("com.microsoft::TransposeMatMul", (3, 5), (7, 5), transB=1), [5])


@CASES.case("com.microsoft::FusedMatMul", [6])
def fused_matmul__left_turned(net: Net) -> Value:
    left = net.op("Relu", net.op("MatMul", net.weight(6, 3), net.input(3, 5)))
    return net.op("com.microsoft::FusedMatMul", left, net.weight(6, 4), transA=1)


# ---- recurrent layers ----------------------------------------------------------------------------------------------

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def _layer(net: Net, op: str, data: Value, width: int, hidden: int, directions: int, **attributes: Any) -> list[Value]:
    rows = _GATES[op] * hidden
    weights = [net.weight(directions, *shape) for shape in ((rows, width), (rows, hidden), (2 * rows,))]
    states = attributes.pop("states", [])
    count = 3 if op == "LSTM" else 2
    return net.ops(op, count, data, *weights, *states, hidden_size=hidden, **attributes)


def _recurrent(op: str, directions: int, **attributes: Any) -> Any:
    def build(net: Net) -> list[Value]:
        data = net.dense(net.input(4, 2, 3), 3, 5)
        direction = "bidirectional" if directions == 2 else "forward"
        made = _layer(net, op, data, 5, 7, directions, direction=direction, **attributes)
        sequence = net.op("Transpose", made[0], perm=[0, 2, 1, 3])
        flat = net.op("Reshape", sequence, net.const([4, 2, directions * 7]))
        return [net.dense(flat, directions * 7, 3), *(net.dense(state, 7, 2) for state in made[1:])]

    return build


for _op in _GATES:
    CASES.add(_op, _recurrent(_op, 1), [5, 7])
    CASES.add(_op, _recurrent(_op, 2), [5, 7], name="both directions")
CASES.add("GRU", _recurrent("GRU", 2, linear_before_reset=1), [5, 7], name="reset after")
CASES.add("LSTM", _recurrent("LSTM", 1, input_forget=1, clip=0.5), [5, 7], name="clipped")
CASES.add("LSTM", _recurrent("LSTM", 1), [5, 7], name="opset 7", opset=7)


@CASES.case("LSTM", [5, 7, 11])
def lstm__states_and_peepholes(net: Net) -> Value:
    """A second layer begins with the last states of the first, and looks into its cells."""
    data = net.dense(net.input(4, 2, 3), 3, 5)
    lengths = net.cast(net.input(2, dtype=np.int64, most=1), DataType.INT32)
    lengths = net.op("Add", lengths, net.const([3, 4], np.int32))
    first, *states = _layer(net, "LSTM", data, 5, 7, 1, states=[lengths])
    inner = net.dense(net.op("Squeeze", first, net.const([1])), 7, 11)
    second = _layer(net, "LSTM", inner, 11, 7, 1, states=[lengths, *states, net.weight(1, 21)])
    return net.dense(second[1], 7, 3)


@CASES.case("LSTM", [7], opset=14)
def lstm__zero_states(net: Net) -> Value:
    """First states of zeros, whose shape is spelled in a constant."""
    state = net.op("ConstantOfShape", net.const([1, 2, 7]))
    made = _layer(net, "LSTM", net.input(4, 2, 3), 3, 7, 1, states=[None, state, state])
    return net.dense(made[0], 7, 3)


@CASES.case("GRU", [7], opset=14, runs="reference")
def gru__batch_first(net: Net) -> Value:
    state = net.op("Expand", net.weight(1, 1, 7), net.const([2, 1, 7]))
    made = _layer(net, "GRU", net.input(2, 4, 3), 3, 7, 1, states=[None, state], layout=1)
    return net.dense(made[1], 7, 3)
