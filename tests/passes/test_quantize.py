"""INT8 Q/DQ: codes and scales against onnxruntime, placement, storage, and what is left in float with a reason."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.convolutional import Net
from helpers.sparse_problems import satisfies

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.solvers.grids import symmetric_scale
from secateur.calib.sources import open_source
from secateur.ir import DataType, Graph, Header
from secateur.ir.build import add_constant, add_input, emit
from secateur.ir.errors import BackendError, DataError, RefusedError
from secateur.passes.context import Context
from secateur.passes.manager import Result, run_pipeline
from secateur.passes.pipeline import parse_pipeline


def _images(channels: int = 3, count: int = 16, seed: int = 0) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).normal(size=(count, channels, 9, 9)).astype(np.float32)}


def _quantize(graph: Graph, text: str = "quantize", channels: int = 3) -> Result:
    source = open_source(_images(channels), batch_size=4)
    return run_pipeline(graph, parse_pipeline(text), Context(runner=OnnxRuntimeRunner, source=source))


def _kinds(graph: Graph) -> list[str]:
    return [op.op_type for op in graph.ops()]


def test_a_range_of_zero_gets_a_scale_that_is_not() -> None:
    assert symmetric_scale(0.0, np.dtype(np.float32)) == 1
    assert symmetric_scale(1e-44, np.dtype(np.float32)) >= np.finfo(np.float32).tiny
    assert symmetric_scale(1e-9, np.dtype(np.float16)) > 0


def test_every_weighted_op_reads_dequantized_data_and_weights() -> None:
    result = _quantize(
        Net().conv(8).op("Relu").conv(8, group=8).op("GlobalAveragePool").op("Flatten").gemm(8, 4, True).done()
    )
    graph = result.graph
    for op in graph.ops():
        if op.op_type in ("Conv", "Gemm"):
            makers = [graph.producer(value) for value in op.inputs[:2] if value is not None]
            assert [maker.op_type for maker in makers if maker] == ["DequantizeLinear"] * 2
            assert op.inputs[2] is not None
            assert op.inputs[2].const is not None
            assert op.inputs[2].const.dtype is DataType.FLOAT32
    for value in graph.constants():
        if value.name.endswith("zero_point"):
            assert value.const is not None
            assert not value.const.numpy().any()


def test_weights_are_stored_as_integers_and_the_float_ones_are_gone() -> None:
    dense = Net().conv(64, 7).op("Relu").conv(64).done()
    small = _quantize(dense).graph

    def size(graph: Graph) -> int:
        return sum(value.const.nbytes for value in graph.constants() if value.const is not None)

    assert size(small) < size(dense) / 3.8


def test_two_readers_share_one_pair() -> None:
    graph = Graph()
    x = add_input(graph, "x", ["n", 3, 9, 9])
    made = [
        emit(graph, "Conv", [x, add_constant(graph, "w", np.ones((2, 3, 3, 3), np.float32) * (k + 1))]).output
        for k in range(2)
    ]
    graph.set_interface(outputs=made)
    assert _kinds(_quantize(graph).graph).count("QuantizeLinear") == 1


def test_a_shared_weight_is_stored_once() -> None:
    graph = Graph()
    x = add_input(graph, "x", ["n", 3, 9, 9])
    shared = add_constant(graph, "w", np.random.default_rng(0).normal(size=(3, 3, 3, 3)).astype(np.float32))
    made = emit(graph, "Conv", [emit(graph, "Conv", [x, shared]).output, shared]).output
    graph.set_interface(outputs=[made])
    small = _quantize(graph).graph
    assert [value.name for value in small.constants() if value.name.startswith("w_quantized")] == ["w_quantized"]


def test_the_output_stays_close() -> None:
    graph = Net().conv(16).op("Relu").conv(8).op("Relu").conv(4).done()
    small = _quantize(graph).graph
    test = _images(seed=9)
    with OnnxRuntimeRunner(graph) as dense, OnnxRuntimeRunner(small) as quantized:
        a, b = (next(iter(runner.run(test).values())) for runner in (dense, quantized))
    assert 10 * np.log10((a**2).sum() / ((a - b) ** 2).sum()) > 25


def test_zeros_of_a_sparse_weight_stay_zero() -> None:
    small = _quantize(Net(16).conv(16).op("Relu").conv(16).done(), "sparsify,quantize", channels=16).graph
    codes = [value.const.numpy() for value in small.constants() if value.const and value.name.endswith("_quantized")]
    assert len(codes) == 2
    assert all(satisfies(code, 2, 4, 1) for code in codes)


def test_a_transposed_convolution_stays_in_float() -> None:
    net = Net()
    graph = net.op("ConvTranspose", net.weight(3, 5, 3, 3)).done()
    result = _quantize(graph)
    assert result.report.rewrites == 0
    assert "ConvTranspose" in result.report.entries[0].notes[0]


def test_quantizing_twice_changes_nothing_more() -> None:
    once = _quantize(Net().conv(8).op("Relu").conv(4).done()).graph
    assert _quantize(once).report.rewrites == 0


def test_an_old_opset_is_refused() -> None:
    graph = Net().conv(8).done()
    graph.header = Header(ir_version=7, opsets=(("", 6),))
    with pytest.raises(RefusedError, match="opset 6"):
        _quantize(graph)


def test_without_data_or_runtime_it_says_what_is_missing() -> None:
    graph = Net().conv(8).done()
    with pytest.raises(DataError, match="calibration data"):
        run_pipeline(graph, parse_pipeline("quantize"), Context(runner=OnnxRuntimeRunner))
    with pytest.raises(BackendError, match="runtime"):
        run_pipeline(graph, parse_pipeline("quantize"), Context(source=open_source(_images())))
