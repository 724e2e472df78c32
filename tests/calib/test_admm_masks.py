"""Masks found with their values: after the fit they leave less than SparseGPT's, and nearly what is possible."""

from __future__ import annotations

from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from secateur.calib.solvers import column_sweep as sweep
from secateur.calib.solvers.admm_masks import Schedule, admm_mask
from secateur.calib.solvers.element_masks import keep_of, keep_share
from secateur.calib.solvers.masked_least_squares import masked_least_squares

TWO_OF_FOUR = partial(keep_of, keep=2, group=4)


def problem(seed: int, rows: int, columns: int) -> tuple[Any, Any]:
    """Inputs with a spectrum that decays, as those of real layers."""
    random = np.random.default_rng(seed)
    basis = np.linalg.qr(random.normal(size=(columns, columns)))[0]
    x = random.normal(size=(4 * columns, columns)) * np.arange(1, columns + 1) ** -0.7 @ basis
    return x.T @ x, random.normal(size=(rows, columns))


def fitted(gram: Any, target: Any, mask: Any) -> Any:
    change = masked_least_squares(gram, target, mask) - target
    damped = gram + 0.01 * np.mean(gram.diagonal()) * np.eye(len(gram))
    return np.einsum("rc,cd,rd->r", change, damped, change)


@pytest.mark.parametrize(
    ("keep", "choice"),
    [
        (TWO_OF_FOUR, sweep.keep_of(2, 4)),
        (partial(keep_share, share=0.5), sweep.keep_share(0.5)),
        (partial(keep_share, share=0.3, scope="row"), sweep.keep_share(0.3)),
    ],
)
def test_it_leaves_less_than_the_sweep_with_the_same_fit(keep: Any, choice: Any) -> None:
    gram, target = problem(0, 48, 96)
    swept = sweep.column_sweep(target, sweep.factor(gram), choice)
    mask = admm_mask(gram, target, keep)
    np.testing.assert_array_equal(mask, keep(mask.astype(float)))
    found, beside = fitted(gram, target, mask).sum(), fitted(gram, target, swept.mask).sum()
    assert found < 0.95 * beside < 0.95 * swept.loss.sum()
    again = admm_mask(gram, target, keep, swept.mask)
    assert fitted(gram, target, again).sum() < 0.95 * beside


def test_it_is_near_the_best_of_all_masks() -> None:
    gram, target = problem(1, 12, 8)
    options = [np.isin(np.arange(4), pair) for pair in combinations(range(4), 2)]
    errors = np.array(
        [fitted(gram, target, np.tile(np.concatenate([left, right]), (12, 1))) for left in options for right in options]
    )
    found = fitted(gram, target, admm_mask(gram, target, TWO_OF_FOUR))
    assert found.sum() < 1.15 * errors.min(0).sum() < 0.5 * errors.mean(0).sum()


def test_independent_inputs_are_judged_one_by_one_but_for_near_ties() -> None:
    _, target = problem(2, 60, 24)
    gram = np.diag(np.arange(1.0, 25))
    score = np.abs(target) * np.sqrt(gram.diagonal())
    mask, best = admm_mask(gram, target, TWO_OF_FOUR, ridge=0.0), keep_of(score, 2, 4)
    assert np.mean(mask != best) < 0.05
    assert (score**2 * mask).sum() > 0.995 * (score**2 * best).sum()


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_scale_of_the_inputs_does_not_matter(scale: float) -> None:
    gram, target = problem(3, 6, 24)
    one, other = admm_mask(gram, target, TWO_OF_FOUR), admm_mask(scale * gram, target, TWO_OF_FOUR)
    assert np.mean(one != other) < 0.03


def test_inputs_that_are_dead_and_too_few_samples() -> None:
    gram, target = problem(4, 6, 24)
    gram[:, 4] = gram[4] = 0.0
    assert not admm_mask(gram, target, TWO_OF_FOUR, ridge=0.0)[:, 4].any()
    assert (admm_mask(0 * gram, target, TWO_OF_FOUR).reshape(6, -1, 4).sum(2) == 2).all()
    few = np.random.default_rng(5).normal(size=(5, 24))
    assert (admm_mask(few.T @ few, target, TWO_OF_FOUR, ridge=0.0).reshape(6, -1, 4).sum(2) == 2).all()


def test_no_rounds_leave_the_start() -> None:
    gram, target = problem(6, 6, 24)
    start = keep_of(np.random.default_rng(0).random((6, 24)), 2, 4)
    np.testing.assert_array_equal(admm_mask(gram, target, TWO_OF_FOUR, start, schedule=Schedule(rounds=0)), start)


def test_what_makes_no_sense_is_refused() -> None:
    gram, target = problem(7, 3, 8)
    with pytest.raises(ValueError, match="does not fit"):
        admm_mask(gram[:4, :4], target, TWO_OF_FOUR)
    with pytest.raises(ValueError, match="Gram holds NaN"):
        admm_mask(gram * np.nan, target, TWO_OF_FOUR)
