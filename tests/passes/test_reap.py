"""Which experts matter: the same in every way to write a mixture, and against the definition on plain arrays."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.zoo import random_feeds, zoo

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.batches import Batch
from secateur.ir import Graph, Tensor
from secateur.ir.dims.analysis import Dimensions
from secateur.ir.dims.groups import Group, groups
from secateur.ir.dims.kinds import Kind, Roles
from secateur.passes.context import Context
from secateur.passes.layers.evidence import Streams
from secateur.passes.manager import run_pipeline
from secateur.passes.pipeline import parse_pipeline
from secateur.passes.prune.criteria.reap import reap
from secateur.passes.prune.experts import Routing, mixture_of, watch
from secateur.passes.prune.facts import dims
from secateur.passes.prune.problem import Problem

MODELS = ("experts-dense", "experts-routed", "experts-routed-opset17", "mixtral", "qwen-moe")


class _Feeds:
    name = "random feeds"

    def __init__(self, graph: Graph) -> None:
        self._batches = [Batch(random_feeds(graph, seed)) for seed in range(3)]

    def __iter__(self):
        return iter(self._batches)


def _experts(found: Dimensions) -> list[Group]:
    roles = Roles(found)
    return [group for group in groups(found) if group.pin is None and roles.kind(group) is Kind.EXPERTS]


def _watched(graph: Graph) -> list[Routing]:
    found, context = dims(graph), Context(runner=OnnxRuntimeRunner, source=_Feeds(graph))
    streams = Streams.whole(graph, graph, context.needed_source("the test"))
    mixtures = [mixture_of(found, group) for group in _experts(found)]
    return [watch(mixture, streams, context) for mixture in mixtures if mixture is not None]


@pytest.mark.parametrize("name", MODELS)
def test_every_token_chooses_as_many_experts_as_topk_says(name: str) -> None:
    graph = zoo("small")[name]()
    seen, mixtures = _watched(graph), _experts(dims(graph))
    assert len(seen) == len(mixtures) >= 1
    for routing in seen:
        assert routing.count.sum() == 3 * 33 * 2  # batches, tokens, experts a token
        assert (routing.weighted <= routing.plain * (1 + 1e-5)).all()
        assert routing.weighted.sum() > 0


@pytest.mark.parametrize("other", MODELS[1:3])
def test_evaluated_densely_or_routed_it_is_the_same_mixture(other: str) -> None:
    dense, routed = (_watched(zoo("small")[name]()) for name in ("experts-dense", other))
    for one, two in zip(dense, routed, strict=True):
        np.testing.assert_array_equal(one.count, two.count)
        np.testing.assert_allclose(one.weighted, two.weighted, rtol=1e-4)
        np.testing.assert_allclose(one.plain, two.plain, rtol=1e-4)


def test_it_is_the_mean_of_share_times_norm() -> None:
    random = np.random.default_rng(0)
    shares, norms = random.uniform(size=(50, 6)), random.uniform(size=(50, 6))
    shares[shares < 0.5] = 0
    shares[:, 4] = 0
    chosen = shares > 0
    routing = Routing(chosen.sum(axis=0).astype(float), (shares * norms).sum(axis=0), (norms * chosen).sum(axis=0))
    problem = Problem(6, (), (), (), random, 0.0, routing=routing)
    expected = [
        float((shares[chosen[:, j], j] * norms[chosen[:, j], j]).mean()) if chosen[:, j].any() else 0 for j in range(6)
    ]
    assert reap(problem, 3).order.tolist() == np.argsort(expected, kind="stable").tolist()
    assert reap(problem, 1).order[0] == 4


def _silenced(graph: Graph, expert: int) -> Graph:
    """One expert's last weights are zero, in both mixtures."""
    for layer in range(2):
        value = graph[f"model.mixtures.{layer}.experts.{expert}.down.weight"]
        assert value.const is not None
        value.set_const(Tensor(np.zeros(value.const.shape, np.float32)))
    return graph


@pytest.mark.parametrize("name", ["experts-dense", "experts-routed"])
@pytest.mark.parametrize("expert", [0, 3])
def test_an_expert_that_gives_nothing_goes_first(name: str, expert: int) -> None:
    graph = _silenced(zoo("small")[name](), expert)
    context = Context(runner=OnnxRuntimeRunner, source=_Feeds(graph))
    result = run_pipeline(graph, parse_pipeline("prune{ratio=0.2, dims=experts, exact=false}"), context)
    for layer in range(2):
        kept = result.manifest.kept[f"model.mixtures.{layer}.router.weight"][0]
        assert kept.tolist() == [one for one in range(5) if one != expert]
