"""Exact values for a mask: normal equations row by row, whichever way they are solved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.calib.solvers import masked_least_squares as module
from secateur.calib.solvers.masked_least_squares import masked_least_squares

WAYS = pytest.mark.parametrize("iterate", [False, True], ids=["factors", "iterations"])


@pytest.fixture
def force(monkeypatch: pytest.MonkeyPatch, iterate: bool) -> None:
    monkeypatch.setattr(module, "_iterate", lambda mask, distinct: iterate)


def problem(seed: int, rows: int, columns: int, samples: int = 0) -> tuple[Any, Any, Any]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(samples or 3 * columns, columns)) @ random.normal(size=(columns, columns))
    return x.T @ x, random.normal(size=(rows, columns)), random.random((rows, columns)) < 0.5


def by_row(gram: Any, target: Any, mask: Any, ridge: float, prior: Any) -> Any:
    """The twin: one dense solve for each row."""
    strength, found = ridge * np.mean(gram.diagonal()), np.zeros(target.shape)
    for row, kept in enumerate(mask):
        at = np.flatnonzero(kept)
        left = gram[np.ix_(at, at)] + strength * np.eye(len(at))
        found[row, at] = np.linalg.solve(left, gram[at] @ target[row] + strength * prior[row, at])
    return found


def error(found: Any, target: Any, gram: Any, prior: Any, strength: float) -> float:
    change = found - target
    return float(np.einsum("rc,cd,rd->", change, gram, change) + strength * np.sum((found - prior) ** 2))


@WAYS
@pytest.mark.usefixtures("force")
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    ridge=st.sampled_from([1e-4, 0.01, 1.0]),
    own=st.booleans(),
    scale=st.sampled_from([1e-12, 1.0, 1e12]),
)
def test_each_row_solves_its_normal_equations(iterate: bool, seed: int, ridge: float, own: bool, scale: float) -> None:
    gram, target, mask = problem(seed, 5, 12)
    prior = np.random.default_rng(seed + 1).normal(size=target.shape) if own else None
    found = masked_least_squares(scale * gram, target, mask, ridge=ridge, prior=prior)
    expected = by_row(gram, target, mask, ridge, target if prior is None else prior)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert (found[~mask] == 0).all()
    strength = ridge * np.mean(gram.diagonal())
    near = target if prior is None else prior
    least = error(expected, target, gram, near, strength)
    assert error(found, target, gram, near, strength) <= least * (1 + 1e-9) + 1e-9 * error(
        0 * target, target, gram, near, strength
    )


@WAYS
@pytest.mark.usefixtures("force")
def test_a_start_changes_nothing_but_the_way(iterate: bool) -> None:
    gram, target, mask = problem(0, 9, 40)
    found = masked_least_squares(gram, target, mask)
    start = found + 0.1 * np.random.default_rng(1).normal(size=found.shape)
    np.testing.assert_allclose(masked_least_squares(gram, target, mask, start), found, rtol=1e-5, atol=1e-5)


@WAYS
@pytest.mark.usefixtures("force")
def test_a_full_mask_gives_the_target_and_an_empty_one_nothing(iterate: bool) -> None:
    gram, target, mask = problem(1, 4, 8)
    np.testing.assert_allclose(masked_least_squares(gram, target, np.ones_like(mask)), target, atol=1e-12)
    np.testing.assert_array_equal(masked_least_squares(gram, target, np.zeros_like(mask)), np.zeros(target.shape))
    assert masked_least_squares(gram, target[:0], mask[:0]).shape == (0, 8)
    assert masked_least_squares(gram[:0, :0], target[:, :0], mask[:, :0]).shape == (4, 0)


@WAYS
@pytest.mark.usefixtures("force")
def test_what_nothing_determines_stays_as_it_was(iterate: bool) -> None:
    gram, target, mask = problem(2, 4, 12)
    gram[:, 3] = gram[3] = 0.0
    for ridge in (0.0, 0.01):
        found = masked_least_squares(gram, target, mask, ridge=ridge)
        np.testing.assert_allclose(found[:, 3], np.where(mask[:, 3], target[:, 3], 0.0), atol=1e-9)
    np.testing.assert_array_equal(masked_least_squares(0 * gram, target, mask, ridge=0.01), np.where(mask, target, 0.0))


@WAYS
@pytest.mark.usefixtures("force")
def test_fewer_samples_than_columns(iterate: bool) -> None:
    gram, target, mask = problem(3, 4, 24, samples=5)
    found = masked_least_squares(gram, target, mask, ridge=0.0)
    # Five samples can be given exactly by twelve columns.
    change = found - target
    assert np.einsum("rc,cd,rd->", change, gram, change) < 1e-6 * np.einsum("rc,cd,rd->", target, gram, target)
    assert np.abs(found).max() < 1e3


@WAYS
@pytest.mark.usefixtures("force")
def test_rows_with_one_mask_share_a_factor(iterate: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    gram, target, mask = problem(4, 30, 12)
    mask = mask[np.arange(30) % 3]
    solved: list[int] = []
    solve = module.solve_positive
    monkeypatch.setattr(module, "solve_positive", lambda a, b: solved.append(b.shape[1]) or solve(a, b))
    found = masked_least_squares(gram, target, mask)
    np.testing.assert_allclose(found, by_row(gram, target, mask, 0.01, target), rtol=1e-4, atol=1e-4)
    assert solved == ([] if iterate else [10, 10, 10])


@pytest.mark.parametrize("iterate", [True])
@pytest.mark.usefixtures("force")
def test_rows_that_do_not_converge_are_factorized(iterate: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    gram, target, mask = problem(5, 6, 30)
    monkeypatch.setattr(module, "_STEPS", 2)
    monkeypatch.setattr(module, "_CORRECTIONS", 2)
    found = masked_least_squares(gram, target, mask)
    np.testing.assert_allclose(found, by_row(gram, target, mask, 0.01, target), rtol=1e-9, atol=1e-9)


def test_the_way_goes_by_cost() -> None:
    random = np.random.default_rng(6)
    many = random.random((8, 16384)) < 0.5
    assert module._iterate(many, 8)
    assert not module._iterate(many, 1)
    assert not module._iterate(random.random((576, 576)) < 0.5, 576)
    assert not module._iterate(random.random((8, 16384)) < 0.1, 8)


def test_what_makes_no_sense_is_refused() -> None:
    gram, target, mask = problem(7, 3, 6)
    with pytest.raises(ValueError, match="does not fit a Gram"):
        masked_least_squares(gram[:4, :4], target, mask)
    with pytest.raises(ValueError, match="the mask has shape"):
        masked_least_squares(gram, target, mask[:2])
    with pytest.raises(ValueError, match="ridge"):
        masked_least_squares(gram, target, mask, ridge=-1.0)
    with pytest.raises(ValueError, match="Gram holds NaN"):
        masked_least_squares(np.full_like(gram, np.nan), target, mask)
    with pytest.raises(ValueError, match="start holds NaN"):
        masked_least_squares(gram, target, mask, np.full_like(target, np.inf))
