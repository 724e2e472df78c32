"""Grams: the same moments as all rows at once, in whatever order, batches and merges the rows come."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.calib import gram as gram_module
from secateur.calib.gram import Gram
from secateur.ir.errors import DataError


def assert_same(one: Gram, other: Gram, scale: float = 1.0) -> None:
    assert one.rows == other.rows
    assert one.count == pytest.approx(other.count)
    for name in ("mean", "target_mean", "absmax", "absmean"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-10, atol=1e-12 * scale)
    for a, b in ((one.centered(), other.centered()), (one.raw(), other.raw())):
        for name in ("xx", "xy", "yy"):
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-9, atol=1e-9 * scale**2)


def test_moments_are_those_of_the_rows() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal([3, -3, 0, 1], 2, (50, 4)), random.normal(-1, 1, (50, 3))
    gram = Gram(4, 3)
    gram.update(x, y)
    cx, cy = x - x.mean(0), y - y.mean(0)
    np.testing.assert_allclose(gram.xx, x.T @ x)
    np.testing.assert_allclose(gram.xy, x.T @ y)
    np.testing.assert_allclose(gram.yy, (y**2).sum(0))
    np.testing.assert_allclose(gram.diagonal, (x**2).sum(0))
    np.testing.assert_allclose(gram.variance, x.var(0))
    np.testing.assert_allclose(gram.target_variance, y.var(0))
    np.testing.assert_allclose(gram.absmax, np.abs(x).max(0))
    np.testing.assert_allclose(gram.absmean, np.abs(x).mean(0))
    centered = gram.centered()
    assert centered.count == gram.count == gram.rows == 50
    np.testing.assert_allclose(centered.xx, cx.T @ cx)
    np.testing.assert_allclose(centered.xy, cx.T @ cy)
    np.testing.assert_allclose(centered.yy, (cy**2).sum(0))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=6),
    weights=st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=6, max_size=6),
    shards=st.lists(st.integers(0, 2), min_size=6, max_size=6),
)
def test_order_batches_and_merges_do_not_matter(
    seed: int, sizes: list[int], weights: list[float], shards: list[int]
) -> None:
    random = np.random.default_rng(seed)
    offset = random.normal(0, 5, 3)
    parts = [
        (random.normal(size=(size, 3)) + offset, random.normal(size=(size, 2)), weight)
        for size, weight in zip(sizes, weights, strict=False)
    ]
    straight, shuffled = Gram(3, 2), Gram(3, 2)
    for x, y, weight in parts:
        straight.update(x, y, weight)
    trees = [Gram(3, 2) for _ in range(3)]
    for index in random.permutation(len(parts)):
        x, y, weight = parts[index]
        for row in random.permutation(len(x)):
            trees[shards[index]].update(x[row : row + 1], y[row : row + 1], weight)
    # (a + b) + c
    trees[0].merge(trees[1])
    trees[0].merge(trees[2])
    shuffled.merge(trees[0])
    assert_same(straight, shuffled, scale=10.0)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_merging_is_associative_and_commutative(seed: int) -> None:
    random = np.random.default_rng(seed)

    def fresh() -> list[Gram]:
        grams = [Gram(3, 1) for _ in range(3)]
        for index, gram in enumerate(grams):
            rows = np.random.default_rng([seed, index]).normal(index, 1, (int(sizes[index]), 4))
            gram.update(rows[:, :3], rows[:, 3:])
        return grams

    sizes = random.integers(0, 6, 3)
    a, b, c = fresh()
    a.merge(b)
    a.merge(c)
    d, e, f = fresh()
    f.merge(e)
    f.merge(d)
    assert_same(a, f, scale=3.0)


def test_spreads_are_squares_about_the_mean() -> None:
    random = np.random.default_rng(4)
    x, rows = random.normal(3.0, 1.0, (40, 5)), random.normal(size=(3, 5))
    gram = Gram(5)
    gram.update(x)
    np.testing.assert_allclose(gram.spread_of(rows), np.square((x - x.mean(axis=0)) @ rows.T).sum(axis=0))


def test_a_weight_is_a_number_of_repetitions() -> None:
    random = np.random.default_rng(1)
    x, y = random.normal(size=(5, 3)), random.normal(size=(5, 2))
    weighted, repeated = Gram(3, 2), Gram(3, 2)
    weighted.update(x, y, 3.0)
    repeated.update(np.repeat(x, 3, axis=0), np.repeat(y, 3, axis=0))
    weighted.rows = repeated.rows
    assert_same(weighted, repeated)


@pytest.mark.parametrize(("dtype", "width", "digits"), [(np.float64, 3, 1e-12), (np.float32, 520, 1e-6)])
def test_each_row_may_have_a_weight_of_its_own(dtype: Any, width: int, digits: float) -> None:
    random = np.random.default_rng(2)
    x, y = random.normal(5.0, 1.0, (300, width)).astype(dtype), random.normal(size=(300, 2)).astype(dtype)
    weights = random.integers(0, 4, 300)
    weighted, repeated = Gram(width, 2), Gram(width, 2, exact=True)
    weighted.update(x, y, weights.astype(np.float64))
    repeated.update(*(np.repeat(rows, weights, axis=0) for rows in (x, y)))
    assert weighted.rows == 300
    assert weighted.count == repeated.count == weights.sum()
    np.testing.assert_array_equal(weighted.absmax, np.abs(x).max(axis=0))
    for name in ("mean", "target_mean", "absmean", "xx", "xy", "yy"):
        one, other = getattr(weighted, name), getattr(repeated, name)
        np.testing.assert_allclose(one, other, rtol=0, atol=digits * np.abs(other).max())


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int8, np.uint8, np.bool_])
def test_low_precision_inputs_lose_nothing(dtype: Any) -> None:
    x = np.random.default_rng(2).uniform(0, 100, (4000, 3)).astype(dtype)
    gram = Gram(3)
    gram.update(x)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(gram.xx, exact.T @ exact, rtol=1e-13)
    np.testing.assert_allclose(gram.absmax, np.abs(exact).max(0))


def test_inputs_far_from_zero_keep_their_variance() -> None:
    x = 1e6 + np.random.default_rng(3).normal(size=(3000, 2))
    gram = Gram(2)
    for part in np.array_split(x, 7):
        gram.update(part)
    deviations = x - x.mean(0)
    np.testing.assert_allclose(gram.centered().xx, deviations.T @ deviations, rtol=1e-9, atol=1e-6)


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(4)
    x, y = random.normal(size=(100, 5)), random.normal(size=(100, 2))
    whole, chunked = Gram(5, 2), Gram(5, 2)
    whole.update(x, y)
    monkeypatch.setattr(gram_module, "_CHUNK_BYTES", 7 * 8 * 3)
    chunked.update(x, y)
    assert_same(whole, chunked)


def test_state_round_trips() -> None:
    gram = Gram(3, 2)
    gram.update(np.random.default_rng(5).normal(size=(9, 3)), np.ones((9, 2)), 0.3)
    restored = Gram.from_state(gram.state())
    assert_same(gram, restored)
    for one in (gram, restored):
        one.update(np.ones((2, 3)), np.zeros((2, 2)))
    assert_same(gram, restored)
    with pytest.raises(DataError, match="not the arrays of a Gram"):
        Gram.from_state({**gram.state(), "xx": np.zeros((2, 2, 2))})
    with pytest.raises(DataError, match="absmax"):
        Gram.from_state({name: array for name, array in gram.state().items() if name != "absmax"})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_leave_the_gram_as_it_was(value: float) -> None:
    gram = Gram(2, 1)
    gram.update(np.ones((4, 2)), np.ones((4, 1)))
    before = gram.state()
    bad = np.ones((4, 2))
    bad[3, 1] = value
    with pytest.raises(DataError, match="x has 1 of 8"):
        gram.update(bad, np.ones((4, 1)))
    with pytest.raises(DataError, match="y has 1 of 4"):
        gram.update(np.ones((4, 2)), bad[:, 1:])
    with pytest.raises(DataError, match="weight"):
        gram.update(np.ones((4, 2)), np.ones((4, 1)), value)
    assert all(np.array_equal(before[name], array) for name, array in gram.state().items())


def test_shapes_that_do_not_fit_are_refused() -> None:
    gram = Gram(2, 1)
    for x, y in ((np.ones((3, 3)), np.ones((3, 1))), (np.ones((3, 2)), np.ones((4, 1))), (np.ones((3, 2)), None)):
        with pytest.raises(ValueError, match="shape"):
            gram.update(x, y)
    with pytest.raises(ValueError, match="cannot merge"):
        gram.merge(Gram(2))
    with pytest.raises(ValueError, match="width >= 1"):
        Gram(0)


def test_no_rows_are_no_moments() -> None:
    gram = Gram(2, 1)
    gram.update(np.zeros((0, 2)), np.zeros((0, 1)))
    gram.merge(Gram(2, 1))
    assert gram.rows == gram.count == 0
    assert not gram.xx.any() and not gram.centered().xx.any() and not gram.variance.any()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_wide_inputs_are_multiplied_in_single_precision_and_summed_in_double(dtype: Any) -> None:
    random = np.random.default_rng(8)
    x = (random.normal(size=(3000, 600)) * random.uniform(0.1, 3, 600) + 2 * random.normal(size=600)).astype(dtype)
    y = random.normal(size=(3000, 7)).astype(dtype)
    gram, exact = Gram(600, 7), Gram(600, 7, exact=True)
    for part, targets in zip(np.array_split(x, 5), np.array_split(y, 5), strict=True):
        gram.update(part, targets, 0.5)
        exact.update(part, targets, 0.5)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(exact.xx, 0.5 * wide.T @ wide, rtol=1e-11, atol=1e-9)
    for found, true in zip((gram.raw(), gram.centered()), (exact.raw(), exact.centered()), strict=True):
        sizes = np.sqrt(np.outer(true.xx.diagonal(), true.xx.diagonal()))
        off = np.abs((found.xx - true.xx) / sizes)
        assert 0 < np.sqrt(np.mean(off**2)) < 1e-7
        assert off.max() < 1e-6
        sizes = np.sqrt(np.outer(true.xx.diagonal(), true.yy))
        assert np.abs((found.xy - true.xy) / sizes).max() < 1e-6
        np.testing.assert_allclose(found.yy, true.yy, rtol=1e-6)
    np.testing.assert_allclose(gram.xx, gram.xx.T, rtol=1e-12, atol=1e-9)
    # Of the type itself nothing is lost where it is float64.
    double = Gram(600)
    double.update(wide, weight=0.5)
    np.testing.assert_allclose(double.xx, exact.xx, rtol=1e-11, atol=1e-9)


def test_those_who_share_inputs_derive_from_them_once() -> None:
    random = np.random.default_rng(9)
    x, y = random.normal(size=(40, 3)) + 1, random.normal(size=(40, 5))
    whole, alone = Gram(3, 5), Gram(3, 2)
    whole.update(x, y)
    alone.update(x, y[:, 2:4])
    calls: list[str] = []

    def make() -> int:
        calls.append("made")
        return len(calls)

    assert [alone.derived("it", make), alone.derived("it", make)] == [1, 2]
    parts = [whole.with_targets_of(slice(0, 2)), whole.with_targets_of(slice(2, 4))]
    assert [part.derived("it", make) for part in parts] == [3, 3]
    for found, expected in ((parts[1].raw(), alone.raw()), (parts[1].centered(), alone.centered())):
        for ours, theirs in ((found.xx, expected.xx), (found.xy, expected.xy), (found.yy, expected.yy)):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-9)
    assert parts[0].raw().xx is parts[1].raw().xx
    with pytest.raises(ValueError, match="read-only"):
        parts[0].raw().xx[0, 0] = 1
    parts[0].xx[0, 0] = 1  # that is a new one each time
    assert parts[1].raw().xx[0, 0] != 1
