"""The tiny graphs that all tests stand on: valid ONNX, runnable, and the same after every way out and in."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers.graphs import random_feeds, tiny_graphs
from helpers.onnxruntime_runs import session

from secateur.ir import Graph
from secateur.ir.equal import first_difference
from secateur.ir.onnx_read import from_bytes
from secateur.ir.onnx_write import to_bytes
from secateur.ir.text_parse import parse_graph
from secateur.ir.text_print import digests, print_graph

TINY = tiny_graphs()


def run(graph: Graph) -> list[np.ndarray]:
    return [np.asarray(output) for output in session(to_bytes(graph)).run(None, random_feeds(graph))]


@pytest.mark.parametrize("name", TINY)
def test_it_is_valid_and_runs(name: str) -> None:
    graph = TINY[name]()
    onnx.checker.check_model(onnx.load_from_string(to_bytes(graph)), full_check=True)
    outputs = run(graph)
    for output, value in zip(outputs, graph.outputs, strict=True):
        assert np.isfinite(output).all() and np.abs(output).max() > 0.01
        assert f"%{value.name}" in print_graph(graph)


@pytest.mark.parametrize("name", TINY)
def test_it_computes_the_same_after_every_round_trip(name: str) -> None:
    graph = TINY[name]()
    expected = run(graph)
    again = from_bytes(to_bytes(graph))
    assert first_difference(graph, again) is None
    for other in (graph.clone(), parse_graph(print_graph(graph), digests(graph)), again, TINY[name]()):
        for output, wanted in zip(run(other), expected, strict=True):
            assert output.dtype == wanted.dtype
            assert output.tobytes() == wanted.tobytes()


def test_feeds_follow_the_types() -> None:
    feeds = random_feeds(TINY["if_captures"](), seed=3)
    assert feeds["condition"].dtype == bool and feeds["condition"].shape == ()
    assert feeds["x"].dtype == np.float32 and feeds["x"].shape == (4, 6)
    assert random_feeds(TINY["dynamic_batch"]())["x"].shape == (3, 3, 6, 6)
    assert list(random_feeds(TINY["overridable_input"]())) == ["x"]
    assert not np.array_equal(feeds["x"], random_feeds(TINY["if_captures"](), seed=4)["x"])
