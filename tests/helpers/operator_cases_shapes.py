"""Graphs for the operators that arrange, cut, join and index."""

from __future__ import annotations

import numpy as np
from helpers.operator_net import Cases, Net

from secateur.ir import DataType, Tensor, Value

CASES = Cases()


def _wide(net: Net, width: int, *front: int) -> Value:
    """A linear map of an input, and an activation."""
    return net.op("Relu", net.dense(net.input(*(front or (2, 3)), 5), 5, width))


def _image(net: Net, channels: int) -> Value:
    return net.op("Relu", net.conv(net.input(2, 3, 6, 6), 3, channels))


# ---- the same elements, arranged anew ------------------------------------------------------------------------------


@CASES.case("Reshape", [3, 4])
def reshape__heads(net: Net) -> Value:
    """Twelve columns as three heads of four, which go on as they are."""
    value = net.op("Reshape", _wide(net, 12), net.const([2, 3, 3, 4]))
    return net.dense(net.op("Reshape", net.op("Relu", value), net.const([2, 3, 12])), 12, 2)


@CASES.case("Reshape", [3, 4])
def reshape__zeros_and_rest(net: Net) -> Value:
    value = net.op("Reshape", _wide(net, 12), net.const([0, 0, -1, 4]))
    return net.dense(net.op("Reshape", net.op("Relu", value), net.const([0, 3, -1])), 12, 2)


@CASES.case("Reshape", [3, 4])
def reshape__concatenated_target(net: Net) -> Value:
    """Part of the target is measured, part is spelled in constants."""
    data = _wide(net, 12)
    front = net.op("Slice", net.op("Shape", data), net.const([0]), net.const([2]))
    heads = net.op("Unsqueeze", net.const(3), net.const([0]))
    value = net.op("Reshape", data, net.op("Concat", front, heads, net.const([4]), axis=0))
    return net.dense(net.op("Reshape", net.op("Relu", value), net.op("Concat", front, net.const([12]), axis=0)), 12, 2)


@CASES.case("Reshape", [12])
def reshape__merged_batch(net: Net) -> Value:
    value = net.op("Reshape", _wide(net, 12), net.const([-1, 12]))
    return net.dense(net.op("Relu", value), 12, 2)


@CASES.case("Flatten", [6])
def flatten(net: Net) -> Value:
    return net.dense(net.op("Flatten", _image(net, 6)), 6 * 36, 4)


@CASES.case("Flatten", [6])
def flatten__behind(net: Net) -> Value:
    return net.dense(net.op("Flatten", _wide(net, 6), axis=-1), 6, 4)


@CASES.case("Squeeze", [7])
def squeeze(net: Net) -> Value:
    value = net.op("Unsqueeze", _wide(net, 7), net.const([0, 2]))
    return net.dense(net.op("Squeeze", value, net.const([0])), 7, 2)


@CASES.case("Squeeze", [7], opset=11)
def squeeze__attributes(net: Net) -> Value:
    value = net.op("Unsqueeze", _wide(net, 7), axes=[0, 2])
    return net.dense(net.op("Squeeze", value, axes=[0]), 7, 2)


@CASES.case("Unsqueeze", [7])
def unsqueeze(net: Net) -> Value:
    return net.dense(net.op("Unsqueeze", _wide(net, 7), net.const([1])), 7, 2)


@CASES.case("com.microsoft::ExpandDims", [7])
def expand_dims(net: Net) -> Value:
    value = net.op("com.microsoft::ExpandDims", _wide(net, 7), net.const(1, np.int32))
    return net.dense(net.typed(value, 2, 1, 3, 7), 7, 2)


@CASES.case("Transpose", [7])
def transpose(net: Net) -> Value:
    value = net.op("Transpose", _wide(net, 7), perm=[2, 0, 1])
    return net.op("MatMul", net.weight(4, 7), net.op("Flatten", value))


@CASES.case("Transpose", [7])
def transpose__reversed(net: Net) -> Value:
    return net.op("MatMul", net.weight(4, 7), net.op("Transpose", _wide(net, 7, 2)))


