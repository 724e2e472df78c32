"""How what has to go is shared out, what it is estimated to save, and the budget that it must meet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from helpers.zoo import zoo
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.ir import Graph
from secateur.ir.dims.groups import groups
from secateur.ir.dims.shrink import shrink
from secateur.ir.errors import RefusedError
from secateur.ir.rules.cost import cost
from secateur.passes.prune.allocation import ALLOCATIONS, BY_LOSS, Candidate
from secateur.passes.prune.allocation.by_loss import by_loss
from secateur.passes.prune.allocation.incremental import incremental
from secateur.passes.prune.allocation.sensitivity import MOST, sensitivity
from secateur.passes.prune.allocation.threshold import threshold
from secateur.passes.prune.allocation.uniform import uniform
from secateur.passes.prune.budget import Budget
from secateur.passes.prune.costs import Costs, Resource
from secateur.passes.prune.facts import dims

SMALL = zoo("small")
RATIOS = st.floats(0.0, 0.999)


@st.composite
def candidates(draw: st.DrawFn, convex: bool = False, step: int | None = None) -> list[Candidate]:
    """Groups of several sizes, steps, floors and costs; losses in any order, or rising."""
    found = []
    for _ in range(draw(st.integers(1, 5))):
        size = draw(st.integers(1, 20))
        random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        loss = random.exponential(size=size - draw(st.integers(0, 1)))
        rounded = step or draw(st.sampled_from([1, 2, 3, 8, 32]))
        least = draw(st.integers(1, size)) if step is None else 1
        cost, harm = random.uniform(0.5, 9), draw(st.sampled_from([None, 0.0, math.inf, *random.exponential(size=3)]))
        found.append(Candidate(size, rounded, least, cost, np.sort(loss) if convex else loss, harm))
    return found


def saved(some: Sequence[Candidate], sizes: Sequence[int]) -> float:
    return sum((one.size - keep) * one.cost for one, keep in zip(some, sizes, strict=True))


def lost(some: Sequence[Candidate], sizes: Sequence[int]) -> float:
    return sum(float(one.loss[: one.size - keep].sum()) for one, keep in zip(some, sizes, strict=True))


def whole(some: Sequence[Candidate]) -> float:
    return sum(one.size * one.cost for one in some)


@pytest.mark.parametrize("name", ALLOCATIONS.names())
@settings(max_examples=80, deadline=None, derandomize=True)
@given(some=candidates(), one=RATIOS, other=RATIOS)
def test_sizes_are_allowed_and_fall_with_the_share(name: str, some: list[Candidate], one: float, other: float) -> None:
    allocate = ALLOCATIONS[name]
    less, more = (allocate(some, ratio) for ratio in sorted((one, other)))
    assert allocate(some, 0.0) == [each.size for each in some]
    for each, few, many in zip(some, more, less, strict=True):
        assert 1 <= few <= many <= each.size
        for keep in (few, many):
            assert keep == each.size or (keep % each.step == 0 and keep >= each.least)


@pytest.mark.parametrize("name", ALLOCATIONS.names())
def test_nothing_to_share_out_over(name: str) -> None:
    assert ALLOCATIONS[name]([], 0.5) == []


@pytest.mark.parametrize("name", ["global", "sensitivity", "threshold", "uniform"])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(some=candidates(), ratio=RATIOS, data=st.data())
def test_the_order_of_groups_does_not_matter(
    name: str, some: list[Candidate], ratio: float, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(some))))
    sizes = ALLOCATIONS[name](some, ratio)
    assert ALLOCATIONS[name]([some[index] for index in order], ratio) == [sizes[index] for index in order]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(some=candidates(), ratio=RATIOS)
def test_global_saves_what_was_asked_for_where_it_can(some: list[Candidate], ratio: float) -> None:
    least = [one.rounded(1) for one in some]
    sizes = by_loss(some, ratio)
    assert saved(some, sizes) >= min(ratio * whole(some), saved(some, least)) - 1e-6


@settings(max_examples=60, deadline=None, derandomize=True)
@given(some=candidates(convex=True, step=1), ratio=RATIOS)
def test_with_rising_losses_and_no_steps_threshold_and_global_agree(some: list[Candidate], ratio: float) -> None:
    assert by_loss(some, ratio) == threshold(some, ratio)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(some=candidates(convex=True, step=1), ratio=RATIOS)
def test_units_of_equal_cost_go_by_loss_alone(some: list[Candidate], ratio: float) -> None:
    """The twin: all losses in one sorted list."""
    alike = [replace(one, cost=2.0) for one in some]
    flat = sorted((loss, index) for index, one in enumerate(alike) for loss in one.loss[: one.size - 1])
    count = min(len(flat), math.ceil(ratio * sum(one.size for one in alike) - 1e-9))
    gone = [index for _, index in flat[:count]]
    assert by_loss(alike, ratio) == [one.size - gone.count(index) for index, one in enumerate(alike)]


def test_global_is_near_the_best_there_is() -> None:
    """All choices of three groups' sizes: a convex hull loses no more than one piece of it."""
    ratios = []
    for seed in range(40):
        random = np.random.default_rng(seed)
        some = [Candidate(6, 1, 1, float(random.uniform(1, 3)), random.exponential(size=5)) for _ in range(3)]
        sizes = by_loss(some, 0.4)
        enough = 0.4 * whole(some)
        fits = [keep for keep in product(range(1, 7), repeat=3) if saved(some, keep) >= enough - 1e-9]
        best = min(lost(some, keep) for keep in fits)
        assert saved(some, sizes) >= enough - 1e-9
        ratios.append(lost(some, sizes) / best)
    assert min(ratios) >= 1 - 1e-9 and np.mean(ratios) < 1.25


