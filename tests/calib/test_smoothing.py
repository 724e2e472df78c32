"""Scales keep what a layer computes, share ranges as said, and a search is never worse than rounding alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.calib.solvers.grids import INT4, INT8, nearest, scales_by_range
from secateur.calib.solvers.smoothing import (
    ALPHAS,
    Inputs,
    awq_scales,
    awq_search,
    column_ranges,
    rounding_error,
    smooth_scales,
    smooth_search,
)

SEEDS = st.integers(0, 2**32 - 1)


def four_bits(weight: Any) -> Any:
    return nearest(weight, scales_by_range(weight, INT4, 8), INT4, 8)


def problem(seed: int, columns: int = 16) -> tuple[Any, list[Any]]:
    """Inputs [n, c] of which some are large, and two weights that read them."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(64, columns)) @ random.normal(size=(columns, columns))
    x *= 10.0 ** random.uniform(-1, 1.5, columns)
    return x, [random.normal(size=(rows, columns)) for rows in (6, 9)]


def test_the_worked_example() -> None:
    inputs, weights = np.array([8.0, 1.0]), np.array([1.0, 4.0])
    scales = smooth_scales(inputs, weights)
    np.testing.assert_allclose(scales, [8**0.5, 0.5])
    np.testing.assert_allclose(inputs / scales, weights * scales)
    np.testing.assert_allclose(inputs / smooth_scales(inputs, weights, 1), 1)
    np.testing.assert_allclose(weights * smooth_scales(inputs, weights, 0), 1)


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, alpha=st.floats(0, 1))
def test_layers_compute_what_they_did(seed: int, alpha: float) -> None:
    x, weights = problem(seed)
    x[:, 3] = 0
    weights[0][:, 5] = weights[1][:, 5] = 0
    inputs, columns = np.abs(x).max(axis=0), column_ranges(weights)
    np.testing.assert_array_equal(columns, np.abs(np.concatenate(weights)).max(axis=0))
    for scales in (
        smooth_scales(inputs, columns, alpha),
        awq_scales(inputs, alpha),
        awq_scales(inputs, alpha, columns),
    ):
        assert (scales > 0).all()
        for weight in weights:
            np.testing.assert_allclose((weight * scales) @ (x / scales).T, weight @ x.T, rtol=1e-9, atol=1e-9)
    assert smooth_scales(inputs, columns, alpha)[[3, 5]].tolist() == [1, 1]
    around = awq_scales(inputs, alpha)
    assert np.sqrt(around.max() * around.min()) == pytest.approx(1)


def test_channels_that_hardly_fire_are_not_blown_up() -> None:
    scales = smooth_scales(np.array([1.0, 1e-30]), np.ones(2), 1.0)
    np.testing.assert_allclose(scales, [1, 1e-5])


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_the_search_is_the_best_of_all_exponents_and_of_none(seed: int) -> None:
    x, weights = problem(seed)
    sizes = np.abs(x).mean(axis=0)
    found = awq_search(x.T @ x, sizes, weights, four_bits)
    errors = []
    for alpha in ALPHAS:
        scales = awq_scales(sizes, alpha)
        # On the data themselves.
        changes = [four_bits(weight * scales) / scales - weight for weight in weights]
        errors.append(sum(float(((change @ x.T) ** 2).sum()) for change in changes))
    assert found.error == pytest.approx(min(errors), rel=1e-6)
    assert found.before == pytest.approx(errors[0], rel=1e-6)
    assert found.alpha == ALPHAS[int(np.argmin(errors))]
    assert found.error <= found.before


def test_large_inputs_are_worth_scales() -> None:
    x, weights = problem(0)
    found = awq_search(x.T @ x, np.abs(x).mean(axis=0), weights, four_bits)
    assert found.alpha > 0
    assert found.error < 0.7 * found.before


def test_smoothing_pays_where_inputs_have_outliers() -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=(256, 32))
    x[:, 4] *= 100
    weights = [random.normal(size=(24, 32)) for _ in range(2)]

    def eight_bits(weight: Any) -> Any:
        return nearest(weight, scales_by_range(weight, INT8), INT8)

    def measured(scales: Any) -> float:
        smooth = x / scales
        step = np.abs(smooth).max() / 127
        seen = np.round(smooth / step) * step
        return sum(float(((seen @ eight_bits(w * scales).T - x @ w.T) ** 2).sum()) for w in weights)

    known = Inputs(x.T @ x, len(x), np.abs(x).max(axis=0))
    found = smooth_search(known, weights, eight_bits)
    # The model of the noise of activations is near to what their rounding really costs.
    assert found.error == pytest.approx(measured(found.scales), rel=0.15)
    assert found.before == pytest.approx(measured(np.ones(32)), rel=0.15)
    assert measured(found.scales) < 0.07 * measured(np.ones(32))
    # Without activations to quantize, it is about weights only.
    alone = smooth_search(Inputs(x.T @ x, len(x), known.ranges, None), weights, eight_bits)
    assert alone.error == pytest.approx(rounding_error(known.gram, weights, alone.scales, eight_bits))
    assert alone.error <= alone.before


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="alpha must be"):
        smooth_scales(np.ones(2), np.ones(2), 1.5)
    with pytest.raises(ValueError, match="alpha must be"):
        awq_scales(np.ones(2), -0.5)
    with pytest.raises(ValueError, match="do not fit"):
        smooth_scales(np.ones(2), np.ones(3))
    with pytest.raises(ValueError, match="negative"):
        awq_scales(np.array([-1.0, 1]), 0.5)
    with pytest.raises(ValueError, match="does not fit a Gram"):
        awq_search(np.eye(3), np.ones(3), [np.ones((2, 4))], four_bits)
