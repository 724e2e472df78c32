"""GPTQ is the published loop with an explicit inverse, keeps zeros and the grid, and the better of two is no worse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.calib.solvers.gptq import better_of, gptq, ordered, row_errors
from secateur.calib.solvers.grids import (
    GRIDS,
    INT4,
    INT8,
    Grid,
    codes,
    nearest,
    real,
    scales_by_range,
    spread_out,
)

SEEDS = st.integers(0, 2**32 - 1)
GRID = st.sampled_from(list(GRIDS.values()))


def problem(seed: int, rows: int = 4, columns: int = 12) -> tuple[Any, Any]:
    """Weights, and the Gram of correlated inputs of different sizes."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(3 * columns, columns)) @ random.normal(size=(columns, columns))
    x *= 10.0 ** random.uniform(-0.5, 0.5, columns)
    return random.normal(size=(rows, columns)), x.T @ x


def published(weight: Any, gram: Any, scale: Any, grid: Grid, order: Any, mask: Any) -> Any:
    """Column after column with the inverse of what is left of the Gram; `scale` [r, c] of every entry."""
    now, left = weight.copy(), list(order)
    while left:
        inverse = np.linalg.inv(gram[np.ix_(left, left)])
        column = left.pop(0)
        kept = grid.rounded(now[:, column] / scale[:, column]) * scale[:, column] * mask[:, column]
        error = (now[:, column] - kept) / inverse[0, 0]
        now[:, left] -= np.outer(error, inverse[0, 1:])
        now[:, column] = kept
    return now


@settings(max_examples=60, deadline=None)
@given(
    seed=SEEDS,
    grid=GRID,
    block=st.sampled_from([None, 4, 5]),
    order=st.sampled_from(["activation", "natural"]),
    masked=st.booleans(),
)
def test_it_is_the_published_loop(seed: int, grid: Grid, block: int | None, order: Any, masked: bool) -> None:
    weight, gram = problem(seed)
    scale = scales_by_range(weight, grid, block, np.float64) * 0.9
    mask = np.random.default_rng(seed).random(weight.shape) < (0.5 if masked else 2)
    columns = np.argsort(-gram.diagonal(), kind="stable") if order == "activation" else np.arange(12)
    damped = gram + 0.01 * gram.diagonal().mean() * np.eye(12)
    expected = published(weight, damped, spread_out(scale, 12, block), grid, columns, mask)
    found = gptq(weight, ordered(gram, order, dtype=np.float64), scale, grid, block, mask if masked else None)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert (found[~mask] == 0).all()
    np.testing.assert_array_equal(real(codes(found, scale, grid, block), scale, block), found)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, grid=GRID, times=st.sampled_from([1e-6, 1.0, 1e6]))
def test_inputs_that_tell_nothing_of_each_other_are_rounded_to_the_nearest(seed: int, grid: Grid, times: float) -> None:
    weight, _ = problem(seed)
    scale = scales_by_range(weight, grid, 4, np.float64)
    np.testing.assert_array_equal(gptq(weight, times * np.eye(12), scale, grid, 4), nearest(weight, scale, grid, 4))


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, grid=GRID)
def test_what_lies_on_the_grid_stays(seed: int, grid: Grid) -> None:
    weight, gram = problem(seed)
    scale = scales_by_range(weight, grid, 4)
    kept = nearest(weight.astype(np.float32), scale, grid, 4)
    np.testing.assert_array_equal(gptq(kept, gram, scale, grid, 4), kept)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, grid=GRID, size=st.sampled_from([1e-5, 1e7]))
def test_the_size_of_the_inputs_does_not_matter(seed: int, grid: Grid, size: float) -> None:
    weight, gram = problem(seed)
    scale = scales_by_range(weight, grid)
    expected = gptq(weight, ordered(gram, dtype=np.float64), scale, grid)
    np.testing.assert_allclose(gptq(weight, ordered(gram * size, dtype=np.float64), scale, grid), expected, rtol=1e-6)


def test_it_is_better_on_average_but_not_always() -> None:
    gained, worse = [], 0
    for seed in range(60):
        weight, gram = problem(seed)
        scale = scales_by_range(weight, INT4)
        plain, swept = nearest(weight, scale, INT4), gptq(weight, gram, scale, INT4)
        errors = row_errors(gram, weight, plain), row_errors(gram, weight, swept)
        gained.append(np.log(errors[1].sum() / errors[0].sum()))
        worse += int((errors[1] > errors[0]).any())
        best = better_of(gram, weight, [plain, swept])
        np.testing.assert_allclose(best.errors, np.minimum(*errors))
        np.testing.assert_allclose(row_errors(gram, weight, best.weight), best.errors)
        np.testing.assert_array_equal(best.weight, np.where(best.which[:, None] == 1, swept, plain))
    assert np.exp(np.mean(gained)) < 0.6
    assert worse > 0


def test_errors_are_those_of_the_outputs() -> None:
    random = np.random.default_rng(0)
    x, weight = random.normal(size=(9, 50)), random.normal(size=(4, 9))
    changed = np.round(weight)
    expected = ((weight @ x - changed @ x) ** 2).sum(axis=1)
    np.testing.assert_allclose(row_errors(x @ x.T, weight, changed), expected)
    single = row_errors((x @ x.T).astype(np.float32), weight.astype(np.float32), changed.astype(np.float32))
    np.testing.assert_allclose(single, expected, rtol=1e-4)


def test_of_equals_the_earlier_is_taken() -> None:
    weight, gram = problem(0)
    best = better_of(gram, weight, [np.round(weight), np.round(weight)])
    assert (best.which == 0).all()


def test_inputs_that_are_always_zero_are_rounded_to_the_nearest() -> None:
    weight, gram = problem(1)
    gram[:, 3] = gram[3] = 0
    scale = scales_by_range(weight, INT8)
    np.testing.assert_allclose(gptq(weight, gram, scale, INT8)[:, 3], nearest(weight, scale, INT8)[:, 3])


def test_what_does_not_fit_is_refused() -> None:
    weight, gram = problem(0)
    scale = scales_by_range(weight, INT8)
    with pytest.raises(ValueError, match="do not fit"):
        gptq(weight[:, :5], gram, scale, INT8)
    with pytest.raises(ValueError, match="do not fit"):
        gptq(weight, gram, scale, INT8, 4)
    with pytest.raises(ValueError, match="do not fit"):
        row_errors(gram, weight, weight[:2])
    with pytest.raises(ValueError, match="no candidate"):
        better_of(gram, weight, [])
    with pytest.raises(ValueError, match="order"):
        ordered(gram, "random")  # type: ignore[arg-type]