@CASES.case("Expand", [5, 7])
def expand(net: Net) -> Value:
    """Columns as they are, and copies: five of each, which the next weight tells apart."""
    value = net.op("Unsqueeze", _wide(net, 7), net.const([2]))
    value = net.op("Expand", value, net.const([2, 3, 5, 1]))
    return net.dense(net.op("Reshape", value, net.const([2, 3, 35])), 35, 2)


@CASES.case("Expand", [2, 3, 4])
def expand__shared_heads(net: Net) -> Value:
    """Keys of two heads, each for three query heads."""
    data = net.input(2, 4, 5)
    key = net.op("Reshape", net.dense(data, 5, 8), net.const([2, 4, 2, 1, 4]))
    key = net.op("Reshape", net.op("Expand", key, net.const([2, 4, 2, 3, 4])), net.const([2, 4, 6, 4]))
    query = net.op("Reshape", net.dense(data, 5, 24), net.const([2, 4, 6, 4]))
    rows, columns = net.op("Transpose", query, perm=[0, 2, 1, 3]), net.op("Transpose", key, perm=[0, 2, 3, 1])
    scores = net.op("MatMul", rows, columns)
    flat = net.op("Reshape", net.op("Transpose", scores, perm=[0, 2, 3, 1]), net.const([2, 4, 4, 6]))
    return net.dense(net.op("Tanh", flat), 6, 2)


@CASES.case("Tile", [2, 7])
def tile(net: Net) -> Value:
    return net.dense(net.op("Tile", _wide(net, 7), net.const([1, 1, 2])), 14, 3)


@CASES.case("ConstantOfShape", [7])
def constant_of_shape(net: Net) -> Value:
    return net.dense(net.op("Sub", _wide(net, 7), net.op("ConstantOfShape", net.const([2, 3, 7]))), 7, 2)


@CASES.case("ConstantOfShape", [7])
def constant_of_shape__measured(net: Net) -> Value:
    data = _wide(net, 7)
    return net.dense(net.op("Sub", data, net.op("ConstantOfShape", net.op("Shape", data))), 7, 2)


@CASES.case("Shape", [7])
def shape(net: Net) -> Value:
    """The number of columns is measured, and used as a size."""
    data = _wide(net, 7)
    columns = net.op("Gather", net.op("Shape", data), net.const([2]))
    flat = net.op("Reshape", data, net.op("Concat", net.const([-1]), columns, axis=0))
    return net.dense(flat, 7, 2)


@CASES.case("Shape", opset=15)
def shape__reckoned_with(net: Net) -> Value:
    """Divided by the root of the number of columns: these must stay."""
    data = _wide(net, 7)
    columns = net.op("Shape", data, start=-1)
    root = net.op("Sqrt", net.cast(columns, DataType.FLOAT32))
    return net.dense(net.op("Div", data, root), 7, 2)


@CASES.case("Size")
def size(net: Net) -> Value:
    data = _wide(net, 7)
    return net.dense(net.op("Div", data, net.cast(net.op("Size", data), DataType.FLOAT32)), 7, 2)


for _name in ("Range", "com.microsoft::Range"):

    @CASES.case(_name)
    def counted(net: Net, name: str = _name) -> Value:
        """The seventh column is multiplied by six, and so on: they cannot move."""
        data = _wide(net, 7)
        columns = net.op("Gather", net.op("Shape", data), net.const(2))
        numbers = net.typed(net.op(name, net.const(0), columns, net.const(1)), 7, dtype=DataType.INT64)
        return net.dense(net.op("Mul", data, net.cast(numbers, DataType.FLOAT32)), 7, 2)


@CASES.case("NonZero")
def non_zero(net: Net) -> Value:
    return net.cast(net.op("NonZero", net.dense(net.input(2, 5), 5, 7)), DataType.FLOAT32)


# ---- shapes that are computed --------------------------------------------------------------------------------------


