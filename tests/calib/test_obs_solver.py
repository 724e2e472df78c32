"""Structured OBS: its costs are those of least squares on what stays, and its updates are that solution."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.calib.solvers.least_squares import least_squares
from secateur.calib.solvers.obs import damped_inverse, removal_costs, remove_cheapest, remove_columns

Array = np.ndarray[Any, Any]


def problem(seed: int, width: int = 8) -> tuple[Array, Array]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(30, width)) @ (np.eye(width) + random.normal(size=(width, width)))
    return random.normal(size=(3, width)), x.T @ x


def refitted(weight: Array, damped: Array, kept: list[int]) -> tuple[Array, float]:
    """The twin: the full output is the target of least squares on the kept columns."""
    updated = np.zeros_like(weight)
    updated[:, kept] = least_squares(damped, damped @ weight.T, kept, damping=0.0).T
    change = updated - weight
    return updated, float(np.trace(change @ damped @ change.T))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), order=st.permutations(range(4)), count=st.integers(1, 3))
def test_removal_is_least_squares_on_what_stays(seed: int, order: list[int], count: int) -> None:
    weight, xx = problem(seed)
    damped = xx + 0.01 * np.mean(xx.diagonal()) * np.eye(8)
    inverse = damped_inverse(xx)
    units = np.arange(8).reshape(4, 2)
    costs = removal_costs(weight, inverse, units)
    for unit in range(4):
        kept = [column for column in range(8) if column not in units[unit]]
        assert costs[unit] == pytest.approx(refitted(weight, damped, kept)[1], rel=1e-8)
    total, updated, left = 0.0, weight, inverse
    for unit in order[:count]:
        total += float(removal_costs(updated, left, units[[unit]])[0])
        updated, left = remove_columns(updated, left, units[unit])
    kept = [column for column in range(8) if column // 2 not in order[:count]]
    gone = np.setdiff1d(range(8), kept)
    assert not updated[:, gone].any() and not left[gone].any() and not left[:, gone].any()
    expected, cost = refitted(weight, damped, kept)
    np.testing.assert_allclose(updated, expected, rtol=1e-7, atol=1e-8)
    assert total == pytest.approx(cost, rel=1e-8)
    inside = np.ix_(kept, kept)
    np.testing.assert_allclose(left[inside], np.linalg.inv(damped[inside]), rtol=1e-6, atol=1e-10)


def test_diagonal_inputs_need_no_compensation() -> None:
    weight = np.array([[1.0, 2.0, 3.0]])
    inverse = damped_inverse(np.diag([4.0, 1.0, 1.0]), damping=0.0)
    np.testing.assert_allclose(removal_costs(weight, inverse, np.arange(3)[:, None]), [4.0, 4.0, 9.0])
    updated, _ = remove_columns(weight, inverse, [2])
    np.testing.assert_allclose(updated, [[1.0, 2.0, 0.0]])


def test_greedy_removal_is_near_the_best_there_is() -> None:
    ratios = []
    for seed in range(60):
        weight, xx = problem(seed)
        damped = xx + 0.01 * np.mean(xx.diagonal()) * np.eye(8)
        order, updated = remove_cheapest(weight, damped_inverse(xx), np.arange(8)[:, None], 3)
        assert len(set(order.tolist())) == 3 and not updated[:, order].any()
        change = updated - weight
        cost = np.trace(change @ damped @ change.T)
        best = min(refitted(weight, damped, list(kept))[1] for kept in combinations(range(8), 5))
        ratios.append(cost / best)
    assert min(ratios) >= 1 - 1e-9
    assert np.mean(ratios) <= 1.35


def test_a_duplicate_is_removed_first_and_at_no_cost() -> None:
    random = np.random.default_rng(9)
    x = random.normal(size=(50, 4))
    x = np.c_[x, x[:, 1]]
    weight = random.normal(size=(3, 5))
    (first,), updated = remove_cheapest(weight, damped_inverse(x.T @ x, 1e-9), np.arange(5)[:, None], 1)
    assert first in (1, 4)
    np.testing.assert_allclose(x @ updated.T, x @ weight.T, atol=1e-6)


def test_dead_and_singular_inputs() -> None:
    inverse = damped_inverse(np.diag([0.0, 2.0]), damping=0.0)
    np.testing.assert_allclose(inverse, np.diag([1.0, 0.5]))
    with pytest.raises(ValueError, match="singular"):
        damped_inverse(np.array([[1.0, 2.0], [2.0, 1.0]]), damping=0.0)
    weight, xx = problem(0)
    order, unchanged = remove_cheapest(weight, damped_inverse(xx), np.arange(8)[:, None], 0)
    assert not len(order) and np.array_equal(unchanged, weight)
    with pytest.raises(ValueError, match=r"within 0\.\.8"):
        remove_cheapest(weight, damped_inverse(xx), np.arange(8)[:, None], 9)
