"""Least squares on Grams: what numpy finds on the data itself, with damping, priors, intercepts and singular inputs."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.calib.gram import Gram
from secateur.calib.solvers.least_squares import intercept, kept_indices, least_squares, residual

Array = np.ndarray[Any, Any]


def problem(seed: int, rows: int = 40, width: int = 6, targets: int = 3) -> tuple[Array, Array]:
    random = np.random.default_rng(seed)
    mix = np.eye(width) + 0.5 * random.normal(size=(width, width))
    x = random.normal(size=(rows, width)) @ mix + random.normal(size=width)
    return x, x @ random.normal(size=(width, targets)) + 0.5 * random.normal(size=(rows, targets)) + 2.0


def gram_of(x: Array, y: Array) -> Gram:
    gram = Gram(x.shape[1], y.shape[1])
    gram.update(x, y)
    return gram


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    kept=st.sets(st.integers(0, 5)).map(sorted),
    damping=st.sampled_from([0.0, 0.01, 1.0]),
    with_prior=st.booleans(),
)
def test_coefficients_are_those_of_the_augmented_data(
    seed: int, kept: list[int], damping: float, with_prior: bool
) -> None:
    """Ridge towards a prior is plain least squares with sqrt(ridge) * I as further rows, whose target is the prior."""
    x, y = problem(seed)
    gram = gram_of(x, y)
    prior = np.random.default_rng(seed).normal(size=(len(kept), 3)) if with_prior else None
    ridge = damping * np.mean(gram.xx[kept, kept]) if kept else 0.0
    rows = np.concatenate([x[:, kept], np.sqrt(ridge) * np.eye(len(kept))])
    targets = np.concatenate([y, np.sqrt(ridge) * (np.zeros((len(kept), 3)) if prior is None else prior)])
    expected = np.linalg.lstsq(rows, targets)[0]
    got = least_squares(gram.xx, gram.xy, kept, damping=damping, prior=prior)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-8)
    mask = np.isin(np.arange(6), kept)
    assert np.array_equal(got, least_squares(gram.xx, gram.xy, mask, damping=damping, prior=prior))


def test_the_solution_does_not_depend_on_the_scale_of_the_data() -> None:
    x, y = problem(1)
    one, other = gram_of(x, y), gram_of(1000 * x, 1000 * y)
    np.testing.assert_allclose(least_squares(one.xx, one.xy), least_squares(other.xx, other.xy))


def test_centred_sums_and_intercept_are_least_squares_with_an_intercept() -> None:
    x, y = problem(2)
    kept = [0, 2, 5]
    gram = gram_of(x, y)
    sums = gram.centered()
    coefficients = least_squares(sums.xx, sums.xy, kept, damping=0.0)
    bias = intercept(coefficients, gram.mean, gram.target_mean, kept)
    expected = np.linalg.lstsq(np.c_[x[:, kept], np.ones(len(x))], y)[0]
    np.testing.assert_allclose(np.vstack([coefficients, bias]), expected, rtol=1e-9, atol=1e-10)
    errors = x[:, kept] @ coefficients + bias - y
    np.testing.assert_allclose(errors.mean(0), 0, atol=1e-12)
    assert residual(sums.xx, sums.xy, sums.yy, kept) == pytest.approx(np.sum(errors**2))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), kept=st.sets(st.integers(0, 5)).map(sorted))
def test_residual_is_the_error_on_the_data(seed: int, kept: list[int]) -> None:
    x, y = problem(seed)
    gram = gram_of(x, y)
    some = np.random.default_rng(seed).normal(size=(len(kept), 3))
    for coefficients in (some, least_squares(gram.xx, gram.xy, kept)):
        expected = np.sum((x[:, kept] @ coefficients - y) ** 2)
        assert residual(gram.xx, gram.xy, gram.yy, kept, coefficients) == pytest.approx(expected, rel=1e-9)
    best = np.sum((x[:, kept] @ np.linalg.lstsq(x[:, kept], y)[0] - y) ** 2)
    assert residual(gram.xx, gram.xy, gram.yy, kept) == pytest.approx(best, rel=1e-9)


def test_refit_never_costs_and_more_columns_never_hurt() -> None:
    x, y = problem(3)
    gram = gram_of(x, y)
    full = least_squares(gram.xx, gram.xy, damping=0.0)
    losses = []
    for count in range(7):
        kept = list(range(count))
        refit = residual(gram.xx, gram.xy, gram.yy, kept)
        assert refit <= residual(gram.xx, gram.xy, gram.yy, kept, full[kept]) + 1e-9
        losses.append(refit)
    assert all(a >= b - 1e-9 for a, b in pairwise(losses))


def test_dependent_columns_can_go_at_no_cost() -> None:
    random = np.random.default_rng(4)
    x = random.normal(size=(50, 5))
    x = np.c_[x, x @ random.normal(size=5)]
    y = x @ random.normal(size=(6, 2))
    gram = gram_of(x, y)
    for kept in combinations(range(6), 5):
        assert residual(gram.xx, gram.xy, gram.yy, list(kept)) < 1e-9 * gram.yy.sum()
    assert residual(gram.xx, gram.xy, gram.yy, [0, 1, 2, 3]) > 1e-3 * gram.yy.sum()


def test_singular_inputs_move_the_prior_as_little_as_possible() -> None:
    """Three columns that are alike, a dead one, and no damping: the change is shared, the dead column stays."""
    column = np.random.default_rng(5).normal(size=(20, 1))
    x = np.c_[column, column, column, np.zeros(20)]
    gram = gram_of(x, 6 * column)
    prior = np.array([[1.0], [2.0], [0.0], [7.0]])
    got = least_squares(gram.xx, gram.xy, damping=0.0, prior=prior)
    np.testing.assert_allclose(got, [[2.0], [3.0], [1.0], [7.0]], atol=1e-9)
    assert not least_squares(np.zeros((2, 2)), np.zeros((2, 1))).any()
    np.testing.assert_allclose(least_squares(np.zeros((2, 2)), np.zeros((2, 1)), prior=prior[:2]), prior[:2])


@pytest.mark.parametrize("seed", range(20))
def test_rounding_does_not_hide_that_inputs_are_singular(seed: int) -> None:
    """Dependent columns make huge coefficients that cancel, unless they are noticed: Cholesky often does not."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(30, 4))
    x = np.c_[x, x @ random.normal(size=(4, 2))]
    y = x @ random.normal(size=(6, 2))
    gram = gram_of(x, y)
    smallest = np.linalg.lstsq(x, y)[0]
    np.testing.assert_allclose(least_squares(gram.xx, gram.xy, damping=0.0), smallest, atol=1e-8)


def test_few_samples_stay_near_the_prior_where_they_say_nothing() -> None:
    random = np.random.default_rng(6)
    weight = random.normal(size=(8, 2))
    x = random.normal(size=(3, 8))
    gram = gram_of(x, x @ weight)
    towards_zero = least_squares(gram.xx, gram.xy)
    towards_weight = least_squares(gram.xx, gram.xy, prior=weight)
    np.testing.assert_allclose(towards_weight, weight, atol=1e-12)
    assert np.linalg.norm(towards_zero - weight) > 0.5 * np.linalg.norm(weight)


def test_what_does_not_fit_is_refused() -> None:
    xx, xy = np.eye(3), np.ones((3, 2))
    with pytest.raises(ValueError, match=r"within 0\.\.2"):
        least_squares(xx, xy, [0, 3])
    with pytest.raises(ValueError, match="mask"):
        kept_indices(np.ones(2, bool), 3)
    with pytest.raises(ValueError, match="prior"):
        least_squares(xx, xy, [0, 1], prior=np.ones((3, 2)))
    with pytest.raises(ValueError, match="damping"):
        least_squares(xx, xy, damping=-1.0)
