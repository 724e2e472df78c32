"""DSnoT: swaps bring the mean output of a pruned row back, and keep its counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.calib.solvers.element_masks import keep_of, keep_share
from secateur.calib.solvers.prune_and_grow import dsnot


def problem(seed: int, rows: int, columns: int) -> tuple[Any, Any, Any, Any]:
    random = np.random.default_rng(seed)
    mean, variance = random.normal(size=columns), random.uniform(0.1, 2, columns)
    return random.normal(size=(rows, columns)), mean, variance, np.sqrt(variance + mean**2)


def off(weight: Any, mask: Any, mean: Any) -> Any:
    return np.abs(np.where(mask, 0.0, weight) @ mean)


def by_row(weight: Any, mask: Any, mean: Any, variance: Any, norm: Any, cycles: int) -> Any:
    """The twin: one row, no groups, no guard, no tolerance."""
    mask, contribution = mask.copy(), weight * mean
    eps = contribution[~mask].sum()
    grown = sorted(np.flatnonzero(~mask), key=lambda j: contribution[j] / variance[j])
    kept = sorted(np.flatnonzero(mask), key=lambda j: abs(weight[j]) * norm[j])
    for _ in range(cycles):
        fitting = [j for j in kept if contribution[j] * eps < 0]
        if not grown or not fitting or eps == 0:
            break
        grow, prune = grown.pop(-1 if eps > 0 else 0), fitting[0]
        kept.remove(prune)
        mask[grow], mask[prune] = True, False
        eps += contribution[prune] - contribution[grow]
    return mask


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), columns=st.integers(1, 12), cycles=st.integers(0, 8))
def test_it_is_the_method_row_by_row(seed: int, columns: int, cycles: int) -> None:
    weight, mean, variance, norm = problem(seed, 4, columns)
    mask = keep_share(np.abs(weight) * norm, 0.5, "row")
    found = dsnot(weight, mask, mean, variance, norm, cycles=cycles, tolerance=0.0)
    for row, kept, got in zip(weight, mask, found, strict=True):
        np.testing.assert_array_equal(got, by_row(row, kept, mean, variance, norm, cycles))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), group=st.sampled_from([None, 4, 8]), power=st.sampled_from([0.0, 1.0]))
def test_counts_stay_and_with_the_guard_the_mean_error_never_grows(seed: int, group: int | None, power: float) -> None:
    weight, mean, variance, norm = problem(seed, 6, 24)
    mask = keep_of(np.abs(weight) * norm, 2, group or 4)
    previous = off(weight, mask, mean)
    for cycles in range(6):
        found = dsnot(
            weight, mask, mean, variance, norm, group=group, cycles=cycles, tolerance=0.0, power=power, guard=True
        )
        now = off(weight, found, mean)
        assert (now <= previous + 1e-12).all()
        previous = now
        size = group or 24
        np.testing.assert_array_equal(mask.reshape(6, -1, size).sum(2), found.reshape(6, -1, size).sum(2))
    if group is not None:
        by_default = dsnot(weight, mask, mean, variance, norm, group=group, cycles=5, tolerance=0.0, power=power)
        np.testing.assert_array_equal(by_default, found)


def test_it_helps() -> None:
    weight, mean, variance, norm = problem(0, 200, 64)
    mask = keep_of(np.abs(weight) * norm, 2, 4)
    # Without a guard some rows end where nothing is left that would bring them back.
    for group, guard, share in ((None, False, 0.6), (None, True, 0.8), (4, None, 0.8)):
        found = dsnot(weight, mask, mean, variance, norm, group=group, guard=guard)
        assert np.median(off(weight, found, mean)) < share * np.median(off(weight, mask, mean))


def test_figures_by_hand() -> None:
    weight, one = np.array([[3.0, 1.0, -2.0, 0.5]]), np.ones(4)
    mask = np.array([[True, False, True, False]])
    free = dsnot(weight, mask, one, one, one, cycles=1, tolerance=0.0)
    np.testing.assert_array_equal(free, [[True, True, False, False]])
    np.testing.assert_array_equal(dsnot(weight, mask, one, one, one, cycles=1, tolerance=0.0, guard=True), mask)
    np.testing.assert_array_equal(dsnot(weight, mask, one, one, one, cycles=1, tolerance=0.0, group=4), mask)


def test_nothing_moves_without_a_mean_or_within_the_tolerance() -> None:
    weight, mean, variance, norm = problem(1, 6, 24)
    mask = keep_of(np.abs(weight), 2, 4)
    np.testing.assert_array_equal(dsnot(weight, mask, 0 * mean, variance, norm, tolerance=0.0), mask)
    np.testing.assert_array_equal(dsnot(weight, mask, mean, variance, norm, tolerance=1e3), mask)
    assert (dsnot(weight, mask, mean, variance, norm) != mask).any()


def test_inputs_that_never_vary() -> None:
    weight, mean, variance, norm = problem(2, 6, 24)
    mask = keep_of(np.abs(weight), 2, 4)
    for constant in (variance * (np.arange(24) % 2), 0 * variance):
        found = dsnot(weight, mask, mean, constant, norm, group=4)
        np.testing.assert_array_equal(found.reshape(6, -1, 4).sum(2), 2)


def test_what_makes_no_sense_is_refused() -> None:
    weight, mean, variance, norm = problem(3, 6, 24)
    mask = np.ones(weight.shape, bool)
    with pytest.raises(ValueError, match="same two axes"):
        dsnot(weight, mask[:2], mean, variance, norm)
    with pytest.raises(ValueError, match="variance has shape"):
        dsnot(weight, mask, mean, variance[:3], norm)
    with pytest.raises(ValueError, match="mean holds NaN"):
        dsnot(weight, mask, mean * np.nan, variance, norm)
    with pytest.raises(ValueError, match="negative"):
        dsnot(weight, mask, mean, -variance, norm)
    with pytest.raises(ValueError, match="24 columns are not a multiple of 5"):
        dsnot(weight, mask, mean, variance, norm, group=5)
