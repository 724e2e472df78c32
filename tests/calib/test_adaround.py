"""AdaRound comes near to the best rounding up or down, is never worse than the nearest, and stays on the grid."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.calib.solvers.adaround import Learning, adaround
from secateur.calib.solvers.gptq import row_errors
from secateur.calib.solvers.grids import GRIDS, INT4, INT8, Grid, codes, nearest, real, scales_by_range, spread_out

SEEDS = st.integers(0, 2**32 - 1)
GRID = st.sampled_from(list(GRIDS.values()))


def problem(seed: int, rows: int = 3, columns: int = 6) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(3 * columns, columns)) @ random.normal(size=(columns, columns))
    return random.normal(size=(rows, columns)), x.T @ x


def neighbours(weight: Any, scale: Any, grid: Grid) -> tuple[Any, Any]:
    """Of each entry the codes below and above, by comparison with every code, times the scale."""
    steps = spread_out(scale, weight.shape[1], None)
    x = np.clip(weight / steps, grid.smallest, grid.largest)[..., None]
    values = grid.values()
    down = np.where(values <= x, values, -np.inf).max(axis=-1)
    up = np.where(values >= x, values, np.inf).min(axis=-1)
    return down * steps, up * steps


def enumerated(weight: Any, gram: Any, scale: Any, grid: Grid) -> Any:
    """The least error of each row over all roundings up or down."""
    down, up = neighbours(weight, scale, grid)
    choices = np.array(list(product([False, True], repeat=weight.shape[1])))
    errors = [row_errors(gram, weight, np.where(choice, up, down)) for choice in choices]
    return np.min(errors, axis=0)


def test_the_worked_example() -> None:
    gram, weight = np.array([[1, 0.9], [0.9, 1]]), np.array([[0.45, 0.45]])
    scale = np.ones((1, 1))
    assert row_errors(gram, weight, nearest(weight, scale, INT8))[0] == pytest.approx(0.7695)
    found = adaround(weight, gram, scale, INT8)
    assert sorted(found[0]) == [0, 1]
    assert row_errors(gram, weight, found)[0] == pytest.approx(0.0595)


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, grid=GRID)
def test_it_lies_between_the_nearest_and_the_best_there_is(seed: int, grid: Grid) -> None:
    weight, gram = problem(seed)
    scale = scales_by_range(weight, grid, dtype=np.float64) * 0.9
    found = adaround(weight, gram, scale, grid)
    down, up = neighbours(weight, scale, grid)
    assert (np.isclose(found, down) | np.isclose(found, up)).all()
    own = row_errors(gram, weight, found)
    assert (own >= enumerated(weight, gram, scale, grid) * (1 - 1e-6)).all()
    assert (own <= row_errors(gram, weight, nearest(weight, scale, grid)) * (1 + 1e-9)).all()


def test_it_is_mostly_the_best_there_is() -> None:
    weight, gram = problem(0, rows=60)
    scale = scales_by_range(weight, INT4)
    own, least = row_errors(gram, weight, adaround(weight, gram, scale, INT4)), enumerated(weight, gram, scale, INT4)
    assert np.mean(own <= least * (1 + 1e-6)) > 0.5
    assert np.median(own / least) == pytest.approx(1)
    plain = row_errors(gram, weight, nearest(weight, scale, INT4))
    # Of the gain that there is, in decibels, most.
    assert np.log(plain / own).mean() > 0.6 * np.log(plain / least).mean()


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, grid=GRID, block=st.sampled_from([None, 4]))
def test_inputs_that_tell_nothing_of_each_other_are_rounded_to_the_nearest(
    seed: int, grid: Grid, block: int | None
) -> None:
    weight, gram = problem(seed)
    scale = scales_by_range(weight, grid, block)
    found = adaround(weight, np.diag(gram.diagonal()), scale, grid, how=Learning(50, block=block))
    np.testing.assert_array_equal(found, nearest(weight, scale, grid, block))


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, grid=GRID, block=st.sampled_from([None, 4]))
def test_zeros_stay_and_the_rest_is_on_the_grid(seed: int, grid: Grid, block: int | None) -> None:
    weight, gram = problem(seed)
    mask = np.random.default_rng(seed).random(weight.shape) < 0.5
    scale = scales_by_range(weight, grid, block)
    found = adaround(weight, gram, scale, grid, mask, Learning(60, block=block))
    assert (found[~mask] == 0).all()
    np.testing.assert_array_equal(real(codes(found, scale, grid, block), scale, block), found.astype(np.float32))
    again = adaround(weight, gram, scale, grid, mask, Learning(60, block=block))
    np.testing.assert_array_equal(found, again)
    assert (
        row_errors(gram, weight, found) <= row_errors(gram, weight, nearest(weight, scale, grid, block, mask)) + 1e-9
    ).all()


def test_the_size_of_weights_and_inputs_does_not_matter() -> None:
    weight, gram = problem(3)
    scale = scales_by_range(weight, INT4, dtype=np.float64)
    once = adaround(weight, gram, scale, INT4)
    np.testing.assert_array_equal(adaround(weight, gram * 2.0**40, scale, INT4), once)
    np.testing.assert_array_equal(adaround(weight * 2.0**-20, gram, scale * 2.0**-20, INT4), once * 2.0**-20)


def test_nothing_to_learn_is_the_nearest() -> None:
    weight, gram = problem(4)
    scale = scales_by_range(weight, INT8)
    np.testing.assert_array_equal(adaround(weight, 0 * gram, scale, INT8), nearest(weight, scale, INT8))
    assert adaround(weight[:0], gram, scale[:0], INT8).shape == (0, 6)
    with pytest.raises(ValueError, match="does not fit a Gram"):
        adaround(weight, gram[:3, :3], scale, INT8)
