"""Graphs for reductions, norms, and what moves over positions in space."""

from __future__ import annotations

import numpy as np
from helpers.operator_net import Cases, Net

from secateur.ir import DataType, Value

CASES = Cases()


def _wide(net: Net, width: int, *front: int) -> Value:
    return net.op("Relu", net.dense(net.input(*(front or (2, 3)), 5), 5, width))


def _image(net: Net, channels: int, size: int = 6) -> Value:
    return net.op("Relu", net.conv(net.input(2, 3, size, size), 3, channels))


# ---- reductions ----------------------------------------------------------------------------------------------------


def _reduced(op: str, opset: int) -> object:
    """Over positions: columns pass; then over columns."""

    def build(net: Net) -> list[Value]:
        data = net.op("Add", _wide(net, 7, 2, 1), net.weight(3, 7, low=0.5))
        rows, columns = (_reduce(net, op, data, axis) for axis in (1, 2))
        return [net.dense(rows, 7, 2), net.dense(net.op("Transpose", columns, perm=[0, 2, 1]), 3, 2)]

    def _reduce(net: Net, op: str, data: Value, axis: int) -> Value:
        if opset < 18 and not (op == "ReduceSum" and opset >= 13):
            return net.op(op, data, axes=[axis], keepdims=axis - 1)
        return net.op(op, data, net.const([axis]), keepdims=axis - 1)

    return build


for _name in "ReduceSum ReduceSumSquare ReduceL1 ReduceL2 ReduceLogSum".split():
    CASES.add(_name, _reduced(_name, 18), [3, 7], opset=18)
    CASES.add(_name, _reduced(_name, 11), [3, 7], opset=11, name="opset 11")
for _name in "ReduceMean ReduceMax ReduceMin ReduceProd ReduceLogSumExp".split():
    CASES.add(_name, _reduced(_name, 18), [], [3, 7], opset=18)
    CASES.add(_name, _reduced(_name, 11), [], [3, 7], opset=11, name="opset 11")


@CASES.case("ReduceMean", [7])
def reduce_mean__positions(net: Net) -> Value:
    return net.dense(net.op("ReduceMean", _wide(net, 7), net.const([1])), 7, 2)


@CASES.case("ReduceSum", [7])
def reduce_sum__nothing(net: Net) -> Value:
    return net.dense(net.op("ReduceSum", _wide(net, 7), noop_with_empty_axes=1), 7, 2)


@CASES.case("ReduceSum", [7])
def reduce_sum__everything(net: Net) -> Value:
    return net.op("ReduceSum", _wide(net, 7), keepdims=0)


for _name in ("ArgMax", "ArgMin"):

    @CASES.case(_name, [7])
    def arg__of_positions(net: Net, name: str = _name) -> Value:
        """Which of the positions: these stay (they are fed), the columns do not care."""
        found = net.op(name, _wide(net, 7), axis=1, keepdims=0)
        return net.dense(net.cast(found, DataType.FLOAT32), 7, 2)

    @CASES.case(_name)
    def arg__of_columns(net: Net, name: str = _name) -> Value:
        """The number of a column leaves the model: columns stay."""
        return net.cast(net.op(name, _wide(net, 7), axis=2), DataType.FLOAT32)

    @CASES.case(_name, [5], [7])
    def arg__that_picks(net: Net, name: str = _name) -> Value:
        """The best of seven columns chooses a row of seven: a router."""
        best = net.op(name, _wide(net, 7), axis=2, keepdims=0)
        return net.dense(net.op("Gather", net.weight(7, 5), best), 5, 2)


@CASES.case("TopK", [7])
def top_k(net: Net) -> Value:
    best, _ = net.ops("TopK", 2, _wide(net, 7), net.const([2]), axis=1)
    return net.dense(net.op("ReduceSum", best, net.const([1])), 7, 2)


@CASES.case("TopK", [7], opset=9)
def top_k__attribute(net: Net) -> Value:
    best, _ = net.ops("TopK", 2, _wide(net, 7), k=2, axis=1)
    return net.dense(best, 7, 2)


@CASES.case("TopK")
def top_k__whose_positions_leave(net: Net) -> list[Value]:
    best, where = net.ops("TopK", 2, _wide(net, 7), net.const([2]))
    return [best, where]