@CASES.case("Reshape", [3, 3, 4, 4])
def reshape__shared_target(net: Net) -> Value:
    """Two ops are given the same computed shape, and end up with different sizes."""
    data = net.input(2, 3, 5)
    front = net.op("Slice", net.op("Shape", data), net.const([0]), net.const([2]))
    target = net.op("Concat", front, net.const([3, 4]), axis=0)
    left, right = (net.op("Reshape", net.op("Tanh", net.dense(data, 5, 12)), target) for _ in range(2))
    return net.op(
        "Add",
        net.op("Einsum", left, net.weight(3, 4, 2), equation="bshd,hdo->bso"),
        net.op("Einsum", right, net.weight(3, 4, 2), equation="bshd,hdo->bso"),
    )


@CASES.case("Reshape")
def reshape__divided(net: Net) -> Value:
    """The width of a head is the number of columns divided by three: neither may change."""
    data = _wide(net, 12)
    columns = net.op("Gather", net.op("Shape", data), net.const([2]))
    width = net.op("Div", columns, net.const([3]))
    target = net.op("Concat", net.const([2, 3, 3]), width, axis=0)
    return net.op("Einsum", net.op("Reshape", data, target), net.weight(3, 4, 2), equation="bshd,hdo->bso")


@CASES.case("Reshape", [4])
def reshape__multiplied(net: Net) -> Value:
    """Three copies of each column are counted as three times the columns: three stays, the columns may go."""
    data = _wide(net, 4)
    columns = net.op("Gather", net.op("Shape", data), net.const([2]))
    copies = net.op("Expand", net.op("Unsqueeze", data, net.const([3])), net.const([1, 1, 1, 3]))
    target = net.op("Concat", net.const([2, 3]), net.op("Mul", columns, net.const([3])), axis=0)
    return net.dense(net.op("Reshape", copies, target), 12, 2)


@CASES.case("Expand", [4, 5])
def expand__that_replaces_the_rest(net: Net) -> Value:
    """Where the shape is -1, one is put in its place: how exporters write an expansion."""
    data = net.op("Unsqueeze", _wide(net, 4), net.const([2]))
    front = net.op("Slice", net.op("Shape", data), net.const([0]), net.const([1]))
    wanted = net.op("Concat", front, net.const([-1, 5, 4]), axis=0)
    rest = net.op("Equal", wanted, net.const([-1] * 4))
    target = net.op("Where", rest, net.op("ConstantOfShape", net.const([4]), value=Tensor(np.array([1]))), wanted)
    return net.op("Einsum", net.op("Expand", data, target), net.weight(5, 4, 2), equation="bsrd,rdo->bso")


@CASES.case("Reshape", [3, 4])
def reshape__behind_an_op_that_inference_does_not_know(net: Net) -> Value:
    skip = net.op("com.microsoft::FastGelu", _wide(net, 12))
    value = net.op("Reshape", skip, net.const([0, 0, 3, -1]))
    return net.op("Einsum", value, net.weight(3, 4, 2), equation="bshd,hdo->bso")


@CASES.case("DepthToSpace", [3])
def depth_to_space(net: Net) -> Value:
    return net.conv(net.op("DepthToSpace", _image(net, 12), blocksize=2), 3, 4)


@CASES.case("DepthToSpace", [3])
def depth_to_space__column_first(net: Net) -> Value:
    return net.conv(net.op("DepthToSpace", _image(net, 12), blocksize=2, mode="CRD"), 3, 4)


@CASES.case("SpaceToDepth", [3])
def space_to_depth(net: Net) -> Value:
    return net.conv(net.op("SpaceToDepth", _image(net, 3), blocksize=2), 12, 4)


@CASES.case("SpaceToDepth", [3], opset=28, runs="reference")
def space_to_depth__column_first(net: Net) -> Value:
    return net.conv(net.op("SpaceToDepth", _image(net, 3), blocksize=2, mode="CRD"), 12, 4)


@CASES.case("Col2Im", [3])
def columns_to_image(net: Net) -> Value:
    columns = net.op("Relu", net.op("MatMul", net.weight(12, 5), net.input(2, 5, 9)))
    image = net.op("Col2Im", columns, net.const([4, 4]), net.const([2, 2]))
    return net.conv(image, 3, 4)


