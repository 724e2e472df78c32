"""The sweep of SparseGPT and GPTQ: its error is the sum of what each column left, whatever was chosen, and no less than
that of exact least squares."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.calib.solvers.column_sweep import (
    Choice,
    Factor,
    both,
    column_sweep,
    factor,
    fixed,
    keep_of,
    keep_share,
    rounded,
)
from secateur.calib.solvers.masked_least_squares import masked_least_squares

CHOICES = ("2:4", "1:3", "share", "fixed", "rounded", "2:4 rounded", "share rounded")


def problem(seed: int, rows: int, columns: int, samples: int = 0) -> tuple[Any, Any]:
    """Weights and the Gram of correlated inputs of very different sizes."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(samples or 3 * columns, columns)) @ random.normal(size=(columns, columns))
    x *= 10.0 ** random.uniform(-1, 1, columns)
    return random.normal(size=(rows, columns)), x.T @ x


def grid(values: Any, column: int) -> Any:
    step = 0.25 * (1 + column % 3)
    return np.round(values / step) * step


def choice_of(name: str, shape: tuple[int, ...], seed: int = 0) -> Choice:
    pattern, _, rounding = name.partition(" ")
    if pattern == "rounded":
        return rounded(grid)
    if pattern == "share":
        chosen = keep_share(0.4)
    elif pattern == "fixed":
        chosen = fixed(np.random.default_rng(seed).random(shape) < 0.5)
    else:
        keep, group = pattern.split(":")
        chosen = keep_of(int(keep), int(group))
    return both(chosen, rounded(grid)) if rounding else chosen


def damped(gram: Any, made: Factor) -> Any:
    extra = np.where((gram.diagonal() == 0) & (made.ridge == 0), 1.0, made.ridge)
    return gram + np.diag(extra)


def errors(change: Any, gram: Any) -> Any:
    return np.einsum("rc,cd,rd->r", change, gram, change)


def published(weight: Any, inverse_root: Any, keep: Any, block: int) -> tuple[Any, Any, Any]:
    """The papers' own order of work: (weight, mask, loss), `keep` masks scores of a group when it is due."""
    now, mask, loss = weight.copy(), np.ones(weight.shape, bool), np.zeros(len(weight))
    for column in range(weight.shape[1]):
        stop = keep(now, inverse_root.diagonal(), mask, column)
        mask = stop
        kept = np.where(mask[:, column], now[:, column], 0.0)
        error = (now[:, column] - kept) / inverse_root[column, column]
        now[:, column:] -= np.outer(error, inverse_root[column, column:])
        now[:, column] = kept
        loss += error**2
    return now, mask, loss


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    name=st.sampled_from(CHOICES),
    rows=st.integers(1, 5),
    groups=st.integers(1, 8),
    block=st.sampled_from([1, 7, 12, 36, 128]),
    damping=st.sampled_from([0.0, 0.01, 1.0]),
)
def test_what_columns_leave_adds_up_to_the_error(
    seed: int, name: str, rows: int, groups: int, block: int, damping: float
) -> None:
    weight, gram = problem(seed, rows, 12 * groups)
    made = factor(gram, damping)
    swept = column_sweep(weight, made, choice_of(name, weight.shape, seed), block)
    exact = errors(swept.weight - weight, damped(gram, made))
    np.testing.assert_allclose(swept.loss, exact, rtol=1e-6, atol=1e-9 * float(np.sum(weight**2 @ gram.diagonal())))
    assert (swept.weight[~swept.mask] == 0).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), block=st.sampled_from([4, 12, 128]))