@CASES.case("TopK", [5], [8])
def top_k__routed_experts(net: Net) -> Value:
    """The best two of eight experts: shares scattered over all, or picked, or found as ones."""
    data = net.input(3, 4)
    logits = net.dense(data, 4, 8)
    shares, where = net.ops("TopK", 2, net.op("Softmax", logits), net.const([2]))
    zeros = net.op("Mul", logits, net.const(0.0, np.float32))
    spread = net.op("ScatterElements", zeros, where, shares, axis=1)
    experts = net.op("Einsum", data, net.weight(8, 4, 5), equation="ti,eio->teo")
    mixed = net.op("Einsum", net.op("Relu", experts), spread, equation="teo,te->to")
    hot = net.op("OneHot", where, net.const([8]), net.const([0.0, 1.0], np.float32))
    picked = net.op("GatherElements", logits, where, axis=1)
    bias = net.op("Einsum", hot, net.weight(8, 5), equation="tke,eo->to")
    return net.dense(net.op("Add", net.op("Add", mixed, bias), net.op("ReduceSum", picked, net.const([1]))), 5, 2)


for _name in ("Softmax", "LogSoftmax", "Hardmax"):

    @CASES.case(_name, [3, 7], [11])
    def soft(net: Net, name: str = _name) -> Value:
        """Eleven columns share one; three maps do not care."""
        maps = net.op("Einsum", _wide(net, 7), net.weight(3, 7, 11), equation="bsi,hio->bhso")
        return net.op("Einsum", net.op(name, maps), net.weight(3, 11, 2), equation="bhso,hop->bsp")

    @CASES.case(_name, [7], [3, 11], opset=11)
    def soft__opset_11(net: Net, name: str = _name) -> Value:
        """Everything behind the first axis shares one."""
        maps = net.op("MatMul", net.op("Unsqueeze", _wide(net, 7, 2, 1), axes=[1]), net.weight(3, 7, 11))
        turned = net.dense(net.op("Transpose", net.op(name, maps, axis=1), perm=[0, 2, 3, 1]), 3, 2)
        return net.dense(net.op("Transpose", turned, perm=[0, 1, 3, 2]), 11, 4)


@CASES.case("CumSum", [7])
def cumulative_sum(net: Net) -> Value:
    """Along the columns: what is masked adds nothing."""
    data = net.op("MatMul", net.weight(2, 3, 2), _wide(net, 7, 2, 2))
    return net.dense(net.op("CumSum", data, net.const(2), exclusive=1, reverse=1), 7, 2)


@CASES.case("CumProd", [], [7], opset=26)
def cumulative_product(net: Net) -> Value:
    return net.dense(net.op("CumProd", _wide(net, 7), net.const(2)), 7, 2)


@CASES.case("LpNormalization", [7])
def norm_of_length_one(net: Net) -> Value:
    return net.dense(net.op("LpNormalization", _wide(net, 7), p=2), 7, 2)


@CASES.case("MeanVarianceNormalization", [6])
def mean_variance__positions(net: Net) -> Value:
    image = net.conv(net.input(2, 3, 6, 6), 3, 6)
    return net.conv(net.op("MeanVarianceNormalization", image), 6, 2)


@CASES.case("MeanVarianceNormalization", [], [6])
def mean_variance__channels(net: Net) -> Value:
    return net.conv(net.op("MeanVarianceNormalization", _image(net, 6), axes=[1, 2, 3]), 6, 2)


@CASES.case("LRN", [], [6])
def local_response(net: Net) -> Value:
    return net.conv(net.op("LRN", _image(net, 6), size=3), 6, 2)


# ---- norms ---------------------------------------------------------------------------------------------------------


def _statistics(net: Net, channels: int) -> list[Value]:
    return [net.weight(channels, low=0.5), net.weight(channels), net.weight(channels), net.weight(channels, low=0.5)]


@CASES.case("BatchNormalization", [6])
def batch_norm(net: Net) -> Value:
    return net.conv(net.op("BatchNormalization", _image(net, 6), *_statistics(net, 6)), 6, 2)


@CASES.case("BatchNormalization", [6], opset=7)
def batch_norm__opset_7(net: Net) -> Value:
    return net.conv(net.op("BatchNormalization", _image(net, 6), *_statistics(net, 6)), 6, 2)


@CASES.case("BatchNormalization", [6], opset=15)
def batch_norm__training(net: Net) -> list[Value]:
    """The statistics come out too, channel by channel."""
    made, mean, spread = net.ops("BatchNormalization", 3, _image(net, 6), *_statistics(net, 6), training_mode=1)
    return [net.conv(made, 6, 2), *(net.op("MatMul", one, net.weight(6, 2)) for one in (mean, spread))]


@CASES.case("InstanceNormalization", [6])
def instance_norm(net: Net) -> Value:
    return net.conv(net.op("InstanceNormalization", _image(net, 6), net.weight(6), net.weight(6)), 6, 2)


@CASES.case("InstanceNormalization", [4], [7])
def instance_norm__over_columns(net: Net) -> Value:
    """Columns of a linear map are its positions here."""
    rows = net.op("MatMul", net.weight(2, 4, 3), _wide(net, 7))
    made = net.op("InstanceNormalization", rows, net.weight(4), net.weight(4))
    return net.dense(net.op("Transpose", net.dense(made, 7, 2), perm=[0, 2, 1]), 4, 3)


