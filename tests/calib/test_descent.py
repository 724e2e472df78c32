"""Coordinate descent never makes a weight worse, ends where no single code does better, and keeps grid and zeros."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.calib.solvers.descent import Descent, descended
from secateur.calib.solvers.gptq import gptq, row_errors
from secateur.calib.solvers.grids import GRIDS, INT4, Grid, codes, nearest, real, scales_by_range, spread_out

SEEDS = st.integers(0, 2**32 - 1)
GRID = st.sampled_from(list(GRIDS.values()))
EXACT = Descent(passes=100, damping=0.0, dtype=np.float64)


def problem(seed: int, rows: int = 3, columns: int = 10) -> tuple[Any, Any, Any]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(3 * columns, columns)) @ random.normal(size=(columns, columns))
    return random.normal(size=(rows, columns)), x.T @ x, random.random((rows, columns)) < 0.6


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, grid=GRID, block=st.sampled_from([None, 4]), masked=st.booleans())
def test_no_single_code_does_better(seed: int, grid: Grid, block: int | None, masked: bool) -> None:
    weight, gram, mask = problem(seed)
    mask = mask if masked else np.ones_like(mask)
    scale = scales_by_range(weight, grid, block, np.float64)
    start = nearest(weight, scale, grid, block, mask)
    how = Descent(100, block, 0.0, np.float64)
    found = descended(weight, gram, (start, scale), grid, mask if masked else None, how)
    least = row_errors(gram, weight, found)
    assert (least <= row_errors(gram, weight, start) * (1 + 1e-9)).all()
    assert (found[~mask] == 0).all()
    np.testing.assert_array_equal(real(codes(found, scale, grid, block), scale, block), found)
    steps = spread_out(scale, 10, block)
    for column in range(10):
        for value in grid.values():
            other = found.copy()
            other[:, column] = np.where(mask[:, column], value * steps[:, column], 0)
            assert (row_errors(gram, weight, other) >= least * (1 - 1e-9) - 1e-12).all()


def test_it_is_often_the_best_there_is() -> None:
    """Against all weights of three columns."""
    best = 0
    for seed in range(40):
        weight, gram, _ = problem(seed, 1, 3)
        scale = scales_by_range(weight, INT4) * 2
        all_codes = np.array(list(product(INT4.values(), repeat=3))) * scale
        least = row_errors(gram, np.repeat(weight, len(all_codes), 0), all_codes).min()
        start = gptq(weight, gram, scale, INT4)
        own = row_errors(gram, weight, descended(weight, gram, (start, scale), INT4, how=EXACT))[0]
        assert own >= least * (1 - 1e-9)
        best += bool(own <= least * (1 + 1e-6))
    assert best >= 20


def test_single_precision_and_panels_come_near() -> None:
    weight, gram, _ = problem(0, 8, 200)
    scale = scales_by_range(weight, INT4)
    start = gptq(weight, gram, scale, INT4)
    before = row_errors(gram, weight, start).sum()
    errors = [
        row_errors(gram, weight, descended(weight, gram, (start, scale), INT4, how=Descent(4, None, 0.01, dtype))).sum()
        for dtype in (np.float32, np.float64)
    ]
    assert errors[0] == pytest.approx(errors[1], rel=0.03)
    assert errors[1] < 0.93 * before
    # Whatever the size of the inputs.
    small = descended(weight, gram * 1e-30, (start, scale), INT4, how=Descent(4, damping=0.01))
    np.testing.assert_allclose(row_errors(gram, weight, small).sum(), errors[0], rtol=0.03)


def test_inputs_that_are_always_zero_change_nothing() -> None:
    weight, gram, _ = problem(0)
    gram[:, 2] = gram[2] = 0
    scale = scales_by_range(weight, INT4)
    start = nearest(weight, scale, INT4)
    np.testing.assert_array_equal(descended(weight, gram, (start, scale), INT4, how=EXACT)[:, 2], start[:, 2])
    np.testing.assert_array_equal(descended(weight, 0 * gram, (start, scale), INT4, how=EXACT), start)


def test_what_does_not_fit_is_refused() -> None:
    weight, gram, _ = problem(0)
    scale = scales_by_range(weight, INT4)
    with pytest.raises(ValueError, match="do not fit a Gram"):
        descended(weight, gram, (weight[:, :3], scale), INT4)
    with pytest.raises(ValueError, match="do not fit a weight"):
        descended(weight, gram, (weight, scale), INT4, how=Descent(block=3))
