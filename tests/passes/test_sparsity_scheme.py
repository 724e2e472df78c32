"""The mark on a sparse weight: it survives copies, texts, files and passes, and says so where it could not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from helpers.convolutional import Net

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.sources import open_source
from secateur.ir import Graph, Tensor, onnx_read
from secateur.ir.build import add_constant, add_input, emit
from secateur.ir.errors import RefusedError
from secateur.ir.sparsity_scheme import KEY, SparsityScheme
from secateur.ir.text_parse import parse_graph
from secateur.ir.text_print import digests, print_graph
from secateur.passes.base import Pass
from secateur.passes.context import Context
from secateur.passes.facets import Effect, Facet
from secateur.passes.manager import Result, run_pipeline
from secateur.passes.pipeline import parse_pipeline

PAIRS = SparsityScheme(2, 4, 1)


def _run(text: str, graph: Graph | None = None) -> Result:
    images = np.random.default_rng(1).normal(size=(20, 16, 7, 7)).astype(np.float32)
    context = Context(runner=OnnxRuntimeRunner, source=open_source({"x": images}, batch_size=5))
    return run_pipeline(graph or Net(16, 7).conv(32).op("Relu").conv(16).done(), parse_pipeline(text), context)


def _marks(graph: Graph) -> dict[str, str]:
    return {value.name: value.metadata[KEY] for value in graph.constants() if KEY in value.metadata}


@pytest.mark.parametrize("options", ["", "{criterion=magnitude,repair=none}", "{repair=sweep}"])
def test_what_becomes_sparse_is_marked_and_the_mark_is_true(options: str) -> None:
    graph = _run(f"sparsify{options}").graph
    assert _marks(graph) == {"w": "2:4 axis 1", "w_2": "2:4 axis 1"}
    for name in _marks(graph):
        tensor = graph[name].const
        assert tensor is not None
        assert PAIRS.holds(tensor)


def test_shares_of_zeros_promise_nothing() -> None:
    assert not _marks(_run("sparsify{pattern=50%}").graph)


def test_copies_texts_and_files_keep_it(tmp_path: Path) -> None:
    graph = _run("sparsify").graph
    marks = _marks(graph)
    graph.save(tmp_path / "sparse.onnx")
    written = parse_graph(print_graph(graph), digests(graph))
    for twin in (graph.clone(), written, onnx_read.load(tmp_path / "sparse.onnx")):
        assert _marks(twin) == marks


def test_codes_inherit_it() -> None:
    graph = _run("sparsify,quantize").graph
    assert set(_marks(graph)) == {"w_quantized", "w_2_quantized"}
    for name in _marks(graph):
        tensor = graph[name].const
        assert tensor is not None
        assert PAIRS.holds(tensor)


def test_folding_a_transpose_moves_the_axis() -> None:
    graph = Graph()
    x = add_input(graph, "x", ["n", 8])
    weight = add_constant(graph, "w", np.tile(np.array([1, 0, 2, 0], np.float32), (4, 2)))
    PAIRS.mark(weight)
    turned = emit(graph, "Transpose", [weight], {"perm": [1, 0]}).output
    graph.set_interface(outputs=[emit(graph, "MatMul", [x, turned]).output])
    done = run_pipeline(graph, parse_pipeline("fold-constants"), Context(runner=OnnxRuntimeRunner)).graph
    assert list(_marks(done).values()) == ["2:4 axis 0"]


@pytest.mark.parametrize(
    ("op_type", "target", "mark"),
    [
        ("Identity", None, "2:4 axis 1"),
        ("Reshape", [1, 4, 8], "2:4 axis 2"),
        ("Unsqueeze", [0], "2:4 axis 2"),
        ("Reshape", [2, 16], None),
    ],
)
def test_folding_follows_the_axis_as_far_as_it_is_one(op_type: str, target: list[int] | None, mark: str | None) -> None:
    graph = Graph()
    x = add_input(graph, "x", ["n", 4, 8])
    weight = add_constant(graph, "w", np.tile(np.array([1, 0, 2, 0], np.float32), (4, 2)))
    PAIRS.mark(weight)
    more = [] if target is None else [add_constant(graph, "target", np.array(target))]
    seen = emit(graph, op_type, [weight, *more]).output
    back = emit(
        graph, "Reshape", [x, add_constant(graph, "flat", np.array([-1] if mark is None else [-1, 4, 8]))]
    ).output
    graph.set_interface(outputs=[back, seen])
    done = run_pipeline(graph, parse_pipeline("fold-constants"), Context(runner=OnnxRuntimeRunner)).graph
    assert _marks(done).get(seen.name) == mark


@pytest.mark.parametrize("data", [False, True])
def test_what_loses_channels_is_masked_anew(data: bool) -> None:
    """Where channels go, others become neighbours, and a repair fills zeros."""
    graph = Net(16, 7).conv(32).op("Relu").conv(16).done()
    text = "sparsify,prune{ratio=0.5}"
    result = _run(text, graph) if data else run_pipeline(graph, parse_pipeline(text))
    assert _marks(result.graph) == {"w": "2:4 axis 1", "w_2": "2:4 axis 1"}
    assert all(SparsityScheme.of(value).holds(value.const) for value in result.graph.constants() if value.metadata)  # type: ignore[union-attr,arg-type]
    how = "and fitted anew" if data else "by magnitude"
    assert any(f"is 2:4 axis 1 again: masked {how}" in note for note in result.report.entries[1].notes)


def test_what_has_no_groups_any_more_loses_its_mark_and_the_report_says_so() -> None:
    result = _run("sparsify,prune{ratio=0.3,align=1}")
    assert _marks(result.graph) == {"w": "2:4 axis 1"}
    assert any("w_2 is no longer 2:4 axis 1: its " in note for note in result.report.entries[1].notes)


@dataclass(frozen=True)
class _Fills(Pass):
    """Puts a number where zeros were, and calls that exact."""

    name: ClassVar[str] = "fills"
    changes: ClassVar[Facet] = Facet.WEIGHTS
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, graph: Graph, context: Context) -> int:
        """Ones everywhere."""
        tensor = graph["w"].const
        assert tensor is not None
        graph["w"].set_const(Tensor(np.ones(tensor.shape, np.float32)))
        return 1


def test_a_pass_that_breaks_it_is_named() -> None:
    with pytest.raises(RefusedError, match="fills fills zeros of w, which is to stay 2:4 axis 1"):
        run_pipeline(_run("sparsify").graph, [_Fills()], Context())


@pytest.mark.parametrize("text", ["", "2:4", "two of four", "2:4 axis -1"])
def test_other_marks_are_not_ours(text: str) -> None:
    value = add_constant(Graph(), "w", np.zeros((4, 4), np.float32))
    value.metadata = {KEY: text}
    assert SparsityScheme.of(value) is None