for _name in ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"):

    @CASES.case(_name, [], [7], opset=23)
    def layer_norm(net: Net, name: str = _name) -> Value:
        extra = [net.weight(7)] if name == "LayerNormalization" else []
        return net.dense(net.op(name, _wide(net, 7), net.weight(7), *extra), 7, 2)


@CASES.case("LayerNormalization", [4], [7])
def layer_norm__statistics(net: Net) -> list[Value]:
    """Mean and deviation come out, with a one for the columns; rows of a weight do not care."""
    data = net.op("MatMul", net.weight(2, 4, 3), _wide(net, 7))
    made, mean, spread = net.ops("LayerNormalization", 3, data, net.weight(7), net.weight(7))
    turned = [net.op("Transpose", one, perm=[0, 2, 1]) for one in (net.dense(made, 7, 2), mean, spread)]
    return [net.dense(one, 4, 3) for one in turned]


@CASES.case("LayerNormalization", [], [3, 7])
def layer_norm__two_axes(net: Net) -> Value:
    data = net.op("MatMul", net.weight(2, 3, 4), _wide(net, 7, 2, 4))
    made = net.op("LayerNormalization", data, net.weight(3, 7), axis=1)
    return net.dense(net.op("MatMul", net.weight(2, 3), made), 7, 2)


for _name in ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"):

    @CASES.case(f"com.microsoft::{_name}", [], [7])
    def skip_norm(net: Net, name: str = _name) -> list[Value]:
        """Two linear maps, a bias; the sum comes out too."""
        data, beta = net.input(2, 3, 5), [net.weight(7)] if name == "SkipLayerNormalization" else []
        inputs = [net.dense(data, 5, 7), net.dense(data, 5, 7), net.weight(7), *beta, net.weight(7)]
        from secateur.ir.build import emit

        op = emit(net.graph, f"com.microsoft::{name}", inputs, outputs=["made", None, None, "sum"])
        made, total = op.outputs[0], op.outputs[3]
        assert made is not None
        assert total is not None
        return [net.dense(made, 7, 2), net.dense(total, 7, 2)]


@CASES.case("com.microsoft::EmbedLayerNormalization", [], [8])
def embedding_norm(net: Net) -> Value:
    words = net.cast(net.input(2, 3, dtype=np.int64, most=9), DataType.INT32)
    segments = net.const([[0, 1, 1]] * 2, np.int32)
    tables = [net.weight(9, 8), net.weight(4, 8), net.weight(2, 8)]
    made = net.ops("com.microsoft::EmbedLayerNormalization", 2, words, segments, *tables, net.weight(8), net.weight(8))
    return net.dense(made[0], 8, 2)


@CASES.case("GroupNormalization", [3], [4])
def group_norm(net: Net) -> Value:
    """Three groups of four channels: groups are exact, channels of a group are not."""
    return net.conv(net.op("GroupNormalization", _image(net, 12), net.weight(12), net.weight(12), num_groups=3), 12, 2)


@CASES.case("GroupNormalization", [3], [4], opset=18)
def group_norm__opset_18(net: Net) -> Value:
    """A scale for each group."""
    return net.conv(net.op("GroupNormalization", _image(net, 12), net.weight(3), net.weight(3), num_groups=3), 12, 2)


@CASES.case("com.microsoft::GroupNorm", [3], [4], runs="")
def group_norm_of_diffusion(net: Net) -> Value:
    image = net.op("Transpose", _image(net, 12), perm=[0, 2, 3, 1])
    made = net.op("com.microsoft::GroupNorm", image, net.weight(12), net.weight(12), groups=3, activation=1)
    return net.dense(made, 12, 2)


@CASES.case("com.microsoft::SkipGroupNorm", [3], [4], runs="")
def skip_group_norm(net: Net) -> list[Value]:
    image = net.op("Transpose", _image(net, 12), perm=[0, 2, 3, 1])
    skip = net.dense(net.input(2, 5), 5, 12)
    inputs = [image, net.weight(12), net.weight(12), skip, net.weight(12)]
    made = net.ops("com.microsoft::SkipGroupNorm", 2, *inputs, groups=3, activation=1)
    return [net.dense(one, 12, 2) for one in made]


# ---- positions in space --------------------------------------------------------------------------------------------


def _pooled(op: str, **attributes: object) -> object:
    def build(net: Net) -> Value:
        return net.conv(net.op(op, _image(net, 6), **attributes), 6, 2)

    return build


for _name in ("MaxPool", "AveragePool", "LpPool"):
    CASES.add(_name, _pooled(_name, kernel_shape=[2, 2], strides=[2, 2]), [6])
