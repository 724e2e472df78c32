"""Walking block by block says what running the whole models says, of every layer, also while layers change."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from helpers.graphs import Net
from helpers.zoo import random_feeds, zoo

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.batches import Batch
from secateur.calib.sources import open_source
from secateur.ir import Graph, Tensor
from secateur.ir.rules.known import Known
from secateur.ir.rules.weights import WeightUse, weight_uses
from secateur.passes.context import Context
from secateur.passes.layers import stages
from secateur.passes.layers.evidence import Evidence, Streams, gather
from secateur.passes.layers.stages import trunk_blocks, walk
from secateur.passes.manager import run_pipeline
from secateur.passes.pipeline import parse_pipeline

MODELS = ("resnet50", "gpt2", "minilm", "llama-dynamic-opset17", "swin", "efficientnet-lite0")
LEAST = {"resnet50": 16, "gpt2": 4, "minilm": 12, "llama-dynamic-opset17": 4, "swin": 6, "efficientnet-lite0": 16}
"""So many blocks there must be: one for each attention and each pair of linear maps, or for each residual block."""


class _Feeds:
    """Two batches, the same at every walk."""

    name = "random feeds"

    def __init__(self, graph: Graph) -> None:
        self._batches = [Batch(random_feeds(graph, seed)) for seed in range(2)]

    def __iter__(self):
        return iter(self._batches)


def _layers(graph: Graph) -> list[WeightUse]:
    uses = [use for use in weight_uses(Known(graph)) if use.groups == 1 and use.has_samples_first]
    return [use for use in uses if not use.is_transposed][::3]


def _halved(graph: Graph, use: WeightUse) -> None:
    tensor = graph[use.weight.name].const
    assert tensor is not None
    graph[use.weight.name].set_const(Tensor(tensor.numpy() * np.float32(0.5), tensor.dtype))


def _same(one: Evidence, other: Evidence) -> None:
    for ours, theirs in ((one.fit, other.fit), (one.held_out, other.held_out)):
        assert ours.rows == theirs.rows
        for left, right in ((ours.xx, theirs.xx), (ours.xy, theirs.xy), (ours.yy, theirs.yy)):
            np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-4 * float(np.abs(right).max(initial=1e-9)))


@pytest.mark.parametrize("is_steady", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_stages_say_what_whole_runs_say_while_layers_change(name: str, is_steady: bool) -> None:
    present = zoo("small", "real")[name]()
    dense = present.clone()
    source = _Feeds(present)
    context = Context(runner=OnnxRuntimeRunner, source=source)
    uses = _layers(present)
    visited: list[int] = []

    def visit(job: int, streams: Streams) -> None:
        visited.append(job)
        (one,) = gather(streams, [uses[job]], context, 8)
        (other,) = gather(Streams.whole(present, dense, source), [uses[job]], context, 8)
        _same(one, other)
        if len(present.consumers(uses[job].weight)) == 1:
            _halved(present, uses[job])

    walk(present, dense, [[use.op] for use in uses], context, visit, is_steady=is_steady)
    assert sorted(visited) == list(range(len(uses)))
    assert len(trunk_blocks(present)) >= LEAST[name]


def test_a_job_that_spans_blocks_sees_them_as_one() -> None:
    graph = zoo("small")["resnet50"]()
    uses = _layers(graph)
    context = Context(runner=OnnxRuntimeRunner, source=_Feeds(graph))
    together: list[list[Evidence]] = []
    walk(
        graph,
        graph,
        [[uses[0].op, uses[-1].op]],
        context,
        lambda _, streams: together.append(gather(streams, [uses[0], uses[-1]], context, 8)),
    )
    alone = gather(Streams.whole(graph, graph, context.needed_source("the test")), [uses[0], uses[-1]], context, 8)
    for one, other in zip(together[0], alone, strict=True):
        _same(one, other)


@pytest.mark.parametrize("name", ["experts-routed", "experts-routed-opset17"])
def test_a_router_that_sends_other_tokens_is_no_trouble(name: str) -> None:
    """Pruned neurons change what the second router reads: it sends its experts other numbers of tokens."""
    graph = zoo("small")[name]()
    for text in ("prune{align=1}", "prune{align=1, criterion=magnitude, repair=none}", "sparsify{worthwhile=false}"):
        context = Context(runner=OnnxRuntimeRunner, source=_Feeds(graph))
        result = run_pipeline(graph, parse_pipeline(text), context)
        assert result.report.entries[0].rows


def test_weights_that_were_visited_wait_in_files_once_they_are_large_together() -> None:
    net = Net("wide")
    value = net.input("x", "n", 2048)
    for name in "abc":
        hidden = net.op("Relu", net.op("MatMul", value, net.constant(name, np.ones((2048, 1024), np.float32))))
        value = net.op("Add", value, net.op("Concat", hidden, hidden, axis=-1))
    graph = net.done((value, ("n", 2048)))
    ops = [[op] for op in graph.ops() if op.op_type == "MatMul"]
    source = open_source([Batch({"x": np.ones((1, 2048), np.float32)})])
    context = Context(runner=OnnxRuntimeRunner, source=source)
    lies_in_file: list[list[bool]] = []

    def visit(job: int, streams: Streams) -> None:
        lies_in_file.append([graph[name].const.is_mapped for name in "abc"])  # type: ignore[union-attr]

    walk(graph, graph, ops, context, visit)
    assert lies_in_file == [[False, False, False], [False, False, False], [True, True, False]]
    assert all(graph[name].const.numpy().all() for name in "ab")  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["resnet50", "minilm"])
def test_a_quantized_model_has_the_blocks_that_it_had(name: str) -> None:
    """Its weights are codes behind a DequantizeLinear, and layers all the same."""
    graph = zoo("small", "real")[name]()
    dense = [block.exit.name for block in trunk_blocks(graph)]
    context = Context(runner=OnnxRuntimeRunner, source=_Feeds(graph))
    quantized = run_pipeline(graph, parse_pipeline("quantize"), context).graph
    assert set(dense) <= {block.exit.name for block in trunk_blocks(quantized)}


STEPPING = (
    "sparsify{worthwhile=false, criterion=sparsegpt, repair=sweep}",
    "quantize{rounding=gptq}",
    "quantize, correct-bias{judge=false}",
    "factorize{ratio=0.3, align=1}",
    "armor{worthwhile=false, block=8, iterations=3, refits=2}",
    "rotate-heads",
    "smooth-quant{insert=true}",
    "permute{worthwhile=false}",
    "prune{ratio=0.3, align=1}",
)


@pytest.mark.parametrize("text", STEPPING)
def test_passes_leave_what_they_would_leave_if_the_whole_model_ran_for_each_layer(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a visit changes outside of its job would make later layers see what no model gives."""
    graph = zoo("small")["bert"]()
    context = Context(runner=partial(OnnxRuntimeRunner, optimize=False, threads=1), source=_Feeds(graph))
    stepped = run_pipeline(graph, parse_pipeline(text), context)
    assert stepped.report.entries[-1].rewrites
    monkeypatch.setattr(stages, "trunk_blocks", lambda graph: [])
    whole = run_pipeline(graph, parse_pipeline(text), context)
    ours, theirs = ({one.name: one.const for one in done.graph.constants()} for done in (stepped, whole))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        expected = theirs[name]
        assert tensor is not None and expected is not None
        if tensor.dtype.is_float:
            np.testing.assert_allclose(tensor.numpy(), expected.numpy(), rtol=1e-3, atol=1e-5, err_msg=name)
