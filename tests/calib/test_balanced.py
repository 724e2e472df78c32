"""Errors cancel as far as they can, at the least cost there is; grid, zeros and masks are kept."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.calib.solvers.balanced import balanced
from secateur.calib.solvers.grids import FP8, INT4, INT8, Grid, codes, nearest, real, scales_by_range, spread_out

SEEDS = st.integers(0, 2**32 - 1)
INTEGERS = st.sampled_from([INT4, INT8])


def weights(seed: int, rows: int = 5, columns: int = 18) -> Any:
    return np.random.default_rng(seed).normal(size=(rows, columns))


def errors(found: Any, weight: Any, scale: Any, block: int | None = None) -> Any:
    """In steps."""
    return (found - weight) / spread_out(scale, weight.shape[1], block)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, grid=INTEGERS)
def test_it_is_the_best_of_all_roundings_whose_errors_cancel(seed: int, grid: Grid) -> None:
    """Against every choice between the two codes next to each weight."""
    weight = weights(seed, 3, 8)
    scale = scales_by_range(weight, grid, None, np.float64) * 1.1
    found = balanced(weight, scale, grid)
    for row in range(3):
        exact = weight[row] / scale[row]
        choices = np.floor(exact) + np.array(list(product((0, 1), repeat=8)))
        kept = np.abs((choices - exact).sum(axis=1)) <= 0.5 + 1e-9
        best = np.square(choices[kept] - exact).sum(axis=1).min()
        own = errors(found, weight, scale)[row]
        assert abs(own.sum()) <= 0.5 + 1e-9
        assert np.square(own).sum() == pytest.approx(best)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, grid=INTEGERS, block=st.sampled_from([None, 4, 6]), taps=st.sampled_from([1, 9]))
def test_sums_are_within_half_a_step(seed: int, grid: Grid, block: int | None, taps: int) -> None:
    weight = weights(seed)
    weight[:, 3] = 0
    # Room at both ends: the largest weight is no end of the grid.
    scale = scales_by_range(weight, grid, block, np.float64) * 1.2
    found = balanced(weight, scale, grid, block, taps)
    np.testing.assert_allclose(real(codes(found, scale, grid, block), scale, block), found, rtol=1e-12)
    assert (found[:, 3] == 0).all()
    off = errors(found, weight, scale, block)
    assert np.abs(off).max() < 1 + 1e-9
    size = block or 18
    for start in range(0, 18, size):
        assert np.abs(off[:, start : start + size].sum(axis=1)).max() <= 0.5 + 1e-9
    if taps == 9 and block is None:
        # Rows are balanced by one code of a kernel at most, which was within half a step.
        assert np.abs(off.reshape(-1, 9).sum(axis=1)).max() <= 1.5 + 1e-9


def test_at_the_ends_of_the_grid_nothing_moves_beyond() -> None:
    weight = np.array([[7.4, 7.4, 7.4, 7.4]])
    found = balanced(weight, np.ones((1, 1)), INT4)
    np.testing.assert_array_equal(found, 7)


@given(seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_what_is_masked_stays_zero(seed: int) -> None:
    weight, mask = weights(seed), np.random.default_rng(seed).random((5, 18)) < 0.5
    scale = scales_by_range(weight, INT8, None, np.float64)
    assert (balanced(weight, scale, INT8, taps=9, mask=mask)[~mask] == 0).all()


def test_layers_of_inputs_that_are_alike_gain() -> None:
    """Nine neighbouring pixels behind a ReLU, one channel: what depthwise convolutions read."""
    random = np.random.default_rng(0)
    base = np.abs(random.normal(size=(2000, 1))) * 3
    x = np.maximum(base + 0.3 * random.normal(size=(2000, 9)), 0)
    weight = random.normal(size=(64, 9))
    scale = scales_by_range(weight, INT8, None, np.float64)
    plain, found = nearest(weight, scale, INT8), balanced(weight, scale, INT8)
    lost = [float(np.square(x @ (one - weight).T).sum()) for one in (plain, found)]
    assert lost[1] < 0.5 * lost[0]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="steps of fp8"):
        balanced(np.ones((1, 4)), np.ones((1, 1)), FP8)
    with pytest.raises(ValueError, match="kernels of 3"):
        balanced(np.ones((1, 4)), np.ones((1, 1)), INT8, taps=3)