# ---- cut and joined ------------------------------------------------------------------------------------------------


@CASES.case("Concat", [3, 4, 6])
def concat(net: Net) -> Value:
    """Two branches beside each other, one of which is used a second time."""
    image = net.input(2, 3, 5, 5)
    left, right = (net.op("Relu", net.conv(image, 3, width)) for width in (4, 6))
    joined = net.conv(net.op("Relu", net.op("Concat", left, right, axis=1)), 10, 3)
    return net.conv(net.op("Concat", joined, left, axis=-3), 7, 2)


@CASES.case("Split", [3, 4])
def split(net: Net) -> Value:
    left, right = net.ops("Split", 2, _wide(net, 7), net.const([3, 4]), axis=-1)
    return net.op("Add", net.dense(left, 3, 2), net.dense(right, 4, 2))


@CASES.case("Split", [4, 4, 4])
def split__equal_parts_that_become_unequal(net: Net) -> list[Value]:
    parts = net.ops("Split", 3, _wide(net, 12), axis=2, num_outputs=3)
    return [net.dense(part, 4, 2) for part in parts]


@CASES.case("Split", [3, 4], opset=11)
def split__attribute(net: Net) -> Value:
    left, right = net.ops("Split", 2, _wide(net, 7), split=[3, 4], axis=2)
    return net.op("Add", net.dense(left, 3, 2), net.dense(right, 4, 2))


@CASES.case("Split", [6])
def split__gated(net: Net) -> Value:
    """Gates and values: the same neuron in both halves."""
    gate, value = net.ops("Split", 2, _wide(net, 12), net.const([6, 6]), axis=2)
    return net.dense(net.op("Mul", net.op("Sigmoid", gate), value), 6, 2)


@CASES.case("Split", [2])
def split__single_index(net: Net) -> Value:
    """A part of one index stays; the two beside it may go."""
    left, right = net.ops("Split", 2, _wide(net, 3), net.const([1, 2]), axis=2)
    return net.op("Add", net.op("Mul", net.dense(right, 2, 4), left), left)


@CASES.case("Slice", [2, 5])
def slice_(net: Net) -> Value:
    data = _wide(net, 7)
    front = net.op("Slice", data, net.const([0]), net.const([2]), net.const([2]))
    rest = net.op("Slice", data, net.const([0, 2]), net.const([3, 2**63 - 1]), net.const([1, 2]), net.const([1, 1]))
    return net.op("Add", net.dense(front, 2, 3), net.dense(rest, 5, 3))


@CASES.case("Slice", [2, 5], opset=9)
def slice__attributes(net: Net) -> Value:
    data = _wide(net, 7)
    front = net.op("Slice", data, starts=[0], ends=[2], axes=[2])
    rest = net.op("Slice", data, starts=[-5], ends=[2**31 - 1], axes=[2])
    return net.op("Add", net.dense(front, 2, 3), net.dense(rest, 5, 3))


@CASES.case("Slice", [4])
def slice__every_other(net: Net) -> Value:
    """Neighbours are paired: what lies at even places, and what lies at odd ones."""
    data = _wide(net, 8)
    even, odd = (
        net.op("Slice", data, net.const([start]), net.const([8]), net.const([2]), net.const([2])) for start in (0, 1)
    )
    return net.dense(net.op("Mul", even, odd), 4, 3)


@CASES.case("Slice", [6])
def slice__turned_halves(net: Net) -> Value:
    """Rotary positions: the second half, negated, before the first."""
    data = _wide(net, 12)
    first = net.op("Slice", data, net.const([0]), net.const([6]), net.const([2]))
    second = net.op("Slice", data, net.const([6]), net.const([12]), net.const([2]))
    turned = net.op("Concat", net.op("Neg", second), first, axis=2)
    return net.dense(net.op("Add", net.op("Mul", data, net.weight(12)), net.op("Mul", turned, net.weight(12))), 12, 3)


@CASES.case("Slice", [7])
def slice__computed_bound(net: Net) -> Value:
    """Where positions are cut is fed; the columns do not care."""
    end = net.op("Add", net.input(1, dtype=np.int64, most=1), net.const([2]))
    value = net.op("Slice", _wide(net, 7), net.const([0]), end, net.const([1]))
    return net.op("ReduceSum", net.dense(value, 7, 2), net.const([1]))


