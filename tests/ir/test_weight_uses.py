"""Which constant an op sums over, and along which of its own axes, whatever lies between."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.graphs import Net
from helpers.zoo import zoo
from hypothesis import given
from hypothesis import strategies as st

from secateur.ir import DataType, Graph, Header, Tensor, Value
from secateur.ir.build import emit
from secateur.ir.masked import Bits, masked
from secateur.ir.onnx_read import load
from secateur.ir.rules.known import Known
from secateur.ir.rules.weight_reading import reading
from secateur.ir.rules.weights import WeightUse, strangers, weight_use, weight_uses
from secateur.ir.sparsity import GROUPS, sparsity_of

Array = np.ndarray[Any, Any]


def _net(opset: int = 20) -> Net:
    return Net(
        "weights", graph=Graph("weights", header=Header(ir_version=10, opsets=(("", opset), ("com.microsoft", 1))))
    )


def _only(graph: Graph) -> WeightUse:
    (use,) = weight_uses(Known(graph))
    return use


@st.composite
def _chains(draw: st.DrawFn) -> tuple[Net, Value, Array]:
    """A constant of distinct numbers behind random ops, and what comes out by numpy."""
    net = _net()
    shape = draw(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=4))
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(np.float32)
    value = net.constant("w", array)
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["Transpose", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Identity"]))
        attributes: dict[str, Any] = {}
        extra: list[int] | None = None
        if kind == "Transpose":
            order = draw(st.permutations(range(array.ndim)))
            attributes, array = {"perm": order}, array.transpose(order)
        elif kind == "Reshape":
            at = draw(st.integers(0, array.ndim))
            extra = [*array.shape[:at], -1, *([1] if draw(st.booleans()) else [])]
            array = array.reshape(extra)
        elif kind == "Unsqueeze":
            extra = [draw(st.integers(0, array.ndim))]
            array = np.expand_dims(array, extra[0])
        elif kind == "Squeeze":
            array = array.squeeze()
        elif kind == "Flatten":
            axis = draw(st.integers(0, array.ndim))
            attributes, array = {"axis": axis}, array.reshape(int(np.prod(array.shape[:axis], dtype=int)), -1)
        given = [] if extra is None else [net.constant("given", np.array(extra, np.int64))]
        value = emit(net.graph, kind, [value, *given], attributes).output
    return net, value, array


@given(_chains())
def test_axes_behind_a_chain_are_those_of_the_constant(case: tuple[Net, Value, Array]) -> None:
    net, value, seen = case
    found = reading(Known(net.graph), value)
    if found is None:
        return
    assert found.shape == seen.shape
    stored = found.tensor.numpy()
    named = [axis for axes in found.axes for axis in axes]
    assert len(set(named)) == len(named)
    left = [axis for axis in range(stored.ndim) if axis not in named]
    assert all(stored.shape[axis] == 1 for axis in left)
    np.testing.assert_array_equal(stored.transpose([*named, *left]).reshape(seen.shape), seen)


@pytest.mark.parametrize(
    ("shape", "target", "axes"),
    [
        ((4, 8), [4, 8, 1, 1], ((0,), (1,), (), ())),
        ((4, 2, 8), [8, 8], ((0, 1), (2,))),
        ((1, 4, 1, 8), [4, 8], ((1,), (3,))),
        ((4, 8), [-1, 8], ((0,), (1,))),
        ((4, 8), [0, 0], ((0,), (1,))),
        ((4, 8), [8, 4], None),
        ((32,), [4, 8], None),
    ],
)
def test_reshapes_that_keep_axes(shape: tuple[int, ...], target: list[int], axes: Any) -> None:
    net = _net()
    value = net.op("Reshape", net.weight("w", *shape), net.constant("to", np.array(target, np.int64)))
    found = reading(Known(net.graph), value)
    assert (None if found is None else found.axes) == axes


@pytest.mark.parametrize("op", ["Relu", "Neg", "Softmax"])
def test_what_computes_is_not_looked_through(op: str) -> None:
    net = _net()
    made = net.op("MatMul", net.input("x", 4, 8), net.op(op, net.weight("w", 8, 4)))
    assert not list(weight_uses(Known(net.done((made, [4, 4])))))


def test_codes_behind_a_dequantizer_are_the_weight() -> None:
    net = _net()
    codes = net.constant("codes", np.ones((16, 8), np.int8))
    real = net.op("DequantizeLinear", codes, net.constant("s", np.ones(16, np.float32)), axis=0)
    made = net.op("Gemm", net.input("x", 4, 8), real, transB=1)
    use = _only(net.done((made, [4, 16])))
    assert (use.weight.name, use.tensor.dtype, use.produced, use.contracted) == ("codes", DataType.INT8, 0, 1)
    assert [op.op_type for op in use.chain] == ["DequantizeLinear"]
    assert weight_use(Known(net.graph), use.op) is None


def test_plain_weights_are_those_that_passes_change_in_place() -> None:
    net = _net()
    x, weight = net.input("x", 4, 8), net.weight("w", 8, 8)
    direct = net.op("MatMul", x, weight)
    turned = net.op("MatMul", direct, net.op("Transpose", weight, perm=[1, 0]))
    graph = net.done((turned, [4, 8]))
    known = Known(graph)
    one, other = weight_uses(known)
    assert (one.is_plain, one.contracted, other.is_plain, other.contracted) == (True, 0, False, 1)
    assert [weight_use(known, use.op) is not None for use in (one, other)] == [True, False]
    assert strangers(graph, one.weight, [one, other]) == []
    assert len(strangers(graph, one.weight, [one])) == len(strangers(graph, one.weight, [other])) == 1


def test_strangers_are_whoever_reads_on_the_way() -> None:
    net = _net()
    turned = net.op("Transpose", net.weight("w", 4, 8))
    made = net.op("MatMul", net.input("x", 3, 8), turned)
    other = net.op("Relu", turned)
    use = _only(net.done((made, [3, 4]), (other, [8, 4]), (turned, [8, 4])))
    assert [name.partition(" ")[0] for name in strangers(net.graph, use.weight, [use])] == ["Relu", "the"]


def test_stacked_weights() -> None:
    net = _net()
    use = _only(net.done((net.op("MatMul", net.input("x", 3, 6, 8), net.weight("w", 3, 8, 4)), [3, 6, 4])))
    assert (use.batch, use.contracted, use.produced, use.slabs, use.outputs, use.inputs) == ((0,), 1, 2, 3, 4, 8)
    assert (use.data_batch, use.output_batch, use.has_samples_first) == (0, 0, False)


@pytest.mark.parametrize(
    ("equation", "shape", "found"),
    [
        ("bsd,dk->bsk", (8, 4), (0, 1)),
        ("bsd,kd->bsk", (4, 8), (1, 0)),
        ("...d,dk->...k", (8, 4), (0, 1)),
        ("bsd,dhk->bshk", (8, 2, 2), (0, 1)),
        ("bsd,sd->bs", (5, 8), None),  # no outputs of its own
        ("bsd,dk->bk", (8, 4), None),  # a sum over rows
        ("bsd,d->bs", (8,), None),
        ("bsd,bsk->dk", (2, 5, 4), None),  # two axes summed
    ],
)
def test_einsums_that_are_products(equation: str, shape: tuple[int, ...], found: tuple[int, int] | None) -> None:
    net = _net()
    net.op("Einsum", net.input("x", 2, 5, 8), net.weight("w", *shape), equation=equation)
    uses = list(weight_uses(Known(net.graph)))
    assert [(use.contracted, use.produced) for use in uses] == ([] if found is None else [found])


def test_ops_with_weights_inside() -> None:
    net = _net()
    x = net.input("x", 2, 5, 8)
    net.op("com.microsoft::Attention", x, net.weight("qkv", 8, 24), None, num_heads=2)
    net.op("LSTM", x, net.weight("W", 1, 16, 8), net.weight("R", 1, 16, 4), hidden_size=4)
    net.op(
        "com.microsoft::MoE", x, net.input("r", 10, 3), net.weight("up", 3, 16, 8), None, net.weight("down", 3, 8, 16)
    )
    net.op("com.microsoft::FusedMatMul", x, net.weight("fused", 4, 8), transB=1)
    scales = net.constant("scale", np.float32(1)), net.constant("zero", np.int8(0))
    codes = net.input("codes", 2, 8, 5, dtype=DataType.INT8)
    net.op("QLinearMatMul", net.constant("left", np.ones((4, 8), np.int8)), *scales, codes, *scales, *scales)
    found = {use.weight.name: (use.produced, use.contracted, use.slabs) for use in weight_uses(Known(net.graph))}
    assert found == {
        "qkv": (1, 0, 1),
        "W": (1, 2, 1),
        "R": (1, 2, 1),
        "up": (1, 2, 3),
        "down": (1, 2, 3),
        "fused": (0, 1, 1),
        "left": (0, 1, 1),
    }
    assert {use.data.name for use in weight_uses(Known(net.graph))} == {"x", "codes"}


def test_products_of_hidden_ranks_are_found_in_a_real_model() -> None:
    graph = zoo("small")["llama-fused"]()
    uses = list(weight_uses(Known(graph)))
    constants = [op for op in graph.ops() if op.op_type == "MatMul" and graph.constant(op.input(1)) is not None]
    assert constants and {use.op for use in uses} >= set(constants)


def _naive(array: Array, axis: int, group: int) -> int:
    lines = np.moveaxis(array != 0, axis, -1).reshape(-1, array.shape[axis] // group, group)
    return int(lines.sum(-1).max())


@given(st.data())
def test_counts_of_neighbours_are_those_of_the_definition(data: st.DataObject) -> None:
    transposed = data.draw(st.booleans())
    groups = data.draw(st.sampled_from([1, 1, 2]))
    size, other = data.draw(st.sampled_from([3, 4, 8, 16, 24])), data.draw(st.sampled_from([1, 4, 6]))
    shape = (groups * size, other, 3, 2) if transposed else (groups * other, size, 3, 2)
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    array = (random.normal(size=shape) * (random.random(shape) < data.draw(st.sampled_from([0.1, 0.3, 0.8])))).astype(
        "f4"
    )
    net = _net()
    op = "ConvTranspose" if transposed else "Conv"
    net.op(op, net.input("x", 1, groups * size, 9, 9), net.constant("w", array), group=groups)
    use = _only(net.graph)
    found = sparsity_of(use)
    assert found.zeros == pytest.approx(float((array == 0).mean()))
    assert found.size == size
    for group in (*GROUPS, 3, 6, 12):
        if size % group == 0:
            assert found.most_of(group) == _naive(array, use.contracted, group) or found.zeros * 16 < 1


@pytest.mark.parametrize(
    "dtype", [DataType.FLOAT16, DataType.BFLOAT16, DataType.FLOAT8E4M3FN, DataType.INT8, DataType.INT4]
)
def test_zeros_of_narrow_types_negative_ones_among_them(dtype: DataType) -> None:
    array = np.tile(np.array([0.0, -1, 1, -0.0]), (8, 4)).astype(dtype.numpy)
    net = _net()
    codes = net.graph.add_constant("w", Tensor(array, dtype))
    value = net.op("DequantizeLinear", codes, net.constant("s", np.float32(1))) if dtype.short[0] == "i" else codes
    net.op("Gemm", net.input("x", 3, 16), value, transB=1)
    found = sparsity_of(_only(net.graph))
    assert (found.zeros, found.pattern) == (0.5, "2:4")


@given(st.lists(st.integers(1, 5), max_size=3), st.integers(0, 99))
def test_a_masked_tensor_is_its_numbers_times_the_mask(shape: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    array = random.normal(size=shape).astype(np.float32)
    array.reshape(-1)[:1] = np.nan
    stays = random.random(shape) < 0.5
    bits = Bits.of(stays)
    np.testing.assert_array_equal(bits.unpacked(), stays)
    made = masked(Tensor(array), bits)
    np.testing.assert_array_equal(made.numpy(), np.where(stays, array, 0))


def test_a_masked_tensor_stays_in_its_file(tmp_path: Any) -> None:
    net = _net()
    made = net.op("MatMul", net.input("x", 4, 600), net.weight("w", 600, 700))
    net.done((made, [4, 700])).save(tmp_path / "dense.onnx", external_data=True)
    graph = load(tmp_path / "dense.onnx")
    before = graph["w"].const
    assert before is not None
    stays = np.random.default_rng(0).random(before.shape) < 0.5
    expected = np.where(stays, before.numpy(), 0)
    graph["w"].set_const(masked(before, Bits.of(stays)))
    assert graph["w"].const.is_mapped and not graph["w"].const.equals(before)
    # Over the file that its own numbers still lie in.
    graph.save(tmp_path / "dense.onnx", external_data=True)
    np.testing.assert_array_equal(load(tmp_path / "dense.onnx")["w"].const.numpy(), expected)
    np.testing.assert_array_equal(graph["w"].const.numpy(), expected)
    assert graph["w"].const.equals(Tensor(expected))
    assert graph["w"].const.digest == Tensor(expected).digest
