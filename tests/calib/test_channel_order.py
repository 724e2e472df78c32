"""Orders of channels: every search keeps what it claims, never less than before, and at tiny size nearly the most."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.calib.solvers.channel_order import assign, exchange, retained, snake
from secateur.calib.solvers.element_masks import keep_of

PATTERNS = [(2, 4), (1, 4), (4, 8), (1, 2), (3, 4)]


def _saliency(seed: int, rows: int, channels: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.abs(random.standard_normal((rows, channels))) * np.exp(random.standard_normal(channels))


def _best_of_eight(saliency: np.ndarray) -> float:
    """The most that 2:4 keeps of 8 channels, over all 35 ways to make two groups of them."""
    best = 0.0
    for rest in combinations(range(1, 8), 3):
        first = [0, *rest]
        order = np.array([*first, *(channel for channel in range(8) if channel not in first)])
        best = max(best, retained(saliency, 2, 4, order))
    return best


@pytest.mark.parametrize(("keep", "group"), PATTERNS)
def test_what_is_retained_is_what_masks_keep(keep: int, group: int) -> None:
    saliency = _saliency(0, 5, 3 * group)
    order = np.random.default_rng(1).permutation(3 * group)
    ordered = saliency[:, order]
    assert retained(saliency, keep, group, order) == pytest.approx(ordered[keep_of(ordered, keep, group)].sum())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.sampled_from(PATTERNS), st.integers(1, 9), st.integers(1, 12))
def test_searches_give_permutations_that_keep_no_less(
    seed: int, pattern: tuple[int, int], groups: int, rows: int
) -> None:
    keep, group = pattern
    saliency = _saliency(seed, rows, groups * group)
    start = snake(saliency, group)
    assert np.array_equal(np.sort(start), np.arange(groups * group))
    least = retained(saliency, keep, group, start) * (1 - 1e-9)
    for order in (assign(saliency, keep, group, start), exchange(saliency, keep, group, start)):
        assert np.array_equal(np.sort(order), np.arange(groups * group))
        assert retained(saliency, keep, group, order) >= least


def test_snake_deals_to_and_fro() -> None:
    assert snake(np.arange(8.0)[None], 4).reshape(2, 4).tolist() == [[0, 3, 4, 7], [1, 2, 5, 6]]


def test_two_groups_of_four_come_near_the_best_of_all_orders() -> None:
    shares = []
    for seed in range(60):
        saliency = _saliency(seed, 6, 8)
        found = exchange(saliency, 2, 4, assign(saliency, 2, 4, snake(saliency, 4), rounds=4))
        best, plain = _best_of_eight(saliency), retained(saliency, 2, 4)
        shares.append((retained(saliency, 2, 4, found) - plain) / (best - plain) if best > plain else 1.0)
        assert retained(saliency, 2, 4, found) <= best * (1 + 1e-12)
    assert np.mean(shares) > 0.95


def test_channels_that_all_matter_are_spread_out() -> None:
    """Half of the channels carry everything, and lie together: an order exists that keeps all of it."""
    saliency = np.zeros((3, 16))
    saliency[:, :8] = 1.0 + np.random.default_rng(0).random((3, 8))
    assert retained(saliency, 2, 4) < saliency.sum()
    for order in (snake(saliency, 4), exchange(saliency, 2, 4, np.arange(16))):
        assert retained(saliency, 2, 4, order) == pytest.approx(saliency.sum())


def test_no_single_swap_gains_after_exchange() -> None:
    saliency = _saliency(5, 7, 16)
    order = exchange(saliency, 2, 4, np.arange(16), rounds=100)
    now = retained(saliency, 2, 4, order)
    for one, other in combinations(range(16), 2):
        swapped = order.copy()
        swapped[[one, other]] = swapped[[other, one]]
        assert retained(saliency, 2, 4, swapped) <= now * (1 + 1e-8)