def test_it_is_the_published_sweep(seed: int, block: int) -> None:
    weight, gram = problem(seed, 6, 48)
    made = factor(gram)
    root = made.inverse_root()
    np.testing.assert_allclose(root.T @ root @ damped(gram, made), np.eye(48), atol=1e-6)
    assert (np.tril(root, -1) == 0).all()

    def keep_two(now: Any, diagonal: Any, mask: Any, column: int) -> Any:
        if column % 4 == 0:
            scores = (now[:, column : column + 4] / diagonal[column : column + 4]) ** 2
            mask[:, column : column + 4] = True
            np.put_along_axis(mask[:, column : column + 4], np.argsort(-scores, kind="stable")[:, 2:], False, axis=1)
        return mask

    expected = published(weight, root, keep_two, block)
    swept = column_sweep(weight, made, keep_of(2, 4), block)
    np.testing.assert_array_equal(swept.mask, expected[1])
    np.testing.assert_allclose(swept.weight, expected[0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(swept.loss, expected[2], rtol=1e-6)

    def keep_half(now: Any, diagonal: Any, mask: Any, column: int) -> Any:
        if column % block == 0:
            part = slice(column, column + block)
            scores = (now[:, part] / diagonal[part]) ** 2
            least = np.sort(scores, axis=None)[scores.size // 2]
            mask[:, part] = scores >= least
        return mask

    expected = published(weight, root, keep_half, block)
    swept = column_sweep(weight, made, keep_share(0.5), block)
    np.testing.assert_array_equal(swept.mask, expected[1])
    np.testing.assert_allclose(swept.weight, expected[0], rtol=1e-6, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), gone=st.integers(0, 24))
def test_columns_gone_from_the_left_leave_exact_least_squares(seed: int, gone: int) -> None:
    weight, gram = problem(seed, 3, 24)
    mask = np.ones(weight.shape, bool)
    mask[:, :gone] = False
    swept = column_sweep(weight, factor(gram), fixed(mask), 8)
    exact = masked_least_squares(gram, weight, mask)
    np.testing.assert_allclose(swept.weight, exact, rtol=1e-6, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), name=st.sampled_from(["2:4", "1:3", "share", "fixed"]))
def test_least_squares_is_no_worse(seed: int, name: str) -> None:
    weight, gram = problem(seed, 4, 24)
    made = factor(gram)
    swept = column_sweep(weight, made, choice_of(name, weight.shape, seed))
    exact = masked_least_squares(gram, weight, swept.mask)
    best = errors(exact - weight, damped(gram, made))
    assert (best <= swept.loss * (1 + 1e-8) + 1e-12).all()


def test_the_sweep_is_better_than_the_mask_alone_on_the_mean() -> None:
    gains = []
    for seed in range(40):
        weight, gram = problem(seed, 4, 24)
        made = factor(gram)
        swept = column_sweep(weight, made, keep_of(2, 4))
        gains.append(errors(weight * swept.mask - weight, damped(gram, made)).sum() / swept.loss.sum())
    assert np.exp(np.mean(np.log(gains))) > 1.2


@pytest.mark.parametrize("name", CHOICES)
def test_independent_inputs_make_up_for_nothing(name: str) -> None:
    weight, _ = problem(0, 5, 24)
    swept = column_sweep(weight, factor(np.diag(np.arange(1.0, 25))), choice_of(name, weight.shape))
    plain = np.stack([grid(column, index) for index, column in enumerate(weight.T)], 1) if "rounded" in name else weight
    np.testing.assert_allclose(swept.weight, np.where(swept.mask, plain, 0.0), atol=1e-12)


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("scale", [2.0**-40, 2.0**30, 1e-7, 1e9])
def test_the_scale_of_the_inputs_does_not_matter(name: str, scale: float) -> None:
    weight, gram = problem(1, 5, 24)
    gram[:, 3] = gram[3] = 0.0
    one = column_sweep(weight, factor(gram), choice_of(name, weight.shape))
    other = column_sweep(weight, factor(scale * gram), choice_of(name, weight.shape))
    np.testing.assert_array_equal(one.mask, other.mask)
    np.testing.assert_allclose(one.weight, other.weight, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(scale * one.loss, other.loss, rtol=1e-9)


def test_a_pattern_holds_after_the_sweep_and_shares_are_exact() -> None:
    weight, gram = problem(2, 7, 72)
    for keep, group in ((2, 4), (1, 4), (4, 8), (5, 9), (20, 36), (0, 4), (4, 4)):
        swept = column_sweep(weight, factor(gram), keep_of(keep, group), 72)
        assert (np.count_nonzero(swept.weight.reshape(7, -1, group), axis=2) <= keep).all()
        assert (swept.mask.reshape(7, -1, group).sum(2) == keep).all()
    for share in (0.0, 0.3, 0.5, 1.0):
        for block in (5, 128):
            swept = column_sweep(weight, factor(gram), keep_share(share), block)
            assert np.count_nonzero(~swept.mask) == int(np.floor(round(weight.size * (1 - share), 6)))


def test_figures_by_hand() -> None:
    made = factor(np.array([[2.0, 1.0], [1.0, 2.0]]), 0.0)
    swept = column_sweep(np.ones((1, 2)), made, fixed(np.array([[False, True]])))
    np.testing.assert_allclose(swept.weight, [[0.0, 1.5]])
    np.testing.assert_allclose(swept.loss, [1.5])
    # Only the last column goes: nothing is left to make up for it, as least squares could, for 4 / 3.
    gram, mask = np.eye(3) + 1, np.array([[True, True, False]])
    np.testing.assert_allclose(column_sweep(np.ones((1, 3)), factor(gram, 0.0), fixed(mask)).loss, [2.0])
    best = masked_least_squares(gram, np.ones((1, 3)), mask, ridge=0.0) - 1
    np.testing.assert_allclose(errors(best, gram), [4 / 3])


def test_rounding_on_independent_inputs_is_to_the_nearest_and_a_grid_that_has_all_changes_nothing() -> None:
    weight, gram = problem(3, 4, 12)
    nearest = column_sweep(weight, factor(7.0 * np.eye(12)), rounded(grid))
    np.testing.assert_array_equal(nearest.weight, np.stack([grid(w, i) for i, w in enumerate(weight.T)], 1))
    on_grid = nearest.weight
    again = column_sweep(on_grid, factor(gram), rounded(grid))
    np.testing.assert_array_equal(again.weight, on_grid)
    assert (again.loss == 0).all()


def test_rounding_is_better_with_compensation_on_the_mean() -> None:
    better = []
    for seed in range(40):
        weight, gram = problem(seed, 4, 24)
        made = factor(gram)
        swept = column_sweep(weight, made, rounded(lambda values, _: np.round(values)))
        better.append(swept.loss.sum() / errors(np.round(weight) - weight, damped(gram, made)).sum())
    assert np.exp(np.mean(np.log(better))) < 0.8


def test_dead_inputs_go_first_and_those_that_stay_keep_their_weights() -> None:
    weight, gram = problem(4, 6, 24)
    dead = np.zeros(24, bool)
    dead[[1, 4, 5, 6, 17]] = True
    gram[dead] = gram[:, dead] = 0.0
    weight[:, dead] *= 1e3
    made = factor(gram)
    np.testing.assert_array_equal(made.dead, dead)
    for choice in (keep_of(2, 4), keep_share(0.5)):
        swept = column_sweep(weight, made, choice)
        assert not swept.mask[:, [1, 17]].any()
    swept = column_sweep(weight, made, keep_of(2, 4))
    # One of the four is alive.
    assert swept.mask[:, 7].all()
    np.testing.assert_allclose(swept.weight[:, 4], weight[:, 4])
    nothing = column_sweep(weight, factor(np.zeros((24, 24))), keep_of(2, 4))
    assert np.isfinite(nothing.weight).all()
    np.testing.assert_array_equal(nothing.weight, np.where(nothing.mask, weight, 0.0))


def test_more_columns_than_samples() -> None:
    weight, gram = problem(5, 4, 48, samples=7)
    made = factor(gram)
    swept = column_sweep(weight, made, keep_of(2, 4))
    np.testing.assert_allclose(swept.loss, errors(swept.weight - weight, damped(gram, made)), rtol=1e-6)
    # Seven samples are given as before by the half of the columns, but for the damping.
    assert errors(swept.weight - weight, gram).sum() < 0.05 * errors(weight * swept.mask - weight, gram).sum()
    singular = np.ones((48, 48))
    singular[0, 1] = singular[1, 0] = 1 + 1e-3
    assert factor(singular, 0.0).ridge == pytest.approx(0.1)


def test_single_precision_is_near() -> None:
    random = np.random.default_rng(6)
    x = random.normal(size=(600, 192)) @ random.normal(size=(192, 192))
    weight, gram = random.normal(size=(30, 192)), x.T @ x
    exact = column_sweep(weight, factor(gram), keep_of(2, 4))
    single = column_sweep(weight, factor(gram, dtype=np.float32), keep_of(2, 4))
    assert np.mean(exact.mask != single.mask) < 0.01
    assert single.loss.sum() == pytest.approx(exact.loss.sum(), rel=1e-2)
    assert single.weight.dtype == np.float64
    real = errors(single.weight - weight, damped(gram, factor(gram)))
    np.testing.assert_allclose(single.loss, real, rtol=1e-3)


def test_what_makes_no_sense_is_refused() -> None:
    weight, gram = problem(7, 3, 12)
    made = factor(gram)
    with pytest.raises(ValueError, match="NaN"):
        factor(np.full((3, 3), np.nan))
    with pytest.raises(ValueError, match="square"):
        factor(np.ones((3, 4)))
    with pytest.raises(ValueError, match="damping"):
        factor(gram, -1.0)
    with pytest.raises(ValueError, match="not positive definite"):
        factor(np.array([[1.0, 5.0], [5.0, 1.0]]))
    with pytest.raises(ValueError, match="no Gram"):
        factor(np.diag([1.0, -1.0]))
    with pytest.raises(ValueError, match=r"expected \(r, 12\)"):
        column_sweep(weight[:, :8], made, keep_of(2, 4))
    with pytest.raises(ValueError, match="1 weights are NaN"):
        column_sweep(np.where(np.arange(36).reshape(3, 12) == 5, np.nan, weight), made, keep_of(2, 4))
    with pytest.raises(ValueError, match=r"12 columns are not a multiple of the groups of 8"):
        column_sweep(weight, made, keep_of(4, 8))
    with pytest.raises(ValueError, match="at least one column"):
        column_sweep(weight, made, keep_of(2, 4), 0)
    with pytest.raises(ValueError, match="5:4"):
        keep_of(5, 4)
    with pytest.raises(ValueError, match=r"within 0\.\.1"):
        keep_share(2.0)
