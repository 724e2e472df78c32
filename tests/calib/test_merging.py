"""Combining units from weights alone: closed forms against what defines them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.calib.solvers.merging import best_matches, combinations

Array = np.ndarray[Any, Any]
KEPT, REMOVED = np.array([0, 2, 3]), np.array([1, 4])


def units(seed: int) -> tuple[Array, Array]:
    random = np.random.default_rng(seed)
    return random.normal(size=(5, 9)), random.normal(size=5)


def loss(shares: Array, rows: Array, shifts: Array, shift_weight: float, ridge: float) -> float:
    strength = ridge * np.mean(np.sum(rows[KEPT] ** 2, 1) + shift_weight * shifts[KEPT] ** 2)
    left, off = rows[REMOVED] - shares @ rows[KEPT], shifts[REMOVED] - shares @ shifts[KEPT]
    return float(np.sum(left**2) + shift_weight * np.sum(off**2) + strength * np.sum(shares**2))


def test_exact_combinations_are_found() -> None:
    rows, shifts = units(0)
    shares = np.random.default_rng(1).normal(size=(2, 3))
    rows[REMOVED], shifts[REMOVED] = shares @ rows[KEPT], shares @ shifts[KEPT]
    np.testing.assert_allclose(combinations(rows, shifts, REMOVED, KEPT, ridge=0.0), shares, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.01, 3.0]), st.sampled_from([0.008, 0.5]))
def test_nothing_near_the_combination_is_better(seed: int, shift_weight: float, ridge: float) -> None:
    rows, shifts = units(seed)
    shares = combinations(rows, shifts, REMOVED, KEPT, shift_weight, ridge)
    least = loss(shares, rows, shifts, shift_weight, ridge)
    for size in (1e-4, 1e-2, 1.0):
        other = shares + size * np.random.default_rng(seed + 1).normal(size=shares.shape)
        assert loss(other, rows, shifts, shift_weight, ridge) > least


def test_scale_does_not_matter_and_ridge_without_end_is_plain_pruning() -> None:
    rows, shifts = units(2)
    plain = combinations(rows, shifts, REMOVED, KEPT)
    np.testing.assert_allclose(combinations(100 * rows, 100 * shifts, REMOVED, KEPT), plain, rtol=1e-9)
    np.testing.assert_allclose(combinations(rows, shifts, REMOVED, KEPT, ridge=1e12), 0.0, atol=1e-9)
    assert combinations(rows, shifts, np.array([], np.int64), KEPT).shape == (0, 3)


def test_a_multiple_goes_to_its_original() -> None:
    rows, shifts = units(3)
    rows[1], shifts[1] = 2.5 * rows[3], 2.5 * shifts[3]
    rows[4], shifts[4] = -rows[0], -shifts[0]
    shares = best_matches(rows, shifts, REMOVED, KEPT, threshold=0.5)
    np.testing.assert_allclose(shares[0], [0, 0, 2.5])
    assert not shares[1].any(), "a negative multiple does not go through a ReLU"


@pytest.mark.parametrize("blend", [0.85, 0.2])
def test_of_equal_directions_the_shift_decides(blend: float) -> None:
    rows, shifts = units(4)
    rows[0] = rows[2] = rows[1]
    shifts[:3] = [3.0, 1.0, 0.9]
    assert np.flatnonzero(best_matches(rows, shifts, REMOVED, KEPT, blend)[0]).tolist() == [1]


def test_units_of_zeros_neither_take_nor_give() -> None:
    rows, shifts = units(5)
    rows[1], rows[3] = 0.0, 0.0
    shares = best_matches(rows, shifts, REMOVED, KEPT)
    assert np.isfinite(shares).all()
    assert not shares[0].any()
    assert not shares[:, 2].any()
