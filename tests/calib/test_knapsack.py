"""Allocations are the best of all that fit the budget, never exceed it, and are never worse with more of it."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.calib.solvers.knapsack import Allocation, Options, allocate, allocate_greedily, hull

SEEDS = st.integers(0, 2**32 - 1)


def items_of(seed: int, whole: bool) -> list[Options]:
    random = np.random.default_rng(seed)
    items = []
    for _ in range(random.integers(1, 5)):
        count = random.integers(1, 5)
        costs = random.integers(0, 30, count).astype(float) * 4 if whole else random.exponential(10, count)
        # Values of which some are equal, some negative.
        items.append(Options(random.integers(-4, 9, count).astype(float), costs))
    return items


def cheapest(items: list[Options]) -> float:
    return float(sum(item.costs.min() for item in items))


def dearest(items: list[Options]) -> float:
    return float(sum(item.costs.max() for item in items))


def enumerated(items: list[Options], budget: float) -> float:
    """The largest value of all allocations."""
    return max(
        sum(item.values[option] for item, option in zip(items, chosen, strict=True))
        for chosen in product(*(range(len(item.costs)) for item in items))
        if sum(item.costs[option] for item, option in zip(items, chosen, strict=True)) <= budget * (1 + 1e-12)
    )


def consistent(items: list[Options], found: Allocation, budget: float) -> None:
    pairs = list(zip(items, found.chosen, strict=True))
    assert found.value == pytest.approx(sum(item.values[option] for item, option in pairs))
    assert found.cost == pytest.approx(sum(item.costs[option] for item, option in pairs))
    assert found.cost <= budget * (1 + 1e-12)


@settings(max_examples=150, deadline=None)
@given(seed=SEEDS, share=st.floats(0, 1.2))
def test_it_is_the_best_there_is(seed: int, share: float) -> None:
    items = items_of(seed, whole=True)
    budget = cheapest(items) + share * (dearest(items) - cheapest(items))
    found = allocate(items, budget)
    consistent(items, found, budget)
    assert found.value == enumerated(items, budget)


@settings(max_examples=100, deadline=None)
@given(seed=SEEDS, share=st.floats(0, 1.2), cells=st.sampled_from([1, 10, 1000, 1 << 16]))
def test_rounded_costs_lose_at_most_a_cell_an_item(seed: int, share: float, cells: int) -> None:
    items = items_of(seed, whole=False)
    room = dearest(items) - cheapest(items)
    budget = cheapest(items) + share * room
    found = allocate(items, budget, cells)
    consistent(items, found, budget)
    assert found.value <= enumerated(items, budget)
    less = budget - len(items) * room / cells - room / cells
    if less >= cheapest(items):
        assert found.value >= enumerated(items, less)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, whole=st.booleans(), cells=st.sampled_from([7, 1000]))
def test_more_budget_is_never_worse(seed: int, whole: bool, cells: int) -> None:
    items = items_of(seed, whole)
    budgets = np.linspace(cheapest(items), dearest(items) + 1, 23)
    for find in (lambda budget: allocate(items, budget, cells), lambda budget: allocate_greedily(items, budget)):
        found = [find(budget) for budget in budgets]
        values = [one.value for one in found]
        assert values == sorted(values)
        for one, budget in zip(found, budgets, strict=True):
            consistent(items, one, budget)


@settings(max_examples=100, deadline=None)
@given(seed=SEEDS)
def test_greedy_is_the_best_where_it_spends_all(seed: int) -> None:
    items = items_of(seed, whole=True)
    for budget in np.linspace(cheapest(items), dearest(items), 7):
        found = allocate_greedily(items, float(budget))
        consistent(items, found, float(budget))
        assert found.value == enumerated(items, found.cost)


@settings(max_examples=100, deadline=None)
@given(seed=SEEDS)
def test_hulls_are_those_of_the_best_mixtures(seed: int) -> None:
    item = items_of(seed, whole=True)[0]
    corners = hull(item)
    costs, values = item.costs[corners], item.values[corners]
    assert (np.diff(costs) > 0).all()
    assert (np.diff(values) > 0).all()
    assert (np.diff(np.diff(values) / np.diff(costs)) < 0).all()
    # Nothing lies above it.
    assert (item.values <= np.interp(item.costs, costs, values) + 1e-9).all()
    assert costs[0] == item.costs.min()


def test_small_layers_come_first_where_all_are_as_important() -> None:
    sizes = [100, 10, 1000, 50]
    items = [Options(np.array([0.0, 1.0]), np.array([4.0 * size, 8.0 * size])) for size in sizes]
    base = 4 * sum(sizes)
    for room, upgraded in ((0, []), (40, [1]), (240, [1, 3]), (700, [0, 1, 3]), (4640, [0, 1, 2, 3])):
        for find in (allocate, allocate_greedily):
            assert np.flatnonzero(find(items, base + room).chosen).tolist() == upgraded


def test_many_layers_of_real_sizes() -> None:
    random = np.random.default_rng(0)
    items = [
        Options(-random.exponential(1, 6).cumsum()[::-1].copy(), np.sort(random.integers(1, 10**7, 6)).astype(float))
        for _ in range(60)
    ]
    budget = (cheapest(items) + dearest(items)) / 2
    found, greedy = allocate(items, budget), allocate_greedily(items, budget)
    consistent(items, found, budget)
    assert found.value >= greedy.value
    # No allocation is better than the hulls at the whole budget, and one step of greed is all that may be lacking.
    step = max(float(np.diff(item.values[hull(item)]).max(initial=0)) for item in items)
    assert found.value >= greedy.value
    assert found.value <= greedy.value + step


def test_nothing_to_choose() -> None:
    assert allocate([], 0.0).value == 0
    one = [Options(np.array([3.0]), np.array([2.0]))]
    assert allocate(one, 2.0).chosen.tolist() == [0]


@pytest.mark.parametrize("find", [allocate, allocate_greedily])
def test_what_cannot_be_is_refused(find: Any) -> None:
    items = [Options(np.array([1.0, 2.0]), np.array([4.0, 8.0]))]
    with pytest.raises(ValueError, match="cheapest options cost 4 together, more than the budget of 3"):
        find(items, 3.0)


def test_what_is_no_option_is_refused() -> None:
    with pytest.raises(ValueError, match="0 values"):
        Options(np.array([]), np.array([]))
    with pytest.raises(ValueError, match="2 values and 1 costs"):
        Options(np.ones(2), np.ones(1))
    with pytest.raises(ValueError, match="finite"):
        Options(np.array([np.nan]), np.ones(1))
    with pytest.raises(ValueError, match="finite"):
        Options(np.ones(1), -np.ones(1))
    with pytest.raises(ValueError, match="at least one cell"):
        allocate([], 0.0, 0)
