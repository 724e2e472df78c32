"""Orders for N:M masks: the model computes what it did, masks keep more, and a manifest replays it all."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.convolutional import Net
from helpers.mask_oracle import difference, run
from helpers.sparse_problems import satisfies
from helpers.zoo import random_feeds, zoo

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.sources import open_source
from secateur.ir import Graph
from secateur.ir.errors import RefusedError, TextError
from secateur.ir.onnx_write import to_bytes
from secateur.passes.context import Context
from secateur.passes.manager import Result, run_pipeline
from secateur.passes.pipeline import parse_pipeline
from secateur.replaying import replay

MODELS = ["resnet50", "mobilenet-v2", "swin", "vit-torch", "bert", "gpt2", "llama"]
"""Trunks, windows, heads, gates: each shares channels in another way."""


def _run(graph: Graph, text: str, data: bool = False) -> Result:
    source = open_source([random_feeds(graph, seed) for seed in range(6)], None) if data else None
    return run_pipeline(graph, parse_pipeline(text), Context(runner=OnnxRuntimeRunner, source=source))


def _kept(result: Result) -> list[tuple[float, float]]:
    """What masks keep of each dimension before and after."""
    (entry,) = [one for one in result.report.entries if one.text.startswith("permute")]
    return [(float(str(row["kept_before"])), float(str(row["kept_after"]))) for row in entry.rows]


def _two_convolutions() -> Graph:
    return Net(16, 5).conv(16, 3).norm().op("Relu").conv(24, 1).done()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("options", ["search=assign", "search=exchange, criterion=ri"])
def test_models_compute_what_they_did_and_masks_keep_more(name: str, options: str) -> None:
    graph = run_pipeline(zoo("small")[name](), parse_pipeline("clean"), Context()).graph
    permuted = _run(graph, f"permute{{worthwhile=false, {options}}}")
    feeds = random_feeds(graph, 3)
    assert difference(run(graph, feeds), run(permuted.graph, feeds)) < 1e-4
    assert len(list(permuted.graph.ops())) == len(list(graph.ops()))
    kept = _kept(permuted)
    assert all(after >= before for before, after in kept)
    assert any(after > before for before, after in kept)


def test_masks_really_keep_what_the_report_says() -> None:
    graph = _two_convolutions()
    permuted = _run(graph, "permute")
    (before, after), shares = _kept(permuted)[0], []
    for one in (graph, permuted.graph):
        sparse = _run(one, "sparsify{criterion=magnitude, repair=none}").graph
        last = [op.inputs[1] for op in sparse.ops() if op.op_type == "Conv"][-1]
        whole = [op.inputs[1] for op in one.ops() if op.op_type == "Conv"][-1]
        assert last is not None and last.const is not None and whole is not None and whole.const is not None
        assert satisfies(last.const.numpy(), 2, 4, 1)
        shares.append(np.abs(last.const.numpy()).sum() / np.abs(whole.const.numpy()).sum())
    assert shares == pytest.approx([before, after], rel=1e-5)


def test_data_says_which_channels_count() -> None:
    graph = _two_convolutions()
    with_data, without = _run(graph, "permute", data=True), _run(graph, "permute")
    feeds = random_feeds(graph, 9)
    assert difference(run(graph, feeds), run(with_data.graph, feeds)) < 1e-4
    assert to_bytes(with_data.graph) != to_bytes(without.graph)
    assert to_bytes(with_data.graph) == to_bytes(_run(graph, "permute", data=True).graph)


@pytest.mark.parametrize("name", ["lstm", "gru", "mixtral"])
def test_what_the_data_does_not_show_is_judged_by_magnitude(name: str) -> None:
    """Recurrent layers and fused mixtures keep to themselves what their weights read."""
    graph = run_pipeline(zoo("small")[name](), parse_pipeline("clean"), Context()).graph
    permuted = _run(graph, "permute{worthwhile=false}", data=True)
    feeds = random_feeds(graph, 3)
    assert difference(run(graph, feeds), run(permuted.graph, feeds)) < 1e-4
    assert all(after >= before for before, after in _kept(permuted))


def test_what_enters_and_leaves_the_model_keeps_its_order() -> None:
    graph = Net(16, 5).conv(24, 1).done()
    result = _run(graph, "permute")
    assert result.report.rewrites == 0
    assert any("is an input of the model" in note for note in result.report.entries[0].notes)


@pytest.mark.parametrize(
    "pipeline",
    [
        "permute, sparsify{criterion=magnitude, repair=none}",
        "prune{criterion=magnitude, ratio=0.25, align=4}, permute, sparsify{criterion=magnitude, repair=none}",
    ],
)
@pytest.mark.parametrize("name", ["resnet50", "llama"])
def test_a_manifest_replays_orders(name: str, pipeline: str) -> None:
    graph = run_pipeline(zoo("small")[name](), parse_pipeline("clean"), Context()).graph
    done = _run(graph, pipeline.replace("permute", "permute{worthwhile=false}"))
    again = replay(done.manifest, graph)
    wanted = {value.name: value.const for value in done.graph.constants() if value.const is not None}
    found = {value.name: value.const for value in again.constants() if value.const is not None}
    assert wanted.keys() == found.keys()
    assert all(tensor.equals(found[name]) for name, tensor in wanted.items())


def test_what_cannot_be_asked_for() -> None:
    with pytest.raises(TextError, match="an order matters to N:M"):
        parse_pipeline("permute{pattern=50%}")
    with pytest.raises(TextError, match="needs gradients"):
        parse_pipeline("permute{criterion=pruner-zero}")
    with pytest.raises(RefusedError, match="needs calibration data"):
        _run(_two_convolutions(), "permute{criterion=wanda}")
