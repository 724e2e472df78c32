"""Swaps: each is the best there is, the error falls by what they say, and counts stay."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.calib.solvers import mask_swaps as module
from secateur.calib.solvers.element_masks import keep_of, keep_share
from secateur.calib.solvers.mask_swaps import swap


def problem(seed: int, rows: int, columns: int) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(3 * columns, columns)) @ random.normal(size=(columns, columns))
    return random.normal(size=(rows, columns)), x.T @ x


def error(mask: Any, target: Any, gram: Any) -> Any:
    lost = np.where(mask, 0.0, target)
    return np.einsum("rc,cd,rd->r", lost, gram, lost)


def best_swap(mask: Any, target: Any, gram: Any, group: int) -> float:
    """The twin: the least error of one row after any one swap within a group, or none."""
    errors = [error(mask[None], target[None], gram)[0]]
    for grown, pruned in product(np.flatnonzero(~mask), np.flatnonzero(mask)):
        if grown // group == pruned // group:
            other = mask.copy()
            other[[grown, pruned]] = True, False
            errors.append(error(other[None], target[None], gram)[0])
    return min(errors)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), columns=st.integers(1, 9), share=st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_one_swap_is_the_best_of_the_row(seed: int, columns: int, share: float) -> None:
    target, gram = problem(seed, 4, columns)
    mask = keep_share(np.abs(target), share, "row")
    # All columns as one group, and the row as such, are the same here.
    for group in (None, columns):
        found = swap(target, gram, mask, group, rounds=1)
        after = error(found.mask, target, gram)
        expected = [best_swap(kept, row, gram, columns) for kept, row in zip(mask, target, strict=True)]
        np.testing.assert_allclose(after, expected, rtol=1e-9)
        np.testing.assert_array_equal(found.mask.sum(1), mask.sum(1))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), group=st.sampled_from([None, 4, 6]), block=st.sampled_from([4, 12, 128]))
def test_the_error_falls_by_the_gain_to_where_no_swap_helps(seed: int, group: int | None, block: int) -> None:
    target, gram = problem(seed, 5, 24)
    mask = keep_of(np.abs(target), 2, group) if group else keep_share(np.abs(target), 0.4, "row")
    before = error(mask, target, gram)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        found = swap(target, gram, mask, group)
    after = error(found.mask, target, gram)
    np.testing.assert_allclose(before - after, found.gain, atol=1e-9 * before.max())
    changed = (found.mask != mask).any(1)
    assert (after[changed] < before[changed]).all()
    assert (found.gain[~changed] == 0).all()
    np.testing.assert_array_equal(found.weight, np.where(found.mask, target, 0.0))
    expected = [best_swap(kept, row, gram, group or 24) for kept, row in zip(found.mask, target, strict=True)]
    np.testing.assert_allclose(after, expected, rtol=1e-8)
    counts = [one.reshape(5, -1, group or 24).sum(2) for one in (mask, found.mask)]
    np.testing.assert_array_equal(*counts)


def test_more_rounds_are_no_worse() -> None:
    target, gram = problem(0, 8, 48)
    for group in (None, 4):
        mask = keep_of(np.abs(target), 2, 4)
        errors = [error(swap(target, gram, mask, group, rounds).mask, target, gram) for rounds in range(8)]
        assert (np.diff(errors, axis=0) <= 0).all()
        np.testing.assert_array_equal(errors[0], error(mask, target, gram))
        assert errors[-1].sum() < 0.9 * errors[0].sum()


def test_a_short_list_still_only_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    target, gram = problem(1, 6, 40)
    mask = keep_share(np.abs(target), 0.5, "row")
    monkeypatch.setattr(module, "_SHORTLIST", 3)
    monkeypatch.setattr(module, "_PAIR_BYTES", 8 * 9 * 2)
    found = swap(target, gram, mask)
    np.testing.assert_allclose(error(mask, target, gram) - found.gain, error(found.mask, target, gram), rtol=1e-9)
    assert (found.gain >= 0).all()
    assert found.gain.sum() > 0


def test_independent_inputs_are_sorted_already() -> None:
    target, _ = problem(2, 6, 24)
    gram = np.diag(np.arange(1.0, 25))
    score = target**2 * gram.diagonal()
    for group, mask in ((4, keep_of(score, 2, 4)), (None, keep_share(score, 0.5, "row"))):
        assert (swap(target, gram, mask, group).mask == mask).all()
        # From the worst mask, swaps lead to the best.
        assert (swap(target, gram, ~mask, group).mask == mask).all()


def test_inputs_that_are_all_zero_give_nothing_to_swap() -> None:
    target, _ = problem(3, 3, 8)
    mask = keep_of(np.abs(target), 2, 4)
    for group in (None, 4):
        assert (swap(target, np.zeros((8, 8)), mask, group).mask == mask).all()


def test_what_makes_no_sense_is_refused() -> None:
    target, gram = problem(4, 3, 8)
    mask = np.ones((3, 8), bool)
    with pytest.raises(ValueError, match="do not fit each other"):
        swap(target, gram[:4, :4], mask)
    with pytest.raises(ValueError, match="8 columns are not a multiple of 3"):
        swap(target, gram, mask, 3)
    with pytest.raises(ValueError, match="Gram holds NaN"):
        swap(target, np.full_like(gram, np.nan), mask)
    with pytest.raises(ValueError, match="target holds NaN"):
        swap(np.full_like(target, np.nan), gram, mask)
