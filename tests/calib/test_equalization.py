"""Equalized layers have ranges alike, compute what they did, and corrected biases leave no shift of the mean."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from secateur.calib.solvers.bias_shift import bias_shift, clipped_mean
from secateur.calib.solvers.equalization import (
    absorbed,
    chain_scales,
    moved_on,
    pair_scales,
    powers_of_two,
    triplet_scales,
)

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
    for used in (scales, powers_of_two(scales)):
        after = (second * used) @ relu((first / used[:, None]) @ x + bias / used[:, None])
        np.testing.assert_allclose(after, expected, rtol=1e-12, atol=1e-12)


def test_powers_of_two_change_no_bit() -> None:
    first, second = (weight.astype(np.float32) for weight in layers(0, (7, 5), (1, 7)))
    x = np.random.default_rng(0).normal(size=(5, 20)).astype(np.float32)
    scales = powers_of_two(pair_scales(rows(first), columns(second))).astype(np.float32)
    products = second * relu(first @ x).T
    rescaled = (second * scales) * relu((first / scales[:, None]) @ x).T
    np.testing.assert_array_equal(rescaled, products)
    np.testing.assert_array_equal(np.frexp(scales)[0], 0.5)
    assert (np.abs(np.log2(powers_of_two(np.array([3.0, 0.7, 5]))) - np.log2([3.0, 0.7, 5])) <= 0.5).all()


def test_dead_channels_stay() -> None:
    np.testing.assert_array_equal(pair_scales(np.array([0.0, 4, 4]), np.array([2.0, 0, 1])), [1, 1, 2])
    one, two = triplet_scales(np.array([0.0, 1]), np.array([1.0, 1]), np.array([2.0, 1]))
    np.testing.assert_array_equal([one, two], np.ones((2, 2)))


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS)
def test_a_triplet_shares_its_range(seed: int) -> None:
    first, depthwise, last = layers(seed, (6, 5), (6,), (4, 6))
    ranges = rows(first), np.abs(depthwise), columns(last)
    one, two = triplet_scales(*ranges)
    shared = np.cbrt(ranges[0] * ranges[1] * ranges[2])
    np.testing.assert_allclose(rows(first / one[:, None]), shared)
    np.testing.assert_allclose(np.abs(depthwise * one / two), shared)
    np.testing.assert_allclose(columns(last * two), shared)
    # Pair after pair ends there as well.
    for found, exact in zip(chain_scales([first, depthwise, last]), (one, two), strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-4)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS)
def test_a_chain_ends_with_ranges_alike(seed: int) -> None:
    weights = layers(seed, (6, 4), (6,), (5, 6), (3, 5))
    scales = chain_scales(weights)
    x = np.random.default_rng(seed).normal(size=(4, 20))

    def run(chain: list[Any]) -> Any:
        seen = x
        for weight in chain:
            seen = relu(weight @ seen if weight.ndim == 2 else weight[:, None] * seen)
        return seen

    after, ones = [], np.ones(4)
    for number, weight in enumerate(weights):
        before = ones if number == 0 else scales[number - 1]
        own = scales[number] if number < len(scales) else np.ones(len(weight))
        after.append(weight * before / (own[:, None] if weight.ndim == 2 else own))
    np.testing.assert_allclose(run(after), run(weights), rtol=1e-10, atol=1e-12)
    for first, second in pairwise(after):
        written = rows(first) if first.ndim == 2 else np.abs(first)
        read = columns(second) if second.ndim == 2 else np.abs(second)
        np.testing.assert_allclose(written, read, rtol=1e-5)


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
    with pytest.raises(ValueError, match="writes 3 channels, the next one reads 2"):
        chain_scales([np.ones((3, 2)), np.ones((3, 2))])
    with pytest.raises(ValueError, match="matrices or vectors"):
        chain_scales([np.ones((3, 2, 1)), np.ones((3, 3))])
