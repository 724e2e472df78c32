"""Regions of scales: whatever positive scales they get, the model computes what it did."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.graphs import Net, tiny_graphs
from helpers.graphs import random_feeds as tiny_feeds
from helpers.random_nets import RandomNet
from helpers.structures import structures
from helpers.zoo import random_feeds, zoo

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.ir import Graph, Value
from secateur.ir.build import add_input, emit
from secateur.ir.dims.carrying import carrying_rules
from secateur.ir.rules.weights import weight_uses
from secateur.passes.facts import Facts
from secateur.passes.manager import run_pipeline
from secateur.passes.pipeline import parse_pipeline
from secateur.passes.prune.facts import dims
from secateur.passes.scale.region import Region
from secateur.passes.scale.rescale import rescale
from secateur.passes.scale.walk import region_of

Array = np.ndarray[Any, Any]


def regions(graph: Graph) -> dict[str, Region]:
    """By the name of the data of the first layer that reads it."""
    found = Facts(graph).get(dims)
    return {use.data.name: region_of(found, use) for use in weight_uses(found.known)}


def scale_all(graph: Graph, seed: int = 0) -> int:
    """Gives every free scale a random value, one region after another; returns how many there were."""
    found, random, seen, count = Facts(graph).get(dims), np.random.default_rng(seed), set[Value](), 0
    for use in weight_uses(found.known):
        if use.data in seen or graph.constant(use.data) is not None:
            continue
        seen.add(use.data)
        region = region_of(found, use)
        if region.is_free:
            seen.update(region.values)
            scale = np.exp(random.normal(size=region.count))
            scale[0] = 1.0
            assert rescale(graph, found.known, region, scale) is None
            count += region.count - 1
    graph.verify()
    return count


def run(graph: Graph, feeds: dict[str, Array]) -> dict[str, Array]:
    with OnnxRuntimeRunner(graph, optimize=False, threads=1) as runner:
        return runner.run(feeds)


def unchanged(before: dict[str, Array], after: dict[str, Array], tolerance: float = 1e-5) -> None:
    for name, array in before.items():
        if array.dtype.kind == "f":
            np.testing.assert_allclose(after[name], array, rtol=0, atol=tolerance * float(np.abs(array).max(initial=0)))
        else:
            np.testing.assert_array_equal(after[name], array)


LEAST = {"llama": 500, "gpt2": 400, "t5": 900, "resnet50": 100, "shufflenet-v2": 300, "vit-packed": 350, "bert": 150}
"""Some models must give at least so many scales."""


@pytest.mark.parametrize("name", zoo("small"))
def test_any_scale_of_a_region_leaves_the_model_as_it_was(name: str) -> None:
    graph = run_pipeline(zoo("small")[name](), parse_pipeline("clean")).graph
    feeds = random_feeds(graph, 3)
    before = run(graph, feeds)
    assert scale_all(graph) >= LEAST.get(name, 0)
    # Random nets of many layers blow rounding up; what is wrong is wrong by far more.
    unchanged(before, run(graph, feeds), 2e-5)


@pytest.mark.parametrize("name", tiny_graphs())
def test_tiny_graphs(name: str) -> None:
    graph = tiny_graphs()[name]()
    feeds = tiny_feeds(graph, 3)
    before = run(graph, feeds)
    scale_all(graph, 5)
    unchanged(before, run(graph, feeds))


@pytest.mark.parametrize("name", structures())
def test_structures(name: str) -> None:
    graph = structures()[name]()
    feeds = tiny_feeds(graph, 1)
    before = run(graph, feeds)
    assert scale_all(graph) or name == "recurrent"
    unchanged(before, run(graph, feeds))


@pytest.mark.parametrize("batch", [None, "batch"])
@pytest.mark.parametrize("seed", range(25))
def test_random_nets(seed: int, batch: str | None) -> None:
    net = RandomNet(seed, 8 + seed % 8, batch).net
    before = run(net.graph, net.feeds)
    assert scale_all(net.graph, seed)
    unchanged(before, run(net.graph, net.feeds), 2e-5)


def test_heads_that_share_values_share_their_scales() -> None:
    graph = run_pipeline(zoo("small")["llama"](), parse_pipeline("clean")).graph
    region = regions(graph)["view_4"]
    assert region.count - 1 == 2 * 14
    (side,) = region.readers
    heads = side.numbers.reshape(2, 4, 14)
    assert (heads == heads[:, :1]).all()
    assert len(region.makers) == 1


def test_queries_and_keys_that_lie_beside_values_keep_their_scale() -> None:
    graph = run_pipeline(zoo("small")["vit-packed"](), parse_pipeline("clean")).graph
    (maker,) = regions(graph)["view_2"].makers
    assert (maker.numbers[:120] == 0).all()
    assert len(set(maker.numbers[120:].tolist()) - {0}) == 60


def _mlp(between: str, *others: Array) -> Graph:
    """x -> MatMul -> Add -> between -> MatMul."""
    net = Net("mlp")
    hidden = net.op("MatMul", net.input("x", 3, 4), net.weight("w1", 4, 6))
    hidden = net.op("Add", hidden, net.weight("b1", 6))
    constants = [net.constant(f"c{at}", one.astype(np.float32)) for at, one in enumerate(others)]
    hidden = net.op(between, hidden, *constants, to="h")
    return net.done((net.op("MatMul", hidden, net.weight("w2", 6, 5), to="y"), (3, 5)))


@pytest.mark.parametrize("between", ["Relu", "LeakyRelu", "Identity", "Abs", "Neg"])
def test_what_commutes_carries(between: str) -> None:
    region = regions(_mlp(between))["h"]
    assert region.count - 1 == 6
    assert [side.use.weight.name for side in region.makers] == ["w1"]
    assert region.reason is None


@pytest.mark.parametrize("between", ["Sigmoid", "Tanh", "Gelu", "HardSwish", "Softmax", "Exp", "Erf"])
def test_what_does_not_commute_stops(between: str) -> None:
    region = regions(_mlp(between))["h"]
    assert not region.is_free
    assert between in str(region.reason)
    assert between not in carrying_rules


def test_clip_carries_where_its_bounds_scale() -> None:
    zero, six, endless = (np.array(one) for one in (0.0, 6.0, np.inf))
    assert regions(_mlp("Clip", zero))["h"].is_free
    assert regions(_mlp("Clip", zero, endless))["h"].is_free
    assert not regions(_mlp("Clip", zero, six))["h"].is_free


def test_a_constant_that_is_multiplied_takes_the_scale_up() -> None:
    region = regions(_mlp("Mul", np.arange(1, 7)))["h"]
    assert region.count - 1 == 6
    assert not region.makers
    assert [patch.is_gain for patch in region.patches] == [True]


def test_a_number_that_is_multiplied_hands_the_scale_on() -> None:
    region = regions(_mlp("Mul", np.array(0.25)))["h"]
    assert [side.use.weight.name for side in region.makers] == ["w1"]


def test_an_output_of_the_model_holds_its_scale() -> None:
    graph = _mlp("Relu")
    graph.set_interface(outputs=[*graph.outputs, graph["h"]])
    region = regions(graph)["h"]
    assert not region.is_free
    assert "output of the model" in str(region.reason)


def test_a_weight_that_is_read_twice_holds_its_scale() -> None:
    graph = _mlp("Relu")
    other = emit(graph, "MatMul", [add_input(graph, "x2", (3, 6)), graph["w2"]], outputs=["y2"]).output
    graph.set_interface(outputs=[*graph.outputs, other])
    assert "read elsewhere" in str(regions(graph)["h"].reason)
