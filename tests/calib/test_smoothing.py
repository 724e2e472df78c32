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
    Migration,
    Reader,
    awq_scales,
    best_migration,
    column_ranges,
    smooth_scales,
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


def shared_ranges(weights: list[Any]) -> Any:
    return np.max([column_ranges(weight) for weight in weights], axis=0)


def readers(x: Any, weights: list[Any], levels: float | None = None) -> list[Reader]:
    inputs = Inputs(x.T @ x, len(x), np.abs(x).max(axis=0), levels)
    return [Reader(weight, inputs, np.arange(x.shape[1])) for weight in weights]


def awq_search(x: Any, weights: list[Any]) -> Migration:
    """All exponents of AWQ, tried on all outputs."""
    sizes = np.abs(x).mean(axis=0)
    candidates = ((alpha, awq_scales(sizes, alpha)) for alpha in ALPHAS[1:])
    return best_migration(readers(x, weights), candidates, four_bits, x.shape[1])


def energy(x: Any, weights: list[Any]) -> float:
    return sum(float(np.square(weight @ x.T).sum()) for weight in weights)


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
    inputs, columns = np.abs(x).max(axis=0), shared_ranges(weights)
    np.testing.assert_array_equal(columns, np.abs(np.concatenate(weights)).max(axis=0))
    for scales in (smooth_scales(inputs, columns, alpha), awq_scales(inputs, alpha)):
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
    found = awq_search(x, weights)
    errors = []
    for alpha in ALPHAS:
        scales = awq_scales(sizes, alpha)
        # On the data themselves.
        changes = [four_bits(weight * scales) / scales - weight for weight in weights]
        errors.append(energy(x, changes) / energy(x, weights))
    assert found.error == pytest.approx(min(errors), rel=1e-6)
    assert found.before == pytest.approx(errors[0], rel=1e-6)
    assert found.alpha == ALPHAS[int(np.argmin(errors))]
    assert found.error <= found.before


def test_large_inputs_are_worth_scales() -> None:
    x, weights = problem(0)
    found = awq_search(x, weights)
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

    def searched(levels: float | None) -> Migration:
        some = readers(x, weights, levels)
        ranges = some[0].inputs.ranges, shared_ranges(weights)
        return best_migration(some, ((alpha, smooth_scales(*ranges, alpha)) for alpha in ALPHAS), eight_bits, 32)

    found = searched(127)
    # The model of the noise of activations is near to what their rounding really costs.
    assert found.error == pytest.approx(measured(found.scales) / energy(x, weights), rel=0.15)
    assert found.before == pytest.approx(measured(np.ones(32)) / energy(x, weights), rel=0.15)
    assert measured(found.scales) < 0.07 * measured(np.ones(32))
    # Without activations to quantize, it is about weights only.
    alone = searched(None)
    changes = [eight_bits(weight * alone.scales) / alone.scales - weight for weight in weights]
    assert alone.error == pytest.approx(energy(x, changes) / energy(x, weights), rel=1e-6)
    assert alone.error <= alone.before


def test_columns_may_share_scales_and_a_sample_is_held_against_all() -> None:
    """Heads that share values: each scale is that of several columns."""
    x, weights = problem(3)
    some = [Reader(one.weight, one.inputs, np.arange(16) % 4) for one in readers(x, weights)]
    scales = np.array([1.0, 3.0, 0.3, 2.0])
    spread = np.tile(scales, 4)
    found = best_migration(some, [(0.5, scales)], four_bits, 4, sample=2)
    errors = [
        energy(x, [four_bits(weight * each) / each - weight for weight in weights]) / energy(x, weights)
        for each in (np.ones(16), spread)
    ]
    assert found.before == pytest.approx(errors[0])
    assert found.error == pytest.approx(min(errors)) or found.error == found.before


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
        best_migration([Reader(np.ones((2, 4)), Inputs(np.eye(3), 1, np.ones(3)), np.arange(4))], [], four_bits, 4)
