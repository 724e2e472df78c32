"""Who gets how many zeros: one threshold for all, or a plan under an error budget."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from helpers.convolutional import Net
from helpers.sparse_problems import halves
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.sources import open_source
from secateur.ir import Graph
from secateur.ir.errors import RefusedError, TextError
from secateur.passes.context import Context
from secateur.passes.manager import Result, run_pipeline
from secateur.passes.pipeline import parse_pipeline
from secateur.passes.prune.choices import Choices
from secateur.passes.sparsify.allocation import Allocation, Wishes
from secateur.passes.sparsify.allocation.budget import Rung, Rungs, budget
from secateur.passes.sparsify.allocation.threshold import MOST, threshold
from secateur.passes.sparsify.patterns import Dense, Pattern, Share, parse_pattern

HALF = parse_pattern("50%")


def _run(graph: Graph, options: str, data: bool = True) -> Result:
    images = np.random.default_rng(1).normal(size=(20, 16, 9, 9)).astype(np.float32)
    source = open_source({"x": images}, batch_size=8) if data else None
    context = Context(runner=OnnxRuntimeRunner, source=source)
    return run_pipeline(graph, parse_pipeline(f"sparsify{{{options}}}"), context)


def _net() -> Graph:
    return Net(16).conv(32).op("Relu").conv(16).op("Relu").conv(24, kernel=1).done()


def _zeros(result: Result) -> tuple[int, int]:
    sizes = [(value.const.numpy() == 0, value) for value in result.graph.constants() if value.const is not None]
    weights = [zero for zero, value in sizes if zero.ndim == 4]
    return sum(int(zero.sum()) for zero in weights), sum(zero.size for zero in weights)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(1, 99), st.integers(0, 100))
def test_a_threshold_takes_the_least_salient_wherever_they_are(sizes: list[int], percent: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    measured = [np.sort(random.random(size).astype(np.float32)) for size in sizes]
    wishes = Wishes(parse_pattern(f"{percent}%"))
    patterns = threshold.share(measured, wishes)
    gone = [0 if isinstance(one, Dense) else round(one.zeros * size) for one, size in zip(patterns, sizes, strict=True)]
    allowed = np.sort(np.concatenate([one[: int(MOST * len(one))] for one in measured]))
    wanted = min(sum(sizes) * percent // 100, len(allowed))
    assert sum(gone) == wanted
    taken = np.concatenate([one[:count] for one, count in zip(measured, gone, strict=True)])
    np.testing.assert_array_equal(np.sort(taken), allowed[:wanted])


def test_layers_share_zeros_unevenly_and_meet_the_share_together() -> None:
    graph = _net()
    for data, criterion in ((True, "wanda"), (False, "magnitude"), (True, "sparsegpt")):
        result = _run(graph, f"pattern=60%,allocation=global,criterion={criterion}", data)
        zeros, size = _zeros(result)
        assert abs(zeros - 0.6 * size) <= 1
        shares = {row["pattern"] for row in result.report.entries[0].rows}
        assert len(shares) == 3


def test_a_layer_that_matters_little_loses_more() -> None:
    """Of one layer nearly all weights are nothing beside the rest; of the other all are alike."""
    random = np.random.default_rng(0)
    even = np.sort(np.ones(100) + 0.01 * random.random(100)).astype(np.float32)
    uneven = np.sort(np.append(0.01 * np.ones(80), 10 * np.ones(20))).astype(np.float32)
    first, second = threshold.share([even / even.mean(), uneven / uneven.mean()], Wishes(parse_pattern("40%")))
    assert isinstance(first, Dense)
    assert isinstance(second, Share)
    assert second.zeros == 0.8


_RUNGS = st.lists(st.floats(0.0, 1.0, width=16), min_size=2, max_size=2)


@settings(deadline=None, derandomize=True)
@given(st.lists(_RUNGS, min_size=1, max_size=4), st.floats(0.01, 0.9))
def test_a_plan_keeps_its_budget_and_is_near_the_best(errors: list[list[float]], limit: float) -> None:
    pair = (parse_pattern("2:4"), parse_pattern("1:4"))
    measured: list[Rungs] = [
        (Rung(Dense(), 0.0, 0.0), *(Rung(one, one.zeros, error) for one, error in zip(pair, some, strict=True)))
        for some in errors
    ]
    plan = budget.share(measured, Wishes(parse_pattern("1:4"), (parse_pattern("2:4"),), limit))

    def cost(patterns: tuple[Pattern, ...]) -> tuple[float, float]:
        pairs = zip(patterns, measured, strict=True)
        chosen = [next(rung for rung in rungs if rung.pattern == one) for one, rungs in pairs]
        return sum(rung.error for rung in chosen), sum(rung.zeros for rung in chosen)

    total, zeros = cost(tuple(plan))
    allowed = limit * len(measured)
    assert total <= allowed * (1 + 1e-6)
    every = [cost(some) for some in product(*([rung.pattern for rung in rungs] for rungs in measured))]
    best = max(zeros for error, zeros in every if error <= allowed)
    # Greedy along hulls misses the best by less than what one layer could have more.
    assert zeros >= best - 0.75 - 1e-9


def test_what_costs_nothing_goes_whatever_the_budget() -> None:
    free: Rungs = (Rung(Dense(), 0, 0), Rung(parse_pattern("2:4"), 8, 0.0))
    dear: Rungs = (Rung(Dense(), 0, 0), Rung(parse_pattern("2:4"), 80, 0.5))
    assert [str(one) for one in budget.share([free, dear], Wishes(parse_pattern("2:4"), (), 0.01))] == ["2:4", "dense"]
    assert [str(one) for one in budget.share([free, dear], Wishes(parse_pattern("2:4"), (), 0.25))] == ["2:4", "2:4"]


def test_the_looser_the_budget_the_more_zeros() -> None:
    counts = []
    for limit in (0.001, 0.1, 0.2, 0.9):
        result = _run(_net(), f"pattern=1:4,ladder=[2:4],allocation=budget,max_error={limit},worthwhile=false")
        counts.append(_zeros(result)[0])
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] == 0.75 * _zeros(result)[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("allocation=global", "shares out zeros"),
        ("allocation=budget", "max_error"),
        ("allocation=budget,max_error=1.5", "max_error"),
        ("max_error=0.1", "allocation=budget"),
        ("ladder=[2:4]", "allocation=budget"),
        ("allocation=globl", "global"),
    ],
)
def test_wishes_that_make_no_sense_are_refused(options: str, words: str) -> None:
    with pytest.raises(TextError, match=words):
        parse_pipeline(f"sparsify{{{options}}}")


def test_a_budget_needs_data() -> None:
    with pytest.raises(RefusedError, match="calibration data"):
        _run(_net(), "allocation=budget,max_error=0.1", data=False)


def test_an_allocation_may_look_at_one_block_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is fed what the blocks before it left, and decides for all weights of its block at once."""
    choices: Choices[Allocation] = Choices("sparsify_allocation", {"uniform": "helpers.sparse_problems:halves"})
    for module in ("work", "elements"):
        monkeypatch.setattr(f"secateur.passes.sparsify.{module}.ALLOCATIONS", choices)
    halves.seen.clear()
    net = Net(16)
    result = _run(net.conv(32).op("Relu").conv(16).op("Relu").conv(24, kernel=1).done(), "")
    assert [name for block in halves.seen for name in block] == ["w", "w_2", "w_4"]
    changed = {row["weight"] for row in result.report.entries[0].rows}
    assert changed == {name for block in halves.seen for name in block[::2]}
