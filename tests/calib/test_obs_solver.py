"""Structured OBS: its costs are those of least squares on what stays, and its updates are that solution."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from helpers.brain_surgery import removal_costs, remove_columns
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.calib.solvers import obs_greedy
from secateur.calib.solvers.least_squares import least_squares
from secateur.calib.solvers.obs import compensated, damped_inverse
from secateur.calib.solvers.obs_greedy import Surgeon, remove_greedily

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


def remove_cheapest(weight: Array, inverse: Array, units: list[list[int]], count: int) -> tuple[list[int], Array]:
    order, _ = remove_greedily([Surgeon(weight, inverse, units)], count)
    gone = [column for unit in order for column in units[unit]]
    return order.tolist(), compensated(weight, inverse, gone) if count else weight


def test_greedy_removal_is_near_the_best_there_is() -> None:
    ratios = []
    for seed in range(60):
        weight, xx = problem(seed)
        damped = xx + 0.01 * np.mean(xx.diagonal()) * np.eye(8)
        order, updated = remove_cheapest(weight, damped_inverse(xx), [[column] for column in range(8)], 3)
        assert len(set(order)) == 3 and not updated[:, order].any()
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
    (first,), updated = remove_cheapest(weight, damped_inverse(x.T @ x, 1e-9), [[column] for column in range(5)], 1)
    assert first in (1, 4)
    np.testing.assert_allclose(x @ updated.T, x @ weight.T, atol=1e-6)


def test_dead_and_singular_inputs() -> None:
    inverse = damped_inverse(np.diag([0.0, 2.0]), damping=0.0)
    np.testing.assert_allclose(inverse, np.diag([1.0, 0.5]))
    with pytest.raises(ValueError, match="singular"):
        damped_inverse(np.array([[1.0, 2.0], [2.0, 1.0]]), damping=0.0)
    weight, xx = problem(0)
    order, unchanged = remove_cheapest(weight, damped_inverse(xx), [[column] for column in range(8)], 0)
    assert not order and np.array_equal(unchanged, weight)
    with pytest.raises(ValueError, match=r"within 0\.\.8"):
        remove_cheapest(weight, damped_inverse(xx), [[column] for column in range(8)], 9)


RAGGED = [[0, 1, 2], [3], [], [4, 7], [5], [10, 6]]
"""Units of 0 to 3 columns out of 12; 8, 9 and 11 belong to none."""


def cost_of(weight: Array, inverse: Array, columns: list[int]) -> float:
    return float(removal_costs(weight, inverse, np.array([columns]))[0]) if columns else 0.0


def one_by_one(weight: Array, inverse: Array, units: list[list[int]], count: int) -> tuple[list[int], list[float]]:
    """The twin: every cost from the formula, every update at once."""
    order: list[int] = []
    errors: list[float] = []
    for _ in range(count):
        costs = {u: cost_of(weight, inverse, units[u]) for u in reversed(range(len(units))) if u not in order}
        order.append(min(costs, key=costs.__getitem__))
        errors.append(costs[order[-1]])
        if units[order[-1]]:
            weight, inverse = remove_columns(weight, inverse, units[order[-1]])
    return order, errors


@pytest.mark.parametrize("panel", [1, 3, 64])
@pytest.mark.parametrize("seed", range(6))
def test_panels_change_nothing(panel: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of several sizes, none too; columns that stay; matrices that shrink on the way."""
    monkeypatch.setattr(obs_greedy, "_PANEL", panel)
    weight, xx = problem(seed, 12)
    inverse = damped_inverse(xx)
    before = inverse.copy()
    for units in (RAGGED, [[column] for column in range(12)], [[0, 1], [2, 3], [4, 5], [6, 7]]):
        order, errors = remove_greedily([Surgeon(weight, inverse, units)], len(units))
        expected, costs = one_by_one(weight, inverse, units, len(units))
        assert order.tolist() == expected
        np.testing.assert_allclose(errors, costs, rtol=1e-7, atol=1e-9)
    np.testing.assert_array_equal(inverse, before)


def test_errors_add_up_to_that_of_the_refit_in_any_rounds() -> None:
    weight, xx = problem(3, 12)
    damped = xx + 0.01 * np.mean(xx.diagonal()) * np.eye(12)
    inverse = damped_inverse(xx)
    for rounds in (None, [2, 1, 2], [5], [0, 0, 9]):
        order, errors = remove_greedily([Surgeon(weight, inverse, RAGGED)], 5, rounds=rounds)
        gone = [column for unit in order for column in RAGGED[unit]]
        expected, cost = refitted(weight, damped, [column for column in range(12) if column not in gone])
        assert errors.sum() == pytest.approx(cost, rel=1e-9) and (errors >= 0).all()
        np.testing.assert_allclose(compensated(weight, inverse, gone), expected, rtol=1e-8, atol=1e-10)


def test_a_round_takes_the_cheapest_by_the_costs_at_its_start() -> None:
    weight, xx = problem(4, 12)
    inverse = damped_inverse(xx)
    units = [[column] for column in range(12)]
    costs = removal_costs(weight, inverse, np.array(units))
    order, _ = remove_greedily([Surgeon(weight, inverse, units)], 5, rounds=[5])
    assert order.tolist() == np.argsort(costs)[:5].tolist()


