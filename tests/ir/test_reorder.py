"""The permutation oracle: whatever order the indices of free dimensions are given, the model computes what it did."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from helpers.mask_oracle import analyse, difference, run
from helpers.operator_cases import CASES
from helpers.operator_net import Case
from helpers.random_nets import RandomNet
from helpers.structures import structures
from helpers.zoo import random_feeds, zoo
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.ir import Graph
from secateur.ir.dims.analysis import Dimensions
from secateur.ir.dims.groups import Group, groups
from secateur.ir.dims.order import fixed, order_rules
from secateur.ir.dims.reorder import reorder
from secateur.ir.errors import RefusedError
from secateur.passes.context import Context
from secateur.passes.manager import run_pipeline
from secateur.passes.pipeline import parse_pipeline

MODELS = zoo("small")


def _free(found: Dimensions) -> list[Group]:
    held = fixed(found)
    return [group for group in groups(found) if group.dim not in held]


def _shuffled(graph: Graph, seed: int = 0) -> tuple[Graph, int]:
    """A copy with every free dimension in a random order, and how many there are."""
    copy = graph.clone()
    found = analyse(copy)
    random = np.random.default_rng(seed)
    orders = {group.dim: random.permutation(group.size) for group in _free(found)}
    reorder(copy, found, orders)
    copy.verify()
    return copy, len(orders)


def _check(graph: Graph, feeds: Mapping[str, np.ndarray], runs: str = "ort", seed: int = 0) -> int:
    shuffled, count = _shuffled(graph, seed)
    assert difference(run(graph, feeds, runs), run(shuffled, feeds, runs)) < 1e-4
    return count


@pytest.mark.parametrize("name", structures())
def test_structures_compute_what_they_did(name: str) -> None:
    graph = structures()[name]()
    assert _check(graph, random_feeds(graph, 1))


@pytest.mark.parametrize("case", [case for case in CASES if case.runs], ids=lambda case: case.title)
def test_every_operator(case: Case) -> None:
    net = case.make()
    _check(net.graph, net.feeds, case.runs)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(4, 24))
def test_random_graphs(seed: int, steps: int) -> None:
    net = RandomNet(seed, steps, None).net
    _check(net.graph, net.feeds, seed=seed)


@pytest.mark.parametrize("name", MODELS)
def test_models_compute_what_they_did(name: str) -> None:
    graph = run_pipeline(MODELS[name](), parse_pipeline("clean"), Context()).graph
    _check(graph, random_feeds(graph, 1))


def test_there_and_back_is_the_same_model() -> None:
    graph = structures()["residual_trunk"]()
    before = {value.name: value.const.numpy().copy() for value in graph.constants() if value.const is not None}
    found = analyse(graph)
    orders = {group.dim: np.random.default_rng(3).permutation(group.size) for group in _free(found)}
    reorder(graph, found, orders)
    reorder(graph, found, {dim: np.argsort(order) for dim, order in orders.items()})
    after = {value.name: value.const.numpy() for value in graph.constants() if value.const is not None}
    assert before.keys() == after.keys()
    assert all(np.array_equal(array, after[name]) for name, array in before.items())


def test_what_has_an_order_is_refused() -> None:
    graph = structures()["residual_trunk"]()
    found = analyse(graph)
    pinned = next(group for group in groups(found) if group.pin is not None)
    with pytest.raises(RefusedError, match="cannot be reordered"):
        reorder(graph, found, {pinned.dim: np.arange(pinned.size)[::-1]})
    free = _free(found)[0]
    with pytest.raises(RefusedError, match="has no order"):
        reorder(graph, found, {free.dim: np.zeros(free.size, np.int64)})


def test_running_sums_and_neighbourhoods_have_an_order() -> None:
    assert {"CumSum", "LRN"} <= set(order_rules)
