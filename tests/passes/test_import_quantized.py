"""`import-quantized`: every rule against the operator that onnxruntime has for it, and models of its own quantizers."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from helpers import quantizers
from helpers.graphs import Net, random_feeds, tiny_graphs
from helpers.integer_models import DYNAMIC, STATIC, Codes, float8, integer_feeds, matmul
from hypothesis import given, settings
from hypothesis import strategies as st

import secateur as sc
from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.batches import Batch
from secateur.calib.sources import open_source
from secateur.ir import DataType, Graph, Header, onnx_read
from secateur.ir.build import add_constant, emit
from secateur.ir.errors import RefusedError
from secateur.ir.sparsity_scheme import SparsityScheme
from secateur.passes import Context, Result, run_pipeline
from secateur.passes.importing.import_quantized import ImportQuantized
from secateur.passes.importing.movers import is_mover
from secateur.passes.importing.site import import_rules
from secateur.passes.settings import Check, Settings

_RUNNER = partial(OnnxRuntimeRunner, optimize=False, threads=1)
_FULL = Settings(check=Check.FULL)
ROOT = Path(__file__).parents[2]


def imported(graph: Graph, mode: str = "keep", **context: Any) -> Result:
    return run_pipeline(graph, [ImportQuantized(zero_points=mode)], Context(runner=_RUNNER, **context), settings=_FULL)


def outputs(graph: Graph, feeds: Any) -> list[Any]:
    with _RUNNER(graph) as runner:
        return list(runner.run(feeds).values())


def kinds(graph: Graph) -> Counter[str]:
    return Counter(op.op_type for op in graph.ops())


def sqnr(wanted: Any, found: Any) -> float:
    wanted, found = np.asarray(wanted, np.float64), np.asarray(found, np.float64)
    return float(10 * np.log10((wanted**2).sum() / max(((wanted - found) ** 2).sum(), 1e-30)))


@pytest.mark.parametrize("name", STATIC)
def test_float_between_q_and_dq_is_within_a_step_of_the_integer_operator(name: str) -> None:
    result = imported(STATIC[name]())
    left = {op.op_type for op in result.graph.ops()} | {op.domain for op in result.graph.ops()}
    assert not {one for one in left if one.startswith("QLinear") or one == "com.microsoft"}
    for seed in range(3):
        feeds = integer_feeds(result.graph, seed)
        (wanted,), (found,) = outputs(STATIC[name](), feeds), outputs(result.graph, feeds)
        if wanted.dtype == np.uint8:
            assert np.abs(wanted.astype(int) - found.astype(int)).max() <= 1
            assert len(np.unique(wanted)) > 3, "the test does not saturate"
        else:
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert imported(result.graph).report.rewrites == 0


@pytest.mark.parametrize("name", DYNAMIC)
@pytest.mark.parametrize("data", [False, True])
def test_dynamic_scales_become_one_scale_or_go(name: str, data: bool) -> None:
    graph = DYNAMIC[name]()
    batches = [random_feeds(graph, seed) for seed in range(4)]
    result = imported(graph, source=open_source([Batch(one) for one in batches]) if data else None)
    assert not {op for op in kinds(result.graph) if "Integer" in op or "Dynamic" in op}
    assert kinds(result.graph)["QuantizeLinear"] == int(data)
    assert bool(result.report.entries[0].notes) != data
    for feeds in batches:
        (wanted,), (found,) = outputs(graph, feeds), outputs(result.graph, feeds)
        assert np.abs(wanted - found).max() < 0.03 * np.abs(wanted).max()
        assert np.abs(wanted - found).max() > 0


def test_every_rule_is_tried_here() -> None:
    tried = {one.strip() for name in (*STATIC, *DYNAMIC) for one in name.split(",")} | {"MatMulNBits"}
    tried |= {"TRT_FP8QuantizeLinear", "TRT_FP8DequantizeLinear"}
    left = {"DynamicQuantizeLSTM", "QAttention", "QEmbedLayerNormalization"}
    names = {name.rpartition("::")[2] for name in import_rules}
    assert {name for name in names if name not in tried | left} <= {
        name for name in names if is_mover(sc.ir.Op(name, (), ()))
    }


def test_codes_that_are_only_moved_are_numbers_in_between() -> None:
    net = Codes("movers")
    x = net.op("QuantizeLinear", net.input("x", 1, 3, 6, 6), *net.grid(0.02, 110))
    pooled = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    moved = net.op("Transpose", net.op("Reshape", pooled, net.constant("shape", np.array([3, 9]))), perm=[1, 0])
    both = net.op("Concat", moved, moved, axis=0)
    graph = net.out(net.op("DequantizeLinear", both, *net.grid(0.02, 110)), 18, 3, dtype=DataType.FLOAT32)
    for mode, most in (("keep", 0.0), ("symmetric", 0.021)):
        done = imported(graph, mode).graph
        for op in done.ops():
            if op.op_type in ("MaxPool", "Reshape", "Transpose", "Concat"):
                maker = done.producer(op.inputs[0])  # type: ignore[arg-type]
                assert maker is not None and maker.op_type == "DequantizeLinear"
        feeds = random_feeds(graph, 1)
        assert np.abs(outputs(graph, feeds)[0] - outputs(done, feeds)[0]).max() <= most


def test_a_table_of_codes_is_dequantized_before_it_is_looked_up() -> None:
    net = Codes("table")
    rows = net.op("Gather", net.w(8, 4)[0], net.input("i", 3, dtype=DataType.INT64))
    graph = net.out(net.op("DequantizeLinear", rows, *net.grid(0.02, 3, np.int8)), 3, 4, dtype=DataType.FLOAT32)
    done = imported(graph).graph
    assert [op.op_type for op in done.ops()] == ["DequantizeLinear", "Gather"]
    feeds = {"i": np.array([1, 7, 0])}
    np.testing.assert_array_equal(outputs(graph, feeds)[0], outputs(done, feeds)[0])


# ---- zero points -----------------------------------------------------------------------------------------------------


def _pair(scale: float, zero: int, dtype: Any) -> Graph:
    net = Codes("pair")
    codes = net.op("QuantizeLinear", net.input("x", 64), *net.grid(scale, zero, dtype))
    return net.out(net.op("DequantizeLinear", codes, *net.grid(scale, zero, dtype)), 64, dtype=DataType.FLOAT32)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.floats(1e-3, 10), st.integers(0, 255), st.booleans(), st.integers(0, 99))
def test_symmetric_codes_stay_within_half_of_both_steps(scale: float, zero: int, unsigned: bool, seed: int) -> None:
    scale = float(np.float32(scale))
    graph = _pair(scale, zero if unsigned else zero - 128, np.uint8 if unsigned else np.int8)
    result = imported(graph, "symmetric")
    for value in result.graph.constants():
        if value.const is not None and value.const.dtype in (DataType.INT8, DataType.UINT8):
            assert value.const.dtype is DataType.INT8 and not value.const.numpy().any()
    low, high = -zero * scale, (255 - zero) * scale
    feeds = {"x": np.random.default_rng(seed).uniform(low, high, 64).astype(np.float32)}
    (wanted,), (found,) = outputs(graph, feeds), outputs(result.graph, feeds)
    new = max(-low, high) / 127
    assert np.abs(wanted - found).max() <= (scale + new) / 2 * 1.001
    assert new <= 2.01 * scale


@pytest.mark.parametrize("zero", [0, 255])
def test_an_activation_that_hides_in_a_quantizer_comes_out(zero: int) -> None:
    graph = _pair(0.02, zero, np.uint8)
    done = imported(graph, "symmetric").graph
    assert kinds(done)[{0: "Relu", 255: "Clip"}[zero]] == 1
    feeds = {"x": np.linspace(-4, 4, 64, dtype=np.float32)}
    assert np.abs(outputs(graph, feeds)[0] - outputs(done, feeds)[0]).max() <= 0.031


def test_an_activation_that_is_there_is_not_doubled() -> None:
    net = Codes("relu")
    codes = net.op("QuantizeLinear", net.op("Relu", net.input("x", 8)), *net.grid(0.02, 0))
    pooled = net.op("DequantizeLinear", codes, *net.grid(0.02, 0))
    again = net.op("QuantizeLinear", net.op("Identity", pooled), *net.grid(0.02, 0))
    graph = net.out(net.op("DequantizeLinear", again, *net.grid(0.02, 0)), 8, dtype=DataType.FLOAT32)
    assert kinds(imported(graph, "symmetric").graph)["Relu"] == 1


def _weighted(codes: Any, scale: Any, zero: Any) -> Graph:
    net = Codes("weighted")
    weight = net.constant("w", codes)
    SparsityScheme(2, 4, 1).mark(weight)
    real = net.op("DequantizeLinear", weight, *net.grid(scale, zero, codes.dtype), axis=0)
    made = net.op("Gemm", net.input("x", 3, codes.shape[1]), real, transB=1)
    return net.out(made, 3, codes.shape[0], dtype=DataType.FLOAT32)


def test_weights_around_a_zero_point_move_or_are_rounded_and_keep_their_zeros() -> None:
    random = np.random.default_rng(0)
    for span, exact in (((20, 140), True), ((0, 256), False)):
        codes = random.integers(*span, (6, 8)).astype(np.uint8)
        zero = random.integers(30, 90, 6).astype(np.uint8)
        codes[:, ::2] = zero[:, None]
        scale = random.uniform(0.01, 0.02, 6).astype(np.float32)
        graph = _weighted(codes, scale, zero)
        result = imported(graph, "symmetric")
        weight = next(value for value in result.graph.constants() if SparsityScheme.of(value))
        assert weight.const is not None and weight.const.dtype is DataType.INT8
        assert not weight.const.numpy()[:, ::2].any()
        feeds = {"x": np.eye(8, dtype=np.float32)[:3]}
        wanted, found = outputs(graph, feeds)[0], outputs(result.graph, feeds)[0]
        assert np.abs(wanted - found).max() <= (1e-6 if exact else 0.02 * 256 / 127 / 2)
        (row,) = [row for row in result.report.entries[0].rows if row.get("value") == "w"]
        assert row["effect"] == ("exact" if exact else "rounded")


def test_a_weight_that_is_quantized_in_the_graph_is_stored_in_codes() -> None:
    """As training with simulated quantization leaves it."""
    net = Codes("simulated")
    weight = net.weight("w", 5, 8)
    grid = net.grid(np.linspace(0.01, 0.03, 5), np.arange(100, 150, 10))
    codes = emit(net.graph, "QuantizeLinear", [weight, *grid], {"axis": 0}).output
    real = emit(net.graph, "DequantizeLinear", [codes, *grid], {"axis": 0}).output
    graph = net.out(net.op("Gemm", net.input("x", 3, 8), real, transB=1), 3, 5, dtype=DataType.FLOAT32)
    done = imported(graph, "symmetric").graph
    assert [op.op_type for op in done.ops()] == ["DequantizeLinear", "Gemm"]
    feeds = random_feeds(graph, 1)
    np.testing.assert_allclose(outputs(done, feeds)[0], outputs(graph, feeds)[0], rtol=1e-4, atol=0.2)


# ---- weights in blocks -----------------------------------------------------------------------------------------------


def _product(rows: int, opset: int = 21) -> Graph:
    net = Net("product", graph=Graph("product", header=Header(ir_version=10, opsets=(("", opset),))))
    made = net.op("MatMul", net.input("x", 4, rows), net.weight("w", rows, 48))
    reduced = net.op("ReduceMean", made, axes=[-1]) if opset < 18 else net.op("Relu", made)
    return net.done((reduced, (4, 1 if opset < 18 else 48)))


@pytest.mark.parametrize("rows", [64, 72])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("style", ["QOperator", "QDQ"])
def test_four_bits_in_blocks_stay_exact(tmp_path: Path, rows: int, symmetric: bool, style: str) -> None:
    graph = quantizers.blocks(_product(rows), tmp_path, symmetric=symmetric, style=style)
    result = imported(graph, "symmetric")
    (op,) = (op for op in result.graph.ops() if op.op_type == "DequantizeLinear")
    codes = result.graph.constant(op.inputs[0])
    assert codes is not None and codes.dtype is (DataType.INT4 if symmetric else DataType.INT8)
    assert op.attribute("block_size") == 16
    feeds = random_feeds(graph, 1)
    np.testing.assert_allclose(outputs(result.graph, feeds)[0], outputs(graph, feeds)[0], rtol=1e-4, atol=1e-5)


def test_eight_bits_in_blocks_are_rounded_by_half_a_step_and_said_to_be(tmp_path: Path) -> None:
    graph = quantizers.blocks(_product(64), tmp_path, bits=8, symmetric=False)
    result = imported(graph, "symmetric")
    feeds = random_feeds(graph, 1)
    assert sqnr(outputs(graph, feeds)[0], outputs(result.graph, feeds)[0]) > 40
    assert any("rounded" in note for note in result.report.entries[0].notes)


def test_an_older_opset_is_raised_for_blocks(tmp_path: Path) -> None:
    graph = quantizers.blocks(_product(64, opset=17), tmp_path)
    result = imported(graph, "symmetric")
    assert result.graph.header.opset() == 21
    feeds = random_feeds(graph, 1)
    np.testing.assert_allclose(outputs(result.graph, feeds)[0], outputs(graph, feeds)[0], rtol=1e-4, atol=1e-5)


def test_where_the_opset_cannot_be_raised_weights_become_float(tmp_path: Path) -> None:
    graph = quantizers.blocks(_product(64, opset=20), tmp_path)
    ones = add_constant(graph, "ones", np.ones(2, np.float32))
    emit(graph, "GroupNormalization", [graph.inputs[0], ones, ones], {"num_groups": 2})
    result = imported(graph)
    assert "DequantizeLinear" not in kinds(result.graph)
    feeds = random_feeds(graph, 1)
    np.testing.assert_allclose(outputs(result.graph, feeds)[0], outputs(graph, feeds)[0], rtol=1e-4, atol=1e-5)


# ---- models of onnxruntime's quantizers ------------------------------------------------------------------------------

_TINY = ["conv_bn_relu", "residual", "concat", "gemm_mlp", "matmul_mlp", "attention"]


@pytest.mark.parametrize("name", _TINY)
@pytest.mark.parametrize("per_channel", [False, True])
def test_integer_operators_of_a_model_agree(tmp_path: Path, name: str, per_channel: bool) -> None:
    dense = tiny_graphs()[name]()
    feeds = [random_feeds(dense, seed) for seed in range(3)]
    graph = quantizers.static(dense, tmp_path, feeds, "QOperator", per_channel=per_channel)
    assert {one for one in kinds(graph) if one.startswith(("QLinear", "QGemm"))}
    kept = imported(graph).graph
    assert not {one for one in kinds(kept) if one.startswith(("QLinear", "QGemm"))}
    for one in feeds:
        assert sqnr(outputs(graph, one)[0], outputs(kept, one)[0]) > 38


@pytest.mark.parametrize("name", _TINY)
@pytest.mark.parametrize("style", ["QOperator", "QDQ", "dynamic"])
def test_nothing_is_left_that_tensorrt_refuses(tmp_path: Path, name: str, style: str) -> None:
    dense = tiny_graphs()[name]()
    feeds = [random_feeds(dense, seed) for seed in range(3)]
    graph = (
        quantizers.dynamic(dense, tmp_path) if style == "dynamic" else quantizers.static(dense, tmp_path, feeds, style)
    )
    result = imported(graph, "symmetric", source=open_source([Batch(one) for one in feeds]))
    assert not sc.lint(graph, target="tensorrt-rtx,8.9").is_clean
    assert sc.lint(result.graph, target="tensorrt-rtx,8.9").is_clean
    wanted = outputs(dense, feeds[0])[0]
    assert sqnr(wanted, outputs(result.graph, feeds[0])[0]) > min(12, sqnr(wanted, outputs(graph, feeds[0])[0]) - 9)


def test_float8_of_another_domain_runs_in_onnxruntime() -> None:
    result = imported(float8(), "symmetric")
    assert result.graph.header.opset() == 19
    x = np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32)
    weight = float8()["w"].const
    assert weight is not None

    def rounded(array: Any, scale: float) -> Any:
        return (np.clip(array / np.float32(scale), -448, 448).astype(ml_dtypes.float8_e4m3fn)).astype(
            np.float32
        ) * scale

    wanted = rounded(x, 0.02) @ rounded(weight.numpy(), 0.01)
    np.testing.assert_allclose(outputs(result.graph, {"x": x})[0], wanted, rtol=1e-4, atol=1e-5)


def test_what_is_left_is_said() -> None:
    net = Codes("left")
    made = net.op_many("DynamicQuantizeLinear", net.input("x", 4, 6), outputs=3)
    product = net.op("MatMulInteger", made[0], net.w(6, 4)[0], made[2])
    graph = net.out(product, 4, 4, dtype=DataType.INT32)
    result = imported(graph)
    assert result.report.rewrites == 0
    assert any("MatMulInteger stays" in note for note in result.report.entries[0].notes)


def test_an_opset_without_quantize_linear_is_refused() -> None:
    graph = matmul()
    graph.header = Header(ir_version=4, opsets=(("", 9),))
    with pytest.raises(RefusedError, match="opset 9"):
        imported(graph)


def test_unpacked_int4_survives_a_file(tmp_path: Path) -> None:
    graph = quantizers.blocks(_product(64), tmp_path)
    done = imported(graph, "symmetric").graph
    done.save(tmp_path / "out.onnx")
    again = onnx_read.load(tmp_path / "out.onnx")
    (codes,) = (v.const for v in again.constants() if v.const is not None and v.const.dtype is DataType.INT4)
    assert codes.numpy().dtype == ml_dtypes.int4
    assert str(again) == str(done)


@pytest.mark.slow
@pytest.mark.parametrize("style", ["QOperator", "QDQ", "dynamic"])
def test_a_trained_network_runs_in_int8(tmp_path: Path, style: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    from secateur.backends.tensorrt import BuildOptions, Profile, build, kernels_by_node, parse_shape

    dense = onnx_read.load(ROOT / "examples/fashion_mnist/resnet.onnx")
    feeds = [{"image": random_feeds(dense, seed)["image"]} for seed in range(2)]
    graph = (
        quantizers.dynamic(dense, tmp_path) if style == "dynamic" else quantizers.static(dense, tmp_path, feeds, style)
    )
    result = imported(graph, "symmetric", source=open_source([Batch(one) for one in feeds]))
    assert sqnr(outputs(dense, feeds[0])[0], outputs(result.graph, feeds[0])[0]) > 25
    result.graph.save(tmp_path / "model.onnx")
    profile = Profile((parse_shape("image=1x1x28x28"),))
    options = BuildOptions(flavor="tensorrt-rtx", compute_capabilities=("8.9",), profiles=(profile,))
    report = build(tmp_path / "model.onnx", tmp_path / "out.engine", options)
    found = [kernel for node in kernels_by_node(report.layers).values() for kernel in node if kernel.contracts]
    assert found and all("Int8" in kernel.reads for kernel in found)
    assert report.quantized_in_float == ()


# ---- codes that come in and go out -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["QLinearConv", "QLinearMatMul", "QLinearAdd"])
def test_codes_of_the_interface_are_computed_with(name: str, tmp_path: Path) -> None:
    graph = STATIC[name]()
    result = imported(graph, "symmetric")
    assert [value.type for value in result.graph.inputs] == [value.type for value in graph.inputs]
    assert sc.lint(result.graph, target="tensorrt-rtx,8.9").is_clean
    for seed in range(3):
        feeds = integer_feeds(graph, seed)
        wanted, found = outputs(graph, feeds)[0].astype(int), outputs(result.graph, feeds)[0].astype(int)
        # Steps of the input are up to 2.008 times as wide, and results come in steps of 0.04 or 0.05.
        assert np.abs(wanted - found).max() <= 3
    pytest.importorskip("tensorrt_rtx")
    from secateur.backends.tensorrt import BuildOptions, build

    result.graph.save(tmp_path / "model.onnx")
    options = BuildOptions(flavor="tensorrt-rtx", compute_capabilities=("8.9",))
    assert build(tmp_path / "model.onnx", tmp_path / "out.engine", options).quantized_in_float == ()
