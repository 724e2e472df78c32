"""N:M sparsity: the pattern holds along the axis that sparse kernels read, ties are stable, refusals say why."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from helpers.convolutional import Net
from helpers.sparse_problems import satisfies
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.sources import open_source
from secateur.ir import Graph
from secateur.ir.build import add_constant, add_input, emit
from secateur.ir.errors import RefusedError, TextError
from secateur.passes.context import Context
from secateur.passes.manager import Result, run_pipeline
from secateur.passes.pipeline import parse_pipeline
from secateur.passes.sparsify.masks import keep_largest


def _sparsify(graph: Graph, options: str = "") -> Result:
    return run_pipeline(graph, parse_pipeline(f"sparsify{{{options}}}"), Context())


def _array(graph: Graph, name: str) -> np.ndarray:
    tensor = graph[name].const
    assert tensor is not None
    return tensor.numpy()


@settings(deadline=None, derandomize=True)
@given(nps.arrays(np.float32, (3, 8, 2), elements=st.floats(0, 4, width=16)), st.sampled_from([(1, 4), (2, 4), (4, 8)]))
def test_the_mask_keeps_as_much_as_any_mask_could(saliency: np.ndarray, pattern: tuple[int, int]) -> None:
    keep, group = pattern
    mask = keep_largest(saliency, keep, group, axis=1)
    assert satisfies(mask * (saliency + 1), keep, group, axis=1)
    assert mask.sum() == saliency.size * keep // group
    grouped = np.moveaxis(saliency, 1, -1).reshape(-1, group).astype(np.float64)
    best = sum(max(sum(row[list(chosen)]) for chosen in combinations(range(group), keep)) for row in grouped)
    assert np.isclose((mask * saliency.astype(np.float64)).sum(), best)


def test_of_equals_the_earlier_stays() -> None:
    assert keep_largest(np.ones((1, 8)), 2, 4, axis=1).tolist() == [[True, True, False, False] * 2]


@settings(deadline=None, derandomize=True)
@given(nps.arrays(np.float32, (4, 8), elements=st.floats(0, 4, width=16)), st.sampled_from([0.25, 2.0, 64.0]))
def test_scaling_a_weight_leaves_its_mask_alone(weight: np.ndarray, scale: float) -> None:
    np.testing.assert_array_equal(keep_largest(weight, 2, 4, 1), keep_largest(weight * scale, 2, 4, 1))


def test_conv_gemm_and_matmul_are_sparse_along_their_input_channels() -> None:
    graph = Graph()
    x = add_input(graph, "x", ["n", 16, 5, 5])
    random = np.random.default_rng(0)
    conv = add_constant(graph, "conv", random.normal(size=(16, 16, 3, 3)).astype(np.float32))
    flat = emit(graph, "GlobalAveragePool", [emit(graph, "Conv", [x, conv]).output]).output
    rows = emit(graph, "Flatten", [flat]).output
    left = add_constant(graph, "gemm_t", random.normal(size=(8, 16)).astype(np.float32))
    right = add_constant(graph, "gemm", random.normal(size=(16, 8)).astype(np.float32))
    product = add_constant(graph, "matmul", random.normal(size=(16, 8)).astype(np.float32))
    made = [
        emit(graph, "Gemm", [rows, left], {"transB": 1}).output,
        emit(graph, "Gemm", [rows, right]).output,
        emit(graph, "MatMul", [rows, product]).output,
    ]
    graph.set_interface(outputs=made)
    result = _sparsify(graph)
    for name, axis in {"conv": 1, "gemm_t": 1, "gemm": 0, "matmul": 0}.items():
        sparse, dense = _array(result.graph, name), _array(graph, name)
        assert satisfies(sparse, 2, 4, axis)
        assert not satisfies(dense, 2, 4, axis)
        assert ((sparse == dense) | (sparse == 0)).all()
        np.testing.assert_array_equal(result.manifest.masks[name], sparse != 0)


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (lambda: Net(16).conv(16, group=16), "grouped"),
        (lambda: Net(6).conv(16), "no multiple of 4"),
        (lambda: Net(4).conv(16), "sparse kernels want"),
    ],
)
def test_what_stays_dense_says_why(net: object, words: str) -> None:
    graph = net().done()  # type: ignore[operator]
    result = _sparsify(graph)
    assert any(words in note for note in result.report.entries[0].notes)
    np.testing.assert_array_equal(_array(result.graph, "w"), _array(graph, "w"))


def test_a_weight_read_along_two_axes_stays_dense() -> None:
    graph = Graph()
    x = add_input(graph, "x", ["n", 16])
    shared = add_constant(graph, "w", np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32))
    there = emit(graph, "Gemm", [x, shared], {"transB": 1}).output
    graph.set_interface(outputs=[emit(graph, "Gemm", [there, shared]).output])
    assert any("different axes" in note for note in _sparsify(graph).report.entries[0].notes)


def test_a_weight_that_is_sparse_already_is_left_alone() -> None:
    once = _sparsify(Net(16).conv(16).done()).graph
    assert _sparsify(once).report.rewrites == 0


def test_repair_helps_and_keeps_the_pattern() -> None:
    graph = Net(16).conv(16).op("Relu").conv(16, bias=False).done()
    mixed = np.random.default_rng(2).normal(size=(16, 16)).astype(np.float32)
    images = np.einsum("ij,njhw->nihw", mixed, np.random.default_rng(1).normal(size=(40, 16, 9, 9))).astype(np.float32)
    source = open_source({"x": images}, batch_size=8)
    result = run_pipeline(graph, parse_pipeline("sparsify"), Context(runner=OnnxRuntimeRunner, source=source))
    rows = result.report.entries[0].rows
    assert len(rows) == 2
    for row in rows:
        assert row["error"] < 0.9 * row["unrepaired"]  # type: ignore[operator]
        assert satisfies(_array(result.graph, str(row["weight"])), 2, 4, 1)
    assert not result.manifest.exact


def test_repair_without_data_is_refused() -> None:
    with pytest.raises(RefusedError, match="calibration data"):
        _sparsify(Net(16).conv(16).done(), "repair=least-squares")


@pytest.mark.parametrize("pattern", ["4:2", "0:4", "2", "x:y", "4:4"])
def test_patterns_that_make_no_sense_are_refused(pattern: str) -> None:
    with pytest.raises(TextError, match="N:M"):
        parse_pipeline(f"sparsify{{pattern={pattern}}}")


def test_a_weight_on_the_left_of_columns_is_masked_without_repair() -> None:
    """Axis 0 of its data counts channels, so there are no samples to fit on."""
    graph = Graph()
    x = add_input(graph, "x", [16, 40])
    weight = add_constant(graph, "w", np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32))
    graph.set_interface(outputs=[emit(graph, "MatMul", [weight, x]).output])
    source = open_source([{"x": np.random.default_rng(1).normal(size=(16, 40)).astype(np.float32)}])
    result = run_pipeline(graph, parse_pipeline("sparsify"), Context(runner=OnnxRuntimeRunner, source=source))
    sparse, dense = _array(result.graph, "w"), _array(graph, "w")
    assert satisfies(sparse, 2, 4, 1)
    assert ((sparse == dense) | (sparse == 0)).all()
