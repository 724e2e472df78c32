"""Sketches: unbiased, with the error that theory says, and masks that are drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from secateur.calib.solvers.column_sweep import column_sweep, factor
from secateur.calib.solvers.column_sweep import keep_share as swept_share
from secateur.calib.solvers.element_masks import keep_of, keep_share
from secateur.calib.solvers.sketch import expected_error, randomized, sketch


def problem(seed: int, rows: int, columns: int) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(columns, 3 * columns))
    x[2:] += x[:-2]
    return random.normal(size=(rows, columns)), x @ x.T


def test_the_expected_error_is_that_of_many_sketches() -> None:
    weight, gram = problem(0, 3, 16)
    weight[2] = 0.0
    gram[5] = gram[:, 5] = 0.0
    sketches = np.array([sketch(weight, gram, 8, seed) for seed in range(4000)])
    assert (np.count_nonzero(sketches, axis=2) <= 8).all()
    change = sketches - weight
    change[:, :, 5] = 0.0  # has no effect, and is never drawn
    errors = np.einsum("src,cd,srd->sr", change, gram, change)
    np.testing.assert_allclose(errors.mean(0), expected_error(weight, gram, 8), rtol=0.05)
    spread = change.std(0) / np.sqrt(len(change))
    assert (np.abs(change.mean(0)) <= 5 * spread + 1e-12).all()
    np.testing.assert_array_equal(sketch(weight, gram, 8, 3), sketch(weight, gram, 8, 3))


def test_drawing_by_importance_is_the_best_drawing() -> None:
    weight, gram = problem(1, 1, 12)
    uniform = (12 * (weight**2 @ gram.diagonal()) - np.einsum("rc,cd,rd->r", weight, gram, weight)) / 4
    assert expected_error(weight, gram, 4)[0] < uniform[0]
    # One input: every draw is the same, and right.
    np.testing.assert_allclose(expected_error(np.array([[3.0]]), np.array([[2.0]]), 1), [0.0], atol=1e-9)


def test_a_mask_with_fitted_values_is_better_than_chance() -> None:
    weight, gram = problem(2, 20, 64)
    swept = column_sweep(weight, factor(gram), swept_share(0.5))
    assert swept.loss.sum() < 0.5 * expected_error(weight, gram, 32).sum()


def test_entries_are_drawn_in_proportion() -> None:
    saliency = np.tile([1.0, 2.0, 5.0, 0.0], (20_000, 1))
    first = keep_of(randomized(saliency), 1, 4).mean(0)
    np.testing.assert_allclose(first, [1 / 8, 2 / 8, 5 / 8, 0.0], atol=0.015)
    # Two without replacement: the first or, after another, the second.
    second = 1 / 8 + 2 / 8 * 1 / 6 + 5 / 8 * 1 / 3
    assert keep_of(randomized(saliency), 2, 4).mean(0)[0] == pytest.approx(second, abs=0.015)
    keys = randomized(saliency, 7)
    assert keep_share(keys, 0.75)[:, :3].all()
    np.testing.assert_array_equal(keys, randomized(saliency, 7))
    assert (keys != randomized(saliency, 8)).any()


def test_what_makes_no_sense_is_refused() -> None:
    weight, gram = problem(3, 2, 4)
    with pytest.raises(ValueError, match="at least one draw"):
        sketch(weight, gram, 0)
    with pytest.raises(ValueError, match="does not fit"):
        expected_error(weight, gram[:2, :2], 3)
    with pytest.raises(ValueError, match=">= 0"):
        randomized(-np.abs(weight))
    with pytest.raises(ValueError, match="finite"):
        randomized(weight * np.nan)