@CASES.case("Pad", [7])
def pad(net: Net) -> Value:
    """Two columns of ones before, one behind: they stay."""
    value = net.op("Pad", _wide(net, 7), net.const([0, 0, 2, 0, 1, 1]), net.const(1.0, np.float32))
    return net.dense(value, 10, 3)


@CASES.case("Pad", [6], opset=9)
def pad__attribute(net: Net) -> Value:
    return net.conv(net.op("Pad", _image(net, 6), pads=[0, 0, 1, 1, 0, 0, 1, 1]), 6, 2, 3)


@CASES.case("Pad", [7])
def pad__axes(net: Net) -> Value:
    value = net.op("Pad", _wide(net, 7), net.const([1, 0]), None, net.const([1]), mode="reflect")
    return net.dense(value, 7, 3)


@CASES.case("CenterCropPad", [7], opset=18)
def center_crop_pad(net: Net) -> Value:
    value = net.op("CenterCropPad", _wide(net, 7), net.const([4]), axes=[1])
    return net.dense(value, 7, 2)


@CASES.case("ReverseSequence", [7])
def reverse_sequence(net: Net) -> Value:
    lengths = net.input(2, dtype=np.int64, most=4)
    return net.dense(net.op("ReverseSequence", _wide(net, 7), lengths, time_axis=1, batch_axis=0), 7, 2)


@CASES.case("Compress", [7])
def compress(net: Net) -> Value:
    value = net.op("Compress", _wide(net, 7), net.input(3, dtype=np.bool_), axis=1)
    return net.op("ReduceSum", net.dense(value, 7, 2), net.const([1]))


# ---- indexed -------------------------------------------------------------------------------------------------------


@CASES.case("Gather", [7])
def gather__embedding(net: Net) -> Value:
    return net.dense(net.op("Gather", net.weight(11, 7), net.input(2, 3, dtype=np.int64, most=11)), 7, 2)


@CASES.case("Gather", [4, 5])
def gather__packed(net: Net) -> Value:
    """Queries, keys and values of four heads of five, picked one by one."""
    packed = net.op("Reshape", _wide(net, 60), net.const([2, 3, 3, 4, 5]))
    parts = [net.op("Gather", packed, net.const(index), axis=2) for index in range(3)]
    mixed = net.op("Mul", net.op("Add", parts[0], parts[1]), parts[2])
    return net.dense(net.op("Reshape", mixed, net.const([2, 3, 20])), 20, 2)


@CASES.case("Gather", [3, 4])
def gather__run(net: Net) -> Value:
    data = _wide(net, 7)
    front, rest = (net.op("Gather", data, net.const(list(which)), axis=2) for which in (range(3), range(-4, 0)))
    return net.op("Add", net.dense(front, 3, 2), net.dense(rest, 4, 2))


@CASES.case("GatherElements", [7])
def gather_elements(net: Net) -> Value:
    indices = net.const(np.arange(2 * 3 * 7).reshape(2, 3, 7) % 3)
    return net.dense(net.op("GatherElements", _wide(net, 7), indices, axis=1), 7, 2)


@CASES.case("GatherND", [7])
def gather_nd(net: Net) -> Value:
    indices = net.input(2, 4, 1, dtype=np.int64, most=3)
    return net.dense(net.op("GatherND", _wide(net, 7), indices, batch_dims=1), 7, 2)


@CASES.case("com.microsoft::GatherND", [7])
def gather_nd_of_contrib(net: Net) -> Value:
    value = net.op("com.microsoft::GatherND", _wide(net, 7), net.input(4, 2, dtype=np.int64, most=2))
    return net.dense(net.typed(value, 4, 7), 7, 2)


@CASES.case("ScatterND", [7])
def scatter_nd(net: Net) -> Value:
    where, updates = net.const([[0, 1], [1, 2]]), _wide(net, 7, 2)
    return net.dense(net.op("ScatterND", _wide(net, 7), where, updates), 7, 2)


