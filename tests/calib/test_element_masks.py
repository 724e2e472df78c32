"""Element masks: to the bit what a stable sort gives, ties and infinities among them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.calib.solvers.element_masks import keep_most, keep_of, keep_share, removed_of


def sorted_of(saliency: Any, keep: int, group: int) -> Any:
    grouped = saliency.reshape(-1, group)
    mask = np.zeros(grouped.shape, bool)
    np.put_along_axis(mask, np.argsort(-grouped, axis=1, kind="stable")[:, :keep], True, axis=1)
    return mask.reshape(saliency.shape)


def sorted_share(saliency: Any, removed: int) -> Any:
    mask = np.zeros(saliency.size, bool)
    mask[np.argsort(-saliency.reshape(-1), kind="stable")[: saliency.size - removed]] = True
    return mask.reshape(saliency.shape)


def saliencies(seed: int, shape: tuple[int, ...], levels: int) -> Any:
    """Few levels make many ties; zeros of both signs and infinities are among them."""
    random = np.random.default_rng(seed)
    found = random.integers(0, levels, shape).astype(random.choice([np.float32, np.float64]))
    found[random.random(shape) < 0.1] = -0.0
    found[random.random(shape) < 0.1] = np.inf
    return found


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    group=st.integers(1, 12),
    groups=st.integers(0, 5),
    levels=st.sampled_from([1, 2, 3, 1000]),
    data=st.data(),
)
def test_keep_of_is_a_stable_sort(seed: int, group: int, groups: int, levels: int, data: st.DataObject) -> None:
    keep = data.draw(st.integers(0, group))
    saliency = saliencies(seed, (3, 2, group * groups), levels)
    mask = keep_of(saliency, keep, group)
    np.testing.assert_array_equal(mask, sorted_of(saliency, keep, group))
    assert (mask.reshape(3, 2, groups, group).sum(-1) == keep).all()


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 6), st.integers(1, 9)),
    share=st.floats(0, 1),
    levels=st.sampled_from([1, 2, 3, 1000]),
)
def test_keep_share_is_a_stable_sort(seed: int, shape: tuple[int, int], share: float, levels: int) -> None:
    saliency = saliencies(seed, shape, levels)
    layer, rows = keep_share(saliency, share), keep_share(saliency, share, "row")
    np.testing.assert_array_equal(layer, sorted_share(saliency, removed_of(saliency.size, share)))
    for row, mask in zip(saliency, rows, strict=True):
        np.testing.assert_array_equal(mask, sorted_share(row, removed_of(len(row), share)))


def test_scale_changes_nothing_and_the_smallest_go() -> None:
    saliency = np.abs(np.random.default_rng(0).normal(size=(7, 12)))
    for keep in (lambda s: keep_of(s, 2, 4), lambda s: keep_share(s, 0.3), lambda s: keep_share(s, 0.3, "row")):
        np.testing.assert_array_equal(keep(saliency), keep(17.3 * saliency))
    mask = keep_share(saliency, 0.3)
    lost = np.sort(saliency**2, axis=None)[: np.count_nonzero(~mask)].sum()
    assert (saliency[~mask] ** 2).sum() == pytest.approx(lost)


@pytest.mark.parametrize(("size", "share"), [(10, 0.9), (10, 0.3), (1000, 0.1), (3, 2 / 3), (7, 0.5), (10**7, 0.7)])
def test_counts_are_floors_of_what_is_meant(size: int, share: float) -> None:
    from fractions import Fraction

    assert removed_of(size, share) == math.floor(size * (1 - Fraction(share).limit_denominator(1000)))


def test_integers_have_no_negative_to_sort_by() -> None:
    saliency = np.array([[0, 255, 3, 3, 128, 0, 0, 1, 2, 255]], np.uint8)
    np.testing.assert_array_equal(np.flatnonzero(keep_of(saliency, 2, 10)), [1, 9])
    np.testing.assert_array_equal(np.flatnonzero(keep_most(saliency, 3)), [1, 4, 9])


def test_what_is_no_pattern_is_refused() -> None:
    with pytest.raises(ValueError, match="10 columns are not a multiple of 4"):
        keep_of(np.zeros((2, 10)), 2, 4)
    with pytest.raises(ValueError, match="5:4 is no pattern"):
        keep_of(np.zeros((2, 8)), 5, 4)
    with pytest.raises(ValueError, match=r"within 0\.\.1, got 1\.5"):
        keep_share(np.zeros((2, 8)), 1.5)
    with pytest.raises(ValueError, match='"layer" or "row"'):
        keep_share(np.zeros((2, 8)), 0.5, "column")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1 of 8 saliencies are NaN"):
        keep_of(np.array([1, 2, np.nan, 3, 4, 5, 6, 7.0]), 2, 4)