def test_global_sees_what_a_dear_first_unit_opens() -> None:
    dear_first = Candidate(4, 1, 1, 1.0, np.array([3.0, 0.0, 0.0]))
    even = Candidate(4, 1, 1, 1.0, np.array([2.0, 2.0, 2.0]))
    assert by_loss([dear_first, even], 3 / 8) == [1, 4]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(some=candidates(convex=True, step=1), one=RATIOS, other=RATIOS)
def test_the_threshold_rises_with_the_share(some: list[Candidate], one: float, other: float) -> None:
    """No unit that stays is cheaper than one that goes."""
    sizes = threshold(some, one)
    if sizes != [each.size for each in some]:
        prices = [each.loss / each.cost for each in some]
        gone = [price[: each.size - keep] for price, each, keep in zip(prices, some, sizes, strict=True)]
        stays = [price[each.size - keep :][: keep - 1] for price, each, keep in zip(prices, some, sizes, strict=True)]
        assert np.concatenate(gone).max() <= np.concatenate([*stays, [np.inf]]).min()
        assert saved(some, sizes) >= min(one * whole(some), sum((each.size - 1) * each.cost for each in some)) - 1e-6


@pytest.mark.parametrize("count", [1, 2, 3, 12, 40])
@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.5, 0.7, 0.9, 0.97])
def test_the_mean_share_of_incremental_is_what_was_asked_for(count: int, ratio: float) -> None:
    sizes = np.array(incremental([Candidate(1_000_000, 1, 1, 1.0)] * count, ratio))
    shares = 1 - sizes / 1_000_000
    assert shares.mean() == pytest.approx(ratio, abs=2e-6)
    assert (np.diff(shares) >= -1e-9).all() and shares.max() <= max(0.95, ratio) + 1e-6
    if count > 1 and 0 < ratio <= 0.5:
        assert shares[0] == pytest.approx(ratio / 2, abs=2e-6)
        middle = ratio / 2 + (shares[-1] - ratio / 2) * math.log(count // 2 + 1) / math.log(count)
        assert shares[count // 2] == pytest.approx(middle, abs=4e-6)


def large(harms: Sequence[float | None], costs: Sequence[float] | None = None) -> list[Candidate]:
    """Groups of so many units that rounding does not count."""
    costs = [1.0] * len(harms) if costs is None else costs
    return [Candidate(1_000_000, 1, 1, cost, harm=harm) for harm, cost in zip(harms, costs, strict=True)]


def shares(some: Sequence[Candidate], ratio: float) -> np.ndarray[Any, Any]:
    return np.array([1 - keep / one.size for keep, one in zip(sensitivity(some, ratio), some, strict=True)])


HARMS = st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(harms=HARMS, ratio=RATIOS, data=st.data())
def test_sensitivity_takes_in_inverse_proportion_to_the_harm(
    harms: list[float], ratio: float, data: st.DataObject
) -> None:
    """The twin: a level found by halving, at which shares min(cap, level / harm) have the mean that was asked for."""
    costs = data.draw(st.lists(st.floats(0.1, 5.0), min_size=len(harms), max_size=len(harms)))
    given_harms, cap = np.array(harms), max(MOST, ratio)
    low, high = 0.0, 10.0
    for _ in range(200):
        level = (low + high) / 2
        mean = np.average(np.minimum(cap, level / given_harms), weights=costs)
        low, high = (level, high) if mean < ratio else (low, level)
    found = shares(large(harms, costs), ratio)
    np.testing.assert_allclose(found, np.minimum(cap, high / given_harms), atol=2e-6)
    assert np.average(found, weights=costs) == pytest.approx(ratio, abs=2e-6)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(some=candidates(), harm=st.sampled_from([None, 0.0, 0.3, math.inf]), ratio=st.floats(0.0, MOST))
def test_equal_harms_are_uniform(some: list[Candidate], harm: float | None, ratio: float) -> None:
    alike = [replace(one, harm=harm, least=1) for one in some]
    assert sensitivity(alike, ratio) == uniform(alike, ratio)


def test_what_is_not_known_counts_as_the_median_and_what_broke_the_model_hardly_gives() -> None:
    unknown = shares(large([0.1, 0.2, 0.4, None]), 0.2)
    np.testing.assert_allclose(unknown, np.array([4, 2, 1, 2]) * 0.8 / 9, atol=2e-6)
    broken = shares(large([0.1, 0.2, math.inf]), 0.2)
    np.testing.assert_allclose(broken[:2] / broken[2], [20, 10], rtol=1e-4)
    harmless = shares(large([0.0, 0.1]), 0.3)
    np.testing.assert_allclose(harmless, [0.6 / 1.001, 0.6 / 1001], rtol=1e-3)


def test_what_may_not_go_is_taken_elsewhere() -> None:
    some = [replace(one, least=900_000) for one in large([0.1, 1.0])[:1]] + large([1.0])
    np.testing.assert_allclose(shares(some, 0.3), [0.1, 0.5], atol=2e-6)
    np.testing.assert_allclose(shares(some, 0.9), [0.1, MOST], atol=2e-6)


def test_which_ask_for_losses() -> None:
    for name in ALLOCATIONS.names():
        blind = [Candidate(8, 1, 1, 1.0), Candidate(8, 1, 1, 1.0)]
        if name not in BY_LOSS:
            assert len(ALLOCATIONS[name](blind, 0.5)) == 2


@settings(max_examples=100, deadline=None, derandomize=True)
@given(some=candidates(), limit=st.floats(0.05, 1.0), name=st.sampled_from(ALLOCATIONS.names()))
def test_a_budget_is_met_with_the_least_that_meets_it(some: list[Candidate], limit: float, name: str) -> None:
    """Costs in proportion to the product of neighbours, as layers cost."""

    def price(sizes: Sequence[int]) -> float:
        return float(sum(a * b for a, b in zip([3, *sizes], [*sizes, 5], strict=True)))

    def allocate(share: float) -> list[int]:
        return ALLOCATIONS[name](some, share)

    budget = Budget("params", limit)
    allowed = limit * price([one.size for one in some])
    try:
        sizes = budget.meet(allocate, price)
    except RefusedError:
        assert price(allocate(1 - 1e-6)) > allowed
        return
    assert price(sizes) <= allowed * (1 + 1e-8)
    for share in np.linspace(0, 0.999, 60):
        bigger = allocate(float(share))
        if price(bigger) <= allowed:
            assert all(few <= many for few, many in zip(bigger, sizes, strict=True)) or bigger == sizes


def test_budgets_are_read() -> None:
    assert Budget.parse("macs:0.5").allowed(200.0) == 100.0
    assert Budget.parse("params:1.5M").allowed(9e9) == 1.5e6
    assert Budget.parse("bytes:2e3k").limit == 2e6
    for text in (
        "macs",
        "macs:",
        "macs:-1",
        "macs:0",
        "time:0.5",
        "params:1.2.3",
        "params:.",
        "params:1MM",
        "macs:nan",
    ):
        with pytest.raises(ValueError, match="budget"):
            Budget.parse(text)
    with pytest.raises(RefusedError, match="cannot be met"):
        Budget("params", 1.5).meet(lambda share: [4], lambda sizes: float(sum(sizes)))


def counted(graph: Graph, resource: Resource) -> float:
    """What a graph costs, counted on its own weights and ops."""
    if resource == "macs":
        return float(cost(dims(graph).known).total)
    read = {value for part in graph.graphs() for op in part.ops() for value in op.inputs if value is not None}
    tensors = [value.const for value in read if value.const is not None]
    used = [tensor for tensor in tensors if tensor.dtype.is_float or tensor.dtype.bits <= 8]
    return float(sum(tensor.size * (1 if resource == "params" else tensor.dtype.bits / 8) for tensor in used))


EXACT = {"resnet50", "vgg16", "densenet121", "mobilenet-v2", "shufflenet-v2", "convnext", "swin", "vit-packed", "bert"}
EXACT |= {
    "gpt2",
    "bert-opset23",
    "llama-opset23",
    "bert-dynamic-opset17",
    "llama-dynamic",
    "lstm",
    "gru",
    "llama",
    "t5",
}


@pytest.mark.parametrize("name", sorted(EXACT))
def test_costs_are_those_of_the_pruned_model(name: str) -> None:
    """Random sizes of all groups; where a constant that several share is cut differently for each, there are more."""
    dense = SMALL[name]()
    for resource in ("params", "bytes", "macs"):
        assert Costs(dims(dense), resource).total({}) == pytest.approx(counted(dense, resource))
    for seed in range(3):
        graph, random = dense.clone(), np.random.default_rng(seed)
        found = dims(graph)
        kept: dict[Any, Any] = {}
        for group in groups(found):
            if group.pin is None:
                some = random.choice(group.size, int(random.integers(1, group.size + 1)), replace=False)
                kept[group.dim] = np.sort(some)
        sizes = {dim: len(some) for dim, some in kept.items()}
        expected = {name: Costs(found, name).total(sizes) for name in ("params", "bytes", "macs")}
        shared = constants(graph)
        shrink(graph, found, kept)
        assert counted(graph, "macs") == pytest.approx(expected["macs"])
        split = constants(graph) - shared
        for resource in ("params", "bytes"):
            if not split:
                assert counted(graph, resource) == pytest.approx(expected[resource])
            else:
                assert expected[resource] <= counted(graph, resource)


def constants(graph: Graph) -> set[str]:
    return {value.name for part in graph.graphs() for value in part.constants()}


def test_a_unit_is_worth_what_its_removal_saves() -> None:
    graph = SMALL["resnet50"]()
    found = dims(graph)
    for resource in ("params", "macs"):
        costs = Costs(found, resource)
        for group in groups(found):
            if group.pin is None and group.size > 1:
                less = costs.total({}) - costs.total({group.dim: group.size - 1})
                assert costs.unit(group.dim) == pytest.approx(less)