for _name in ("GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"):
    CASES.add(_name, _pooled(_name), [6])


@CASES.case("MaxPool")
def max_pool__positions(net: Net) -> list[Value]:
    """Positions count channels: these stay."""
    made, where = net.ops("MaxPool", 2, _image(net, 6), kernel_shape=[2, 2], strides=[2, 2])
    return [net.conv(made, 6, 2), where]


@CASES.case("MaxUnpool", [5])
def max_unpool(net: Net) -> Value:
    made, where = net.ops("MaxPool", 2, _image(net, 6), kernel_shape=[2, 2], strides=[2, 2])
    back = net.op("MaxUnpool", made, where, kernel_shape=[2, 2], strides=[2, 2])
    return net.conv(net.op("Relu", net.conv(back, 6, 5)), 5, 2)


@CASES.case("com.microsoft::NhwcMaxPool", [6], runs="")
def pool_with_channels_last(net: Net) -> Value:
    image = net.cast(net.op("Transpose", _image(net, 6), perm=[0, 2, 3, 1]), DataType.INT8)
    made = net.op("com.microsoft::NhwcMaxPool", image, kernel_shape=[2, 2])
    return net.dense(net.cast(made, DataType.FLOAT32), 6, 2)


@CASES.case("Resize", [6])
def resize(net: Net) -> Value:
    scales = net.const([1, 1, 2, 2], np.float32)
    return net.conv(net.op("Resize", _image(net, 6), None, scales, mode="nearest"), 6, 2)


@CASES.case("Resize", [6])
def resize__sizes(net: Net) -> Value:
    made = net.op("Resize", _image(net, 6), None, None, net.const([2, 6, 9, 9]), mode="linear")
    return net.conv(made, 6, 2)


@CASES.case("Resize", [6], opset=18)
def resize__axes(net: Net) -> Value:
    made = net.op("Resize", _image(net, 6), None, None, net.const([9, 9]), mode="cubic", axes=[2, 3])
    return net.conv(made, 6, 2)


@CASES.case("Resize", [6], opset=10)
def resize__opset_10(net: Net) -> Value:
    return net.conv(net.op("Resize", _image(net, 6), net.const([1, 1, 2, 2], np.float32)), 6, 2)


@CASES.case("Resize", [6])
def resize__sizes_measured_and_spelled(net: Net) -> Value:
    image = _image(net, 6)
    front = net.op("Slice", net.op("Shape", image), net.const([0]), net.const([1]))
    sizes = net.op("Concat", front, net.const([6, 9, 9]), axis=0)
    return net.conv(net.op("Resize", image, None, None, sizes), 6, 2)


@CASES.case("Resize")
def resize__channels(net: Net) -> Value:
    """Twice the channels by interpolation."""
    made = net.op("Resize", _image(net, 6), None, net.const([1, 2, 1, 1], np.float32), mode="linear")
    return net.conv(made, 12, 2)


@CASES.case("Upsample", [6], opset=9)
def upsample(net: Net) -> Value:
    return net.conv(net.op("Upsample", _image(net, 6), net.const([1, 1, 2, 2], np.float32)), 6, 2)


@CASES.case("Upsample", [6], opset=7)
def upsample__attribute(net: Net) -> Value:
    return net.conv(net.op("Upsample", _image(net, 6), scales=[1.0, 1.0, 2.0, 2.0]), 6, 2)


for _name in ("GridSample", "com.microsoft::GridSample"):

    @CASES.case(_name, [6])
    def grid_sample(net: Net, name: str = _name) -> Value:
        made = net.op(name, _image(net, 6), net.input(2, 4, 5, 2))
        return net.conv(net.typed(made, 2, 6, 4, 5), 6, 2)


@CASES.case("AffineGrid", [6])
def affine_grid(net: Net) -> Value:
    """The positions of an image come out of a linear map; the image's channels do not care."""
    grid = net.op("AffineGrid", net.input(2, 2, 3), net.const([2, 6, 4, 4]))
    return net.conv(net.op("GridSample", _image(net, 6), grid), 6, 2)


@CASES.case("RoiAlign", [6])
def roi_align(net: Net) -> Value:
    regions, which = net.const([[0, 0, 4, 4], [1, 1, 5, 5]], np.float32), net.const([0, 1])
    made = net.op("RoiAlign", _image(net, 6), regions, which, output_height=2, output_width=2)
    return net.conv(made, 6, 2)


@CASES.case("MaxRoiPool", [6])
def max_roi_pool(net: Net) -> Value:
    regions = net.const([[0, 0, 0, 4, 4], [1, 1, 1, 5, 5]], np.float32)
    return net.conv(net.op("MaxRoiPool", _image(net, 6), regions, pooled_shape=[2, 2]), 6, 2)
