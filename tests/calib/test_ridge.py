"""The path of ridge solutions: each is the one that least squares finds, and what is not seen does not move."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.calib.solvers.least_squares import least_squares, residual
from secateur.calib.solvers.ridge import UNSURE, RidgePath, strongest_pull

Array = np.ndarray[Any, Any]
STRENGTHS = (1e-6, 0.01, 1.0, 100.0)


def sums(seed: int, rows: int = 40, rank: int = 6) -> tuple[Array, Array, Array, Array]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, rank)) @ random.normal(size=(rank, 6))
    y = x @ random.normal(size=(6, 3)) + random.normal(size=(rows, 3))
    return x.T @ x, x.T @ y, np.sum(y**2, axis=0), random.normal(size=(6, 3))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(STRENGTHS))
def test_each_point_is_the_ridge_solution(seed: int, strength: float) -> None:
    xx, xy, _, prior = sums(seed)
    path = RidgePath.of(xx, xy, prior)
    np.testing.assert_allclose(path.at(strength), least_squares(xx, xy, damping=strength, prior=prior), atol=1e-8)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_residuals_are_those_of_other_data(seed: int) -> None:
    xx, xy, _, prior = sums(seed)
    other = sums(seed + 1)[:3]
    path = RidgePath.of(xx, xy, prior)
    expected = [residual(*other, coefficients=path.at(strength)) for strength in STRENGTHS]
    np.testing.assert_allclose(path.residuals(STRENGTHS, *other), expected, rtol=1e-9)


def test_the_more_it_is_pulled_the_less_it_changes_and_the_worse_it_fits() -> None:
    xx, xy, yy, prior = sums(1)
    path = RidgePath.of(xx, xy, prior)
    change = [np.linalg.norm(path.at(strength) - prior) for strength in STRENGTHS]
    assert (np.diff(change) < 0).all()
    assert (np.diff(path.residuals(STRENGTHS, xx, xy, yy)) > 0).all()
    np.testing.assert_allclose(path.at(1e12), prior, atol=1e-9)


@pytest.mark.parametrize("strength", [0.0, 1e-9, 0.3])
def test_directions_without_data_stay_as_they_were(strength: float) -> None:
    random = np.random.default_rng(3)
    basis = np.linalg.qr(random.normal(size=(6, 6)))[0]
    x = random.normal(size=(40, 4)) @ basis[:4]
    y, prior = random.normal(size=(40, 3)), random.normal(size=(6, 3))
    found = RidgePath.of(x.T @ x, x.T @ y, prior).at(strength)
    np.testing.assert_allclose(basis[4:] @ found, basis[4:] @ prior, atol=1e-12)
    assert np.abs(basis[:4] @ (found - prior)).min() > 1e-4
    # Columns that are always zero are such directions, to the last bit.
    x = random.normal(size=(40, 6)) * [1, 1, 0, 1, 0, 1]
    found = RidgePath.of(x.T @ x, x.T @ y, prior).at(strength)
    assert np.array_equal(found[[2, 4]], prior[[2, 4]])


def test_the_less_sure_part_is_pulled_more() -> None:
    xx, xy, _, prior = sums(4)
    unsure = sums(5)[1]
    path = RidgePath.of(xx, xy, prior, unsure)
    for strength in (0.0, 0.3):
        sure = least_squares(xx, xy, damping=strength, prior=prior)
        expected = sure + least_squares(xx, unsure, damping=UNSURE * strength)
        np.testing.assert_allclose(path.at(strength), expected, atol=1e-8)
    np.testing.assert_allclose(path.at(0.0), RidgePath.of(xx, xy + unsure, prior).at(0.0), atol=1e-8)


def test_no_data_at_all_changes_nothing() -> None:
    prior = np.ones((4, 2))
    path = RidgePath.of(np.zeros((4, 4)), np.zeros((4, 2)), prior)
    assert np.array_equal(path.at(0.0), prior)
    assert np.array_equal(path.at(1.0), prior)


def test_of_what_cannot_be_told_apart_the_strongest_pull_is_taken() -> None:
    strengths, errors = (0.1, 1.0, 10.0, 100.0), np.array([1.0, 0.95, 1.02, 3.0])
    assert strongest_pull(strengths, errors, 0.0) == 1.0
    assert strongest_pull(strengths, errors, 0.1) == 10.0
    assert strongest_pull(strengths, np.zeros(4), 0.1) == 100.0
