"""To onnx-graphsurgeon and back."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from helpers import models
from helpers.onnxruntime_runs import random_feeds, same, session

from secateur.ir import Graph
from secateur.ir.errors import BackendError
from secateur.ir.onnx_graphsurgeon import from_graphsurgeon, to_graphsurgeon
from secateur.ir.onnx_read import load
from secateur.ir.onnx_write import to_bytes

surgeon = pytest.importorskip("onnx_graphsurgeon")


def test_a_graphsurgeon_graph_computes_the_same_here() -> None:
    x = surgeon.Variable("x", np.float32, (2, 3))
    y = surgeon.Variable("y", np.float32, (2, 4))
    weight = surgeon.Constant("w", np.arange(12, dtype=np.float32).reshape(3, 4))
    graph = from_graphsurgeon(surgeon.Graph([surgeon.Node("MatMul", "mm", inputs=[x, weight], outputs=[y])], [x], [y]))
    graph.verify()
    ones = np.ones((2, 3), np.float32)
    (found,) = session(to_bytes(graph)).run(None, {"x": ones})
    assert np.array_equal(found, ones @ weight.values)


@pytest.mark.parametrize("name", ["ocr-classifier", "vad-sequence"])
def test_there_and_back_computes_the_same(name: str) -> None:
    before = load(models.real_model(name))
    after = from_graphsurgeon(to_graphsurgeon(before))
    after.verify()
    runner = session(to_bytes(before))
    feeds = random_feeds(runner, {"x:2": 48, "x:3": 192})
    assert same(runner.run(None, feeds), session(to_bytes(after)).run(None, feeds))


def test_edits_with_graphsurgeon_arrive() -> None:
    edited = to_graphsurgeon(load(models.real_model("vad-sequence")))
    next(node for node in edited.nodes if node.op == "Relu").name = "renamed"
    assert "renamed" in {op.name for op in from_graphsurgeon(edited).ops()}


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx_graphsurgeon", None)
    with pytest.raises(BackendError, match=r"secateur\[graphsurgeon\]"):
        to_graphsurgeon(Graph())