@CASES.case("ScatterElements", [7], opset=16)
def scatter_elements(net: Net) -> Value:
    indices = net.const(np.arange(2 * 2 * 7).reshape(2, 2, 7) % 3)
    value = net.op("ScatterElements", _wide(net, 7), indices, _wide(net, 7, 2, 2), axis=1, reduction="add")
    return net.dense(value, 7, 2)


@CASES.case("Scatter", [7], opset=9)
def scatter(net: Net) -> Value:
    indices = net.const(np.arange(2 * 7).reshape(2, 1, 7) % 3)
    return net.dense(net.op("Scatter", _wide(net, 7), indices, _wide(net, 7, 2, 1), axis=1), 7, 2)


@CASES.case("TensorScatter", [7], opset=24)
def tensor_scatter(net: Net) -> Value:
    where = net.input(2, dtype=np.int64, most=2)
    return net.dense(net.op("TensorScatter", _wide(net, 7), _wide(net, 7, 2, 1), where), 7, 2)


@CASES.case("OneHot", [7])
def one_hot(net: Net) -> Value:
    """Columns of a table by a product; which row there is cannot change."""
    hot = net.op("OneHot", net.input(2, 3, dtype=np.int64, most=11), net.const([11]), net.const([0.0, 1.0], np.float32))
    return net.dense(net.op("MatMul", hot, net.weight(11, 7)), 7, 2)


@CASES.case("OneHot", [7])
def one_hot__of_the_best(net: Net) -> Value:
    """Ones where each column is largest; the positions are fed, the columns do not care."""
    best = net.op("ArgMax", _wide(net, 7), axis=1, keepdims=0)
    hot = net.op("OneHot", best, net.const([3]), net.const([0.0, 1.0], np.float32))
    return net.op("Einsum", hot, net.weight(7, 2), equation="bcp,co->bpo")


@CASES.case("Multinomial", [6])
def multinomial(net: Net) -> Value:
    """One sample is drawn by row; the rows are columns of a weight."""
    rows = net.op("MatMul", net.weight(6, 3), net.input(3, 5))
    drawn = net.cast(net.op("Multinomial", rows, sample_size=2, seed=1.0), DataType.FLOAT32)
    return net.op("MatMul", net.weight(2, 6), net.op("Mul", drawn, net.const(0.0, np.float32)))


@CASES.case("Trilu", [4])
def trilu(net: Net) -> Value:
    maps = net.op("MatMul", net.weight(4, 5, 2), net.input(2, 6))
    return net.op("Einsum", net.op("Trilu", maps, upper=0), net.weight(4, 3), equation="hij,hk->kij")


@CASES.case("com.microsoft::Trilu", [4])
def trilu_of_contrib(net: Net) -> Value:
    maps = net.op("MatMul", net.weight(4, 5, 2), net.input(2, 6))
    return net.op("Einsum", net.op("com.microsoft::Trilu", maps, upper=0), net.weight(4, 3), equation="hij,hk->kij")


@CASES.case("EyeLike", [7])
def eye_like(net: Net) -> Value:
    """The identity is added to a matrix of weights."""
    square = net.op("Add", net.weight(7, 7), net.op("EyeLike", net.weight(7, 7)))
    return net.dense(net.op("MatMul", _wide(net, 7), square), 7, 2)


@CASES.case("Det", [4])
def determinant(net: Net) -> Value:
    maps = net.op("MatMul", net.weight(4, 3, 2), net.input(2, 3))
    found = net.op("Det", net.op("Add", maps, net.weight(3, 3)))
    return net.op("MatMul", net.weight(2, 4), net.op("Unsqueeze", found, net.const([1])))


@CASES.case("com.microsoft::Inverse", [4])
def inverse(net: Net) -> Value:
    maps = net.op("Add", net.op("MatMul", net.weight(4, 3, 2), net.input(2, 3)), net.weight(3, 3))
    return net.op("Einsum", net.op("com.microsoft::Inverse", maps), net.weight(4, 2), equation="hij,hk->kij")
