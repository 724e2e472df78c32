"""Repairs and refinements of element sparsity: exact on the mask, never worse on what was held out."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from helpers.sparse_problems import random_rows, sparse_problem
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.calib.solvers.ridge import UNSURE
from secateur.passes.layers.evidence import HELD_OUT
from secateur.passes.layers.problem import Problem
from secateur.passes.sparsify.criteria import CRITERIA
from secateur.passes.sparsify.patterns import parse_pattern
from secateur.passes.sparsify.refine import REFINEMENTS
from secateur.passes.sparsify.refine.dsnot import headroom
from secateur.passes.sparsify.repair import REPAIRS, Repaired
from secateur.passes.sparsify.repair.least_squares import UNJUDGED

PAIRS = parse_pattern("2:4")
_NAMES = REPAIRS.names()


def _problem(seed: int, *, bias: bool, drift: float = 0.3, rows: int = 200) -> Problem:
    """What the layer reads now is not what it read, so its own weights are not what they should be."""
    random = np.random.default_rng(seed)
    x, weight = random_rows(seed, rows, 12), random.normal(size=(5, 12))
    y = (x + drift * random.normal(size=x.shape)) @ weight.T + (random.normal(size=5) if bias else 0.0)
    return sparse_problem(weight, x, y, bias=bias)


def _loss(problem: Problem, matrix: np.ndarray) -> float:
    off = matrix - problem.target
    return float(np.einsum("rc,cd,rd->", off, problem.damped(problem.damping), off))


@pytest.mark.parametrize("name", _NAMES)
@pytest.mark.parametrize("bias", [True, False])
@settings(deadline=None, derandomize=True, max_examples=10)
@given(seed=st.integers(0, 1000))
def test_nothing_is_worse_than_no_repair_and_nothing_is_out_of_place(name: str, bias: bool, seed: int) -> None:
    problem = _problem(seed, bias=bias)
    mask = CRITERIA["magnitude"](problem, PAIRS)
    found = REPAIRS[name](problem, mask)
    assert not found.matrix[~mask].any()
    assert (found.bias is None) is not bias
    assert found.error is not None
    assert found.unrepaired is not None
    assert found.error <= found.unrepaired


@settings(deadline=None, derandomize=True, max_examples=15)
@given(st.integers(0, 1000), st.booleans())
def test_least_squares_is_the_best_that_the_mask_allows(seed: int, bias: bool) -> None:
    """Against lstsq on explicit rows: data, with a column for the bias, and rows for the ridge."""
    random = np.random.default_rng(seed)
    x, weight = random_rows(seed, 60, 8), random.normal(size=(3, 8))
    problem = sparse_problem(weight, x, bias=bias)
    # Nothing is held out, so nothing is judged, and the pull is known.
    everything = problem.on_everything()
    mask = CRITERIA["wanda"](everything, PAIRS)
    found = REPAIRS["least-squares"](everything, mask)
    centred = x - x.mean(axis=0) if bias else x
    pull = np.sqrt(UNJUDGED * 0.01 * np.mean(np.sum(centred**2, axis=0)))
    for row, kept in enumerate(mask):
        # The ridge pulls all of the matrix to the dense one, so what goes is a constant of it.
        inputs = np.vstack([centred[:, kept], pull * np.eye(kept.sum())])
        wanted = np.concatenate([centred @ weight[row], pull * weight[row, kept]])
        best = np.linalg.lstsq(inputs, wanted)[0]
        np.testing.assert_allclose(found.matrix[row, kept], best, atol=1e-6)
    if bias:
        assert found.bias is not None
        np.testing.assert_allclose(found.bias, x.mean(axis=0) @ (weight - found.matrix).T, atol=1e-6)


def test_least_squares_beats_the_sweep_and_the_sweep_beats_nothing_on_what_they_fit() -> None:
    losses = np.zeros(3)
    for seed in range(10):
        problem = _problem(seed, bias=False, rows=2000).on_everything()
        mask = CRITERIA["magnitude"](problem, PAIRS)
        names = ("least-squares", "sweep", "none")
        losses += [_loss(problem, REPAIRS[name](problem, mask).matrix) for name in names]
    assert losses[0] < 0.9 * losses[1] < 0.9 * losses[2]


def test_what_comes_before_is_made_up_for() -> None:
    """Inputs that have shrunk by half are read with twice the weights."""
    x, weight = random_rows(0, 4000, 8), np.random.default_rng(0).normal(size=(3, 8))
    problem = replace(sparse_problem(weight, x / 2, x @ weight.T), damping=1e-9)
    np.testing.assert_allclose(problem.target, 2 * weight, rtol=1e-4)
    kept = np.ones(weight.shape, bool)
    np.testing.assert_allclose(REPAIRS["least-squares"](problem, kept).matrix, 2 * weight, rtol=1e-4)
    np.testing.assert_allclose(REPAIRS["scale"](problem, kept).matrix, 2 * weight, rtol=1e-4)


def test_the_target_is_ridge_regression_towards_the_dense_weights() -> None:
    problem = _problem(1, bias=False)
    ridge = UNSURE * 0.01 * problem.scale
    rows = np.linalg.cholesky(problem.gram).T
    drift = np.linalg.solve(rows.T, problem.moments.xy - problem.gram @ problem.weight.T)
    wanted = np.linalg.lstsq(np.vstack([rows, np.sqrt(ridge) * np.eye(12)]), np.vstack([drift, np.zeros((12, 5))]))[0]
    np.testing.assert_allclose(problem.target, problem.weight + wanted.T, atol=1e-9)


def test_without_drift_the_target_is_the_weight_itself() -> None:
    weight = np.random.default_rng(0).normal(size=(3, 8))
    np.testing.assert_array_equal(sparse_problem(weight, random_rows(0, 50, 8)).target, weight)


def test_columns_in_another_order_change_nothing() -> None:
    """Kernels count taps slowest, evidence counts them fastest."""
    x, weight = random_rows(3, 100, 12), np.random.default_rng(3).normal(size=(4, 12))
    order = np.arange(12).reshape(4, 3).T.reshape(-1)
    plain = sparse_problem(weight[:, order], x[:, order], x @ weight.T)
    turned = replace(sparse_problem(weight, x), weight=weight[:, order], order=order)
    mask = CRITERIA["wanda"](plain, PAIRS)
    np.testing.assert_array_equal(CRITERIA["wanda"](turned, PAIRS), mask)
    one, other = (REPAIRS["least-squares"](problem, mask) for problem in (plain, turned))
    np.testing.assert_allclose(one.matrix, other.matrix, atol=1e-8)
    assert one.error == pytest.approx(other.error)


@pytest.mark.parametrize("name", REFINEMENTS.names())
@pytest.mark.parametrize("text", ["2:4", "50%"])
@settings(deadline=None, derandomize=True, max_examples=10)
@given(seed=st.integers(0, 1000))
def test_refinements_keep_the_pattern_and_swaps_only_help(name: str, text: str, seed: int) -> None:
    problem, pattern = _problem(seed, bias=False), parse_pattern(text)
    before = CRITERIA["magnitude"](problem, pattern)
    after = REFINEMENTS[name](problem, pattern, before)
    assert pattern.holds(after)
    assert after.sum() == before.sum()
    if name != "admm":
        np.testing.assert_array_equal(after.sum(axis=1), before.sum(axis=1))
    if name == "swap":
        old, new = (_loss(problem, np.where(mask, problem.target, 0)) for mask in (before, after))
        assert new < old or (after == before).all()
    if name == "dsnot" and text == "2:4":
        # Only within groups it looks before it leaps, as its authors have it.
        lost = [np.abs(np.where(mask, 0, problem.weight) @ problem.mean) for mask in (before, after)]
        assert lost[1].sum() <= lost[0].sum() + 1e-9


def test_swaps_end_where_no_swap_helps() -> None:
    problem = _problem(5, bias=False)
    mask = REFINEMENTS["swap"](problem, PAIRS, CRITERIA["random"](problem, PAIRS))
    least = _loss(problem, np.where(mask, problem.target, 0))
    for row in range(len(mask)):
        for start in range(0, 12, 4):
            inside = np.arange(start, start + 4)
            for kept in combinations(range(4), 2):
                other = mask.copy()
                other[row, inside] = np.isin(np.arange(4), kept)
                if (other ^ mask).sum() == 2:
                    assert _loss(problem, np.where(other, problem.target, 0)) >= least - 1e-6 * abs(least)


def test_inputs_of_mean_zero_leave_dsnot_nothing_to_do() -> None:
    x = random_rows(0, 100, 12)
    # Every fifth row judges: means are of the others.
    fitted = np.arange(100) % 5 != 4
    problem = sparse_problem(np.random.default_rng(0).normal(size=(3, 12)), x - x[fitted].mean(axis=0))
    mask = CRITERIA["magnitude"](problem, PAIRS)
    np.testing.assert_array_equal(REFINEMENTS["dsnot"](problem, PAIRS, mask), mask)
    assert headroom(problem) < 1e-12
    assert headroom(sparse_problem(problem.weight, np.ones((20, 12)))) == pytest.approx(1)


def test_the_bias_takes_up_the_mean() -> None:
    problem = _problem(2, bias=True, drift=0.0)
    mask = CRITERIA["magnitude"](problem, PAIRS)
    found: Repaired = REPAIRS["bias"](problem, mask)
    assert found.bias is not None
    np.testing.assert_allclose(problem.mean @ found.matrix.T + found.bias, problem.seen.fit.target_mean)


@pytest.mark.parametrize("name", _NAMES)
def test_fewer_samples_than_columns_are_enough(name: str) -> None:
    x, weight = random_rows(0, 6, 12), np.random.default_rng(0).normal(size=(3, 12))
    problem = sparse_problem(weight, x, bias=True)
    found = REPAIRS[name](problem, CRITERIA["sparsegpt"](problem, PAIRS))
    assert np.isfinite(found.matrix).all()
    assert PAIRS.holds(found.matrix)


@pytest.mark.parametrize("name", _NAMES)
def test_dead_inputs_are_never_read(name: str) -> None:
    x, weight = random_rows(0, 50, 12), np.random.default_rng(0).normal(size=(3, 12))
    x[:, [0, 5]] = 0
    problem = sparse_problem(weight, x, bias=True)
    mask = CRITERIA["sparsegpt"](problem, PAIRS)
    found = REPAIRS[name](problem, mask)
    assert np.isfinite(found.matrix).all()
    assert not mask[:, [0, 5]].any()


def test_what_a_bias_that_stays_gives_is_not_the_weights_to_make() -> None:
    random = np.random.default_rng(0)
    weight, shift, x = random.normal(size=(3, 8)), np.full(3, 50.0), random_rows(0, 80, 8)
    with_bias = sparse_problem(weight, x, x @ weight.T + shift, constant=shift)
    np.testing.assert_allclose(with_bias.target, weight, atol=1e-9)
    mask = CRITERIA["magnitude"](with_bias, parse_pattern("2:4"))
    ours, plain = (REPAIRS["sweep"](one, mask) for one in (with_bias, sparse_problem(weight, x)))
    np.testing.assert_allclose(ours.matrix, plain.matrix, atol=1e-6)
    np.testing.assert_allclose(
        with_bias.errors(ours.matrix, None), sparse_problem(weight, x).errors(plain.matrix, None)
    )


def test_the_sweep_that_chose_a_mask_is_the_one_that_repairs_it() -> None:
    rows = random_rows(3, 200, 16)
    weight = np.random.default_rng(4).normal(size=(6, 16))
    drifted = rows @ weight.T + 0.3 * np.random.default_rng(5).normal(size=(200, 6))
    chosen, fresh = (sparse_problem(weight, rows, drifted) for _ in range(2))
    mask = CRITERIA["sparsegpt"](chosen, parse_pattern("2:4"))
    assert chosen.swept_for(mask) is chosen.swept_for(mask)
    np.testing.assert_allclose(chosen.swept_for(mask).weight, fresh.swept_for(mask).weight, rtol=1e-9, atol=1e-12)
    other = np.roll(mask, 1, axis=1)
    assert np.array_equal(chosen.swept_for(other).mask, other)


def test_a_target_is_what_least_squares_with_a_pull_say() -> None:
    """T minimises |Y - X T^T|^2 + ridge |T - W|^2; where nothing drifted it is W itself, bit for bit."""
    rows = random_rows(6, 300, 8)
    weight = np.random.default_rng(7).normal(size=(5, 8))
    drifted = rows @ weight.T + np.random.default_rng(8).normal(size=(300, 5))
    problem = sparse_problem(weight, rows, drifted)
    ridge = UNSURE * 0.5 * problem.scale
    stacked = np.concatenate([rows_to_fit(rows), np.sqrt(ridge) * np.eye(8)])
    wanted = np.concatenate([rows_to_fit(drifted), np.sqrt(ridge) * weight.T])
    expected = np.linalg.lstsq(stacked, wanted, rcond=None)[0].T
    np.testing.assert_allclose(problem.target_at(0.5), expected, rtol=1e-8, atol=1e-10)
    assert np.array_equal(sparse_problem(weight, rows).target_at(0.5), weight)


def rows_to_fit(rows: np.ndarray) -> np.ndarray:
    """Every fifth is held out."""
    return rows[np.arange(len(rows)) % HELD_OUT != HELD_OUT - 1]
