"""Equalized layers have ranges alike, compute what they did, and corrected biases leave no shift of the mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from secateur.calib.solvers.bias_shift import bias_shift, clipped_mean
from secateur.calib.solvers.equalization import absorbed, moved_on, pair_scales

SEEDS = st.integers(0, 2**32 - 1)


def relu(x: Any) -> Any:
    return np.maximum(x, 0)


def layers(seed: int, *shapes: tuple[int, ...]) -> list[Any]:
    """Weights whose rows and columns are of different sizes."""
    random = np.random.default_rng(seed)
    return [
        random.normal(size=shape)
        * 10.0 ** random.uniform(-1, 1, (shape[0],) + (1,) * (len(shape) - 1))
        * 10.0 ** random.uniform(-1, 1, shape[-1])
        for shape in shapes
    ]


def rows(weight: Any) -> Any:
    return np.abs(weight).max(axis=1)


def columns(weight: Any) -> Any:
    return np.abs(weight).max(axis=0)


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS)
def test_a_pair_shares_its_range(seed: int) -> None:
    first, second = layers(seed, (7, 5), (4, 7))
    random = np.random.default_rng(seed)
    bias, x = random.normal(size=(7, 1)), random.normal(size=(5, 20))
    scales = pair_scales(rows(first), columns(second))
    shared = np.sqrt(rows(first) * columns(second))
    np.testing.assert_allclose(rows(first / scales[:, None]), shared)
    np.testing.assert_allclose(columns(second * scales), shared)
    expected = second @ relu(first @ x + bias)
    after = (second * scales) @ relu((first / scales[:, None]) @ x + bias / scales[:, None])
    np.testing.assert_allclose(after, expected, rtol=1e-12, atol=1e-12)


def test_dead_channels_stay() -> None:
    np.testing.assert_array_equal(pair_scales(np.array([0.0, 4, 4]), np.array([2.0, 0, 1])), [1, 1, 2])


def test_a_bias_moves_on_where_channels_stay_above_it() -> None:
    random = np.random.default_rng(0)
    mean, deviation = np.array([5.0, 1.0, -4.0]), np.array([-0.5, 1.0, 0.1])
    amount = absorbed(mean, deviation)
    np.testing.assert_allclose(amount, [3.5, 0, 0])
    second = random.normal(size=(2, 3))
    x = mean[:, None] + np.abs(deviation)[:, None] * np.clip(random.normal(size=(3, 50)), -3, 3)
    moved = second @ relu(x - amount[:, None]) + moved_on(amount, second)[:, None]
    np.testing.assert_allclose(moved, second @ relu(x), atol=1e-12)
    taps = random.normal(size=(2, 3, 3, 3))
    np.testing.assert_allclose(moved_on(amount, taps), taps.sum(axis=(2, 3)) @ amount)


def test_corrected_biases_leave_no_shift() -> None:
    random = np.random.default_rng(0)
    x = relu(random.normal(size=(5, 100)) + 0.5)
    weight = random.normal(size=(3, 5))
    rounded = np.round(weight)
    shift = bias_shift(weight, rounded, x.mean(axis=1))
    np.testing.assert_allclose((rounded @ x + shift[:, None]).mean(axis=1), (weight @ x).mean(axis=1), atol=1e-12)
    np.testing.assert_array_equal(bias_shift(weight, weight, x.mean(axis=1)), 0)


@pytest.mark.parametrize(("lower", "upper"), [(0.0, np.inf), (0.0, 6.0), (-np.inf, np.inf), (-1.0, 1.0)])
def test_means_of_clipped_normals_are_those_of_samples(lower: float, upper: float) -> None:
    mean, deviation = np.array([-3.0, -0.5, 0.0, 2.0, 7.0, 1.5]), np.array([1.0, 2.0, 1.0, -3.0, 1.0, 0.0])
    grid = (np.arange(200_000) + 0.5) / 200_000
    samples = np.clip(mean[:, None] + np.abs(deviation)[:, None] * norm.ppf(grid), lower, upper)
    np.testing.assert_allclose(clipped_mean(mean, deviation, lower, upper), samples.mean(axis=1), atol=2e-4)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="shapes"):
        pair_scales(np.ones(2), np.ones(3))
    with pytest.raises(ValueError, match="negative"):
        pair_scales(np.ones(2), -np.ones(2))
