"""Latency as a budget: with a clock that counts operations, what is foretold is what the pruned model takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.convolutional import Net
from helpers.zoo import random_feeds, zoo

from secateur.backends.latency import stopwatch
from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.sources import open_source
from secateur.ir import Graph
from secateur.ir.dims.groups import groups
from secateur.ir.dims.shrink import shrink
from secateur.ir.errors import BackendError, DataError, RefusedError
from secateur.ir.rules.cost import cost
from secateur.ir.runner import Feeds
from secateur.passes.context import Context
from secateur.passes.facts import Facts
from secateur.passes.manager import run_pipeline
from secateur.passes.pipeline import parse_pipeline
from secateur.passes.prune.budget import Budget
from secateur.passes.prune.costs import Costs
from secateur.passes.prune.facts import dims
from secateur.passes.prune.latency import latencies


def operations(graph: Graph, feeds: Feeds) -> float:
    """A clock on which a thousand multiply-accumulates take a millisecond."""
    return 1e-6 * cost(Facts(graph).get(dims).known).total


class Clock:
    """Operations, and so much for each op; counts how often it was asked."""

    def __init__(self, each: float = 0.0) -> None:
        self.each = each
        self.asked = 0

    def __call__(self, graph: Graph, feeds: Feeds) -> float:
        self.asked += 1
        return operations(graph, feeds) + self.each * len(graph.ops())


def _grouped() -> Graph:
    """Groups of channels: one axis of the weight has a factor of another's."""
    net = Net().conv(24).op("Relu").conv(24, group=4, pads=[1, 1, 1, 1]).op("Relu").conv(16, 1).op("Relu")
    return net.conv(16, group=16).op("Relu").conv(6, 1).done()


def context_of(graph: Graph, clock: Any = operations) -> Context:
    source = open_source(random_feeds(graph, 0))
    return Context(Facts(graph), runner=OnnxRuntimeRunner, stopwatch=clock, source=source)


@pytest.mark.parametrize(
    "name", ["resnet50", "mobilenet-v2", "densenet121", "shufflenet-v2", "convnext", "bert", "t5", "grouped"]
)
def test_what_is_foretold_is_what_the_pruned_model_takes(name: str) -> None:
    """Random sizes of all groups: operations are products of sizes, which lie on the lines between those timed."""
    dense = _grouped() if name == "grouped" else zoo("small")[name]()
    clock = Clock()
    for seed in range(3):
        graph, random = dense.clone(), np.random.default_rng(seed)
        context = context_of(graph, clock)
        found = context.facts.get(dims)
        costs = Costs(found, "latency", latencies(found, context))
        whole = operations(dense, {})
        assert costs.total({}) == pytest.approx(1e3 * whole)
        kept = {}
        for group in groups(found):
            if group.pin is None:
                some = random.choice(group.size, int(random.integers(1, group.size + 1)), replace=False)
                kept[group.dim] = np.sort(some)
        foretold = costs.total({dim: len(some) for dim, some in kept.items()})
        shrink(graph, found, kept)
        assert foretold == pytest.approx(1e3 * operations(graph, {}), rel=1e-6)


def test_the_whole_is_what_was_measured() -> None:
    """Ops that take longer by themselves are scaled down; what they do not explain is other ops' share."""
    graph = zoo("small")["resnet50"]()
    for each in (0.0, 1e-3):
        context = context_of(graph, Clock(each))
        found = context.facts.get(dims)
        costs = Costs(found, "latency", latencies(found, context))
        assert costs.total({}) == pytest.approx(1e3 * Clock(each)(graph, {}))
        least = costs.total({group.dim: 1 for group in groups(found) if group.pin is None})
        assert 0 < least < 0.5 * costs.total({})

    def fused(part: Graph, feeds: Feeds) -> float:
        return operations(part, feeds) * (0.5 if len(part.ops()) > 1 else 1.0)

    context = context_of(graph, fused)
    found = context.facts.get(dims)
    assert Costs(found, "latency", latencies(found, context)).total({}) == pytest.approx(1e3 * fused(graph, {}))


def test_times_that_fall_as_sizes_grow_are_not_believed() -> None:
    graph = Net().conv(16).op("Relu").conv(32).op("Relu").conv(8).done()
    random = np.random.default_rng(0)

    def noisy(part: Graph, feeds: Feeds) -> float:
        return operations(part, feeds) * random.uniform(0.5, 2)

    context = context_of(graph, noisy)
    found = context.facts.get(dims)
    costs = Costs(found, "latency", latencies(found, context))
    for group in groups(found):
        if group.pin is None:
            totals = [costs.total({group.dim: size}) for size in range(1, group.size + 1)]
            assert (np.diff(totals) >= -1e-12).all() and costs.unit(group.dim) >= 0


def test_each_shape_is_timed_once() -> None:
    net = Net().conv(16)
    for _ in range(6):
        net = net.op("Relu").conv(16, pads=[1, 1, 1, 1])
    graph, clock = net.op("Relu").conv(4).done(), Clock()
    context = context_of(graph, clock)
    latencies(context.facts.get(dims), context)
    assert clock.asked <= 1 + 5 + 25 + 25 + 5


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("name", ["resnet50", "bert"])
def test_a_latency_is_met(name: str, allocation: str) -> None:
    graph = zoo("small")[name]()
    whole = operations(graph, {})
    for limit in ("0.7", f"{0.6e3 * whole:.6f}ms"):
        text = f'prune{{budget="latency:{limit}", criterion=magnitude, repair=none, allocation={allocation}, align=1}}'
        result = run_pipeline(graph, parse_pipeline(text), context_of(graph))
        share = operations(result.graph, {}) / whole
        wanted = 0.7 if limit == "0.7" else 0.6
        assert wanted - 0.08 < share <= wanted + 1e-6


def test_latencies_are_read() -> None:
    assert Budget.parse("latency:0.7").allowed(20.0) == pytest.approx(14.0)
    assert Budget.parse("latency:0.7ms").allowed(20.0) == pytest.approx(0.7)
    assert Budget.parse("latency:35ms").allowed(20.0) == 35.0
    for text in ("latency:35", "latency:3M", "latency:0.5k", "macs:5ms", "latency:1.5"):
        with pytest.raises(ValueError, match="a latency is a share"):
            Budget.parse(text)
    with pytest.raises(RefusedError, match=r"1\.5 ms of latency cannot be met: 4 ms"):
        Budget.parse("latency:1.5ms").meet(lambda share: [4], lambda sizes: float(sum(sizes)))


def test_what_is_needed_is_named() -> None:
    graph = Net().conv(16).op("Relu").conv(8).done()
    passes = parse_pipeline('prune{budget="latency:0.7", criterion=magnitude, repair=none}')
    with pytest.raises(BackendError, match="budget=latency times the model"):
        run_pipeline(graph, passes, Context(runner=OnnxRuntimeRunner))
    with pytest.raises(DataError, match="budget=latency needs calibration data"):
        run_pipeline(graph, passes, Context(runner=OnnxRuntimeRunner, stopwatch=operations))


def test_the_stopwatch_tells_much_from_little() -> None:
    little, much = (Net(size=24).conv(width).op("Relu").conv(width).done() for width in (4, 96))
    feeds = {"x": np.zeros((8, 3, 24, 24), np.float32)}
    assert 0 < stopwatch(little, feeds, seconds=0.02) < stopwatch(much, feeds, seconds=0.02)
    with pytest.raises(ValueError, match="repeats"):
        stopwatch(little, feeds, repeats=0)