def test_scores_by_column_take_no_account_of_the_unit() -> None:
    weight, xx = problem(5, 12)
    inverse = damped_inverse(xx)
    surgeon = Surgeon(weight, inverse, RAGGED, share=0.5)
    for unit in (None, 3):
        if unit is not None:
            surgeon.remove(unit)
            weight, inverse = remove_columns(weight, inverse, RAGGED[unit])
        for index, columns in enumerate(RAGGED):
            if index == unit:
                assert surgeon.costs_by_column()[index] == surgeon.costs()[index] == np.inf
                continue
            pivots = np.linalg.cholesky(inverse[np.ix_(columns, columns)]).diagonal() ** 2
            squares = np.square(weight[:, columns]).sum(axis=0)
            assert surgeon.costs_by_column()[index] == pytest.approx(0.5 * float((squares / pivots).sum()))
            assert surgeon.costs()[index] == pytest.approx(0.5 * cost_of(weight, inverse, columns))


def test_alignment_is_with_what_the_layer_gave_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(obs_greedy, "_PANEL", 3)
    weight, xx = problem(6, 12)
    inverse = damped_inverse(xx)
    pull = weight @ (xx + 0.01 * np.mean(xx.diagonal()) * np.eye(12))
    surgeon, now, left = Surgeon(weight, inverse, RAGGED, 1.0, pull), weight, inverse
    for unit in (0, 3, 5):
        products = np.einsum("nd,nd->d", pull, now)
        for index in np.flatnonzero(surgeon.live):
            assert surgeon.alignment()[index] == pytest.approx(float(products[RAGGED[index]].sum()))
        surgeon.remove(unit)
        now, left = remove_columns(now, left, RAGGED[unit])
        assert surgeon.alignment()[unit] == np.inf


def test_layers_decide_together() -> None:
    """Two layers that read the same units, in different columns: the sum of their costs, each by its share."""
    (one, xx), (other, yy) = problem(7), problem(8, 12)
    first, second = [[0, 1], [2, 3], [4, 5]], [[11], [4], [0]]
    inverses = damped_inverse(xx), damped_inverse(yy)
    both = [Surgeon(one, inverses[0], first, 2.0), Surgeon(other, inverses[1], second, 0.25)]
    order, errors = remove_greedily(both, 2)
    pairs = zip(first, second, strict=True)
    costs = [2.0 * cost_of(one, inverses[0], a) + 0.25 * cost_of(other, inverses[1], b) for a, b in pairs]
    assert order[0] == int(np.argmin(costs)) and errors[0] == pytest.approx(min(costs))
    columns = [[c for unit in order for c in units[unit]] for units in (first, second)]
    together = 2.0 * cost_of(one, inverses[0], columns[0]) + 0.25 * cost_of(other, inverses[1], columns[1])
    assert errors.sum() == pytest.approx(together)


def test_uncorrelated_inputs_go_by_weight_times_energy() -> None:
    """No weight moves then, and the order is that of ||w||^2 h."""
    random = np.random.default_rng(0)
    weight, energies = random.normal(size=(3, 20)), random.uniform(0.1, 5, 20)
    inverse = damped_inverse(np.diag(energies), 0.0)
    order, errors = remove_greedily([Surgeon(weight, inverse, list(np.arange(20)[:, None]))], 20)
    expected = np.square(weight).sum(axis=0) * energies
    assert order.tolist() == np.argsort(expected).tolist()
    np.testing.assert_allclose(errors, np.sort(expected))
    left = np.setdiff1d(range(20), order[:5])
    np.testing.assert_array_equal(compensated(weight, inverse, order[:5])[:, left], weight[:, left])


def test_a_head_that_is_a_linear_image_of_another_costs_nothing() -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=(200, 12))
    x[:, 8:] = x[:, :4] @ random.normal(size=(4, 4))
    weight = random.normal(size=(5, 12))
    costs = Surgeon(weight, damped_inverse(x.T @ x, 1e-9), [range(4), range(4, 8), range(8, 12)]).costs()
    assert costs[[0, 2]].max() < 1e-5 * costs[1]


def test_hundreds_of_removals_do_not_drift() -> None:
    random = np.random.default_rng(2)
    x = random.normal(size=(400, 300)) @ (np.eye(300) + random.normal(size=(300, 300)) / 10)
    weight, xx = random.normal(size=(40, 300)), x.T @ x
    damped = xx + 0.01 * np.mean(xx.diagonal()) * np.eye(300)
    inverse = damped_inverse(xx)
    order, errors = remove_greedily([Surgeon(weight, inverse, list(np.arange(300)[:, None]))], 299)
    kept = np.setdiff1d(range(300), order).tolist()
    expected, cost = refitted(weight, damped, kept)
    assert errors.sum() == pytest.approx(cost, rel=1e-10)
    np.testing.assert_allclose(compensated(weight, inverse, order), expected, atol=1e-9)


def test_the_twin_takes_over_the_weights_of_a_duplicate() -> None:
    x = np.random.default_rng(3).normal(size=(50, 4))
    weight = np.random.default_rng(4).normal(size=(3, 5))
    x = np.c_[x, x[:, 1]]
    left = compensated(weight, damped_inverse(x.T @ x, 1e-9), [4])
    np.testing.assert_allclose(left[:, 1], weight[:, 1] + weight[:, 4], rtol=1e-5)
    np.testing.assert_allclose(left[:, [0, 2, 3]], weight[:, [0, 2, 3]], atol=1e-6)


def test_folding_what_goes_into_what_stays_is_the_refit() -> None:
    """Regress the removed inputs on the others, and add their weights through that: the same as OBS."""
    weight, xx = problem(10, 12)
    kept, gone = [0, 1, 3, 4, 6, 7, 8, 11], [2, 5, 9, 10]
    folded = np.linalg.solve(xx[np.ix_(kept, kept)], xx[np.ix_(kept, gone)])
    left = compensated(weight, damped_inverse(xx, 0.0), gone)
    np.testing.assert_allclose(left[:, kept], weight[:, kept] + weight[:, gone] @ folded.T, rtol=1e-7, atol=1e-9)
