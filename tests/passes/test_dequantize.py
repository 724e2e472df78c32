"""`dequantize`: weights to the floats that they stand for, activations as they were, activations that hid come out."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import quantizers
from helpers.graphs import Net, random_feeds, tiny_graphs
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.batches import Batch
from secateur.calib.sources import open_source
from secateur.ir import DataType, Graph, Header
from secateur.ir.sparsity_scheme import SparsityScheme
from secateur.passes import Context, Result, parse_pipeline, run_pipeline
from secateur.passes.importing.grids import positive, spread
from secateur.passes.settings import Check, Settings

_RUNNER = partial(OnnxRuntimeRunner, optimize=False, threads=1)
_FULL = Settings(check=Check.FULL)


def run(graph: Graph, text: str = "dequantize", feeds: Any = None) -> Result:
    source = None if feeds is None else open_source([Batch(one) for one in feeds])
    return run_pipeline(graph, parse_pipeline(text), Context(runner=_RUNNER, source=source), settings=_FULL)


def outputs(graph: Graph, feeds: Any) -> list[Any]:
    with _RUNNER(graph) as runner:
        return list(runner.run(feeds).values())


def narrow(graph: Graph) -> set[str]:
    kinds = {value.const.dtype.short for value in graph.constants() if value.const is not None}
    return {kind for kind in kinds if kind.startswith(("i8", "u8", "i4", "u4", "f8"))}


@pytest.mark.parametrize("name", ["conv_bn_relu", "residual", "gemm_mlp", "attention", "shared_weight"])
@pytest.mark.parametrize("style", ["QOperator", "QDQ", "dynamic"])
def test_no_integer_is_left_and_outputs_stay_near(tmp_path: Path, name: str, style: str) -> None:
    dense = tiny_graphs()[name]()
    feeds = [random_feeds(dense, seed) for seed in range(3)]
    graph = (
        quantizers.dynamic(dense, tmp_path) if style == "dynamic" else quantizers.static(dense, tmp_path, feeds, style)
    )
    done = run(graph).graph
    assert not narrow(done)
    assert not [op for op in done.ops() if "Quantize" in op.op_type or op.op_type.startswith(("QLinear", "QGemm"))]
    wanted = np.concatenate([outputs(graph, one)[0] for one in feeds])
    found = np.concatenate([outputs(done, one)[0] for one in feeds])
    # The quantizer of an output cuts off what float does not.
    found = np.clip(found, wanted.min(), wanted.max())
    assert np.abs(wanted - found).max() < 0.06 * np.abs(wanted).max()


def test_what_quantize_did_goes_but_for_the_rounding() -> None:
    dense = tiny_graphs()["residual"]()
    feeds = [random_feeds(dense, seed) for seed in range(3)]
    quantized = run(dense, "quantize", feeds).graph
    done = run(quantized).graph
    assert Counter(op.op_type for op in done.ops()) == Counter(op.op_type for op in dense.ops())
    for value in dense.constants():
        assert value.const is not None
        if len(value.const.shape) == 4:
            near = min(
                float(np.abs(one.const.numpy() - value.const.numpy()).max())
                for one in done.constants()
                if one.const is not None and one.const.shape == value.const.shape
            )
            assert near <= np.abs(value.const.numpy()).max() / 127


@pytest.mark.parametrize("name", ["int8", "fp8", "int4", "int8-block", "nvfp4", "mxfp8"])
def test_every_format_of_ours_goes_back(name: str) -> None:
    net = Net("layers", graph=Graph("layers", header=Header(ir_version=11, opsets=(("", 23),))))
    hidden = net.op("Relu", net.op("MatMul", net.input("x", 8, 64), net.weight("w", 64, 96)))
    dense = net.done((net.op("MatMul", hidden, net.weight("v", 96, 32)), (8, 32)))
    feeds = [random_feeds(dense, seed) for seed in range(3)]
    quantized = run(dense, f"quantize{{format={name}}}", feeds)
    assert quantized.report.rewrites, "there is something to go back from"
    assert run(quantized.graph, "import-quantized").report.rewrites == 0
    done = run(quantized.graph).graph
    assert Counter(op.op_type for op in done.ops()) == Counter(op.op_type for op in dense.ops())
    wanted, found = outputs(dense, feeds[0])[0], outputs(done, feeds[0])[0]
    # One step of the coarsest of these grids is a quarter of a number.
    assert 0 < np.linalg.norm(wanted - found) < 0.2 * np.linalg.norm(wanted)


def test_sparse_weights_keep_zeros_and_mark() -> None:
    net = Net("sparse")
    graph = net.done((net.op("Relu", net.conv(net.input("x", 1, 16, 6, 6), "conv", 16, 16, 3, 3)), (1, 16, 4, 4)))
    feeds = [random_feeds(graph, seed) for seed in range(2)]
    done = run(run(graph, "sparsify,quantize", feeds).graph).graph
    (weight,) = (value for value in done.constants() if SparsityScheme.of(value))
    scheme = SparsityScheme.of(weight)
    assert scheme is not None and weight.const is not None and weight.const.dtype is DataType.FLOAT32
    assert scheme.holds(weight.const)


@pytest.mark.parametrize("symmetric", [True, False])
def test_blocks_of_four_bits(tmp_path: Path, symmetric: bool) -> None:
    net = Net("product", graph=Graph("product", header=Header(ir_version=10, opsets=(("", 21),))))
    made = net.op("MatMul", net.input("x", 4, 40), net.weight("w", 40, 24))
    graph = quantizers.blocks(net.done((made, (4, 24))), tmp_path, symmetric=symmetric)
    done = run(graph).graph
    assert [op.op_type for op in done.ops()] == ["MatMul"]
    feeds = random_feeds(graph, 1)
    np.testing.assert_allclose(outputs(done, feeds)[0], outputs(graph, feeds)[0], rtol=1e-4, atol=1e-5)


def test_a_relu_six_that_a_quantizer_took_comes_back(tmp_path: Path) -> None:
    net = Net("relu6")
    hidden = net.conv(net.input("x", 1, 3, 8, 8), "a", 6, 3, 3, 3)
    hidden = net.op("Clip", hidden, net.constant("low", np.float32(0)), net.constant("high", np.float32(0.5)))
    dense = net.done((net.conv(hidden, "b", 4, 6, 1, 1), (1, 4, 6, 6)))
    feeds = [random_feeds(dense, seed) for seed in range(3)]
    graph = quantizers.static(dense, tmp_path, feeds, "QDQ")
    assert not [op for op in graph.ops() if op.op_type in ("Clip", "Relu")], "the quantizer took it"
    done = run(graph).graph
    assert [op.op_type for op in done.ops()] == ["Conv", "Clip", "Conv"]
    wanted, found = outputs(dense, feeds[0])[0], outputs(done, feeds[0])[0]
    assert np.abs(wanted - found).max() < 0.03 * np.abs(wanted).max()


def test_codes_of_the_interface_stay() -> None:
    net = Net("interface")
    codes = net.input("x", 4, dtype=DataType.INT8)
    real = net.op("DequantizeLinear", codes, net.constant("s", np.float32(0.5)))
    result = run(net.done((net.op("Relu", real), (4,))))
    assert result.report.rewrites == 0
    assert any("its codes are not made here" in note for note in result.report.entries[0].notes)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from([(0, 0), (0, 4), (1, 0), (1, 3)]), st.booleans())
def test_positive_scales_stand_for_the_same_numbers(seed: int, along: tuple[int, int], wide: bool) -> None:
    """Where codes fit, exactly; else within half a step of the wider scale."""
    axis, block = along
    random = np.random.default_rng(seed)
    codes = random.integers(-255 if wide else -127, 256 if wide else 128, (5, 8)).astype(np.int32)
    shape = tuple(-(-size // block) if at == axis else size for at, size in enumerate(codes.shape)) if block else None
    scale = random.normal(size=shape or codes.shape[axis])
    scale[random.random(scale.shape) < 0.1] = 0
    found, steps = positive(codes, scale, axis, block)
    assert np.abs(found).max() <= 127 and (steps > 0).all()
    wanted = codes * spread(scale, codes.shape, axis, block)
    error = np.abs(found * spread(steps, codes.shape, axis, block) - wanted)
    limit = spread(steps, codes.shape, axis, block) / 2 * 1.01 if wide else 1e-12
    assert (error <= limit).all()
    assert (found[wanted == 0] == 0).all()
