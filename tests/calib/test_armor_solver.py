"""A S B: each step against its twin, the loss against the paper's beginning, and nothing ever gets worse."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.calib.solvers.armor import (
    Wrapped,
    armor,
    best_of_group,
    fit_left,
    fit_right,
    largest_block,
    loss,
    nowag_mask,
    sweep_core,
    unwrapped,
)
from secateur.calib.solvers.element_masks import keep_of

Array = Any
SEEDS = st.integers(0, 10_000)


def problem(seed: int, rows: int = 6, columns: int = 8, *, full: bool) -> tuple[Array, Array]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(40, columns)) @ random.normal(size=(columns, columns))
    return random.normal(size=(rows, columns)), x.T @ x if full else np.square(x).sum(axis=0)


def started(seed: int, target: Array, gram: Array, left: int, right: int) -> Wrapped:
    """Blocks that are no identities, and a core that is 2:4."""
    random = np.random.default_rng(seed)
    first = unwrapped(np.where(keep_of(np.abs(target), 2, 4), target, 0), left, right)
    noise = [0.3 * random.normal(size=one.shape) for one in (first.left, first.right)]
    return Wrapped(first.left + noise[0], first.core, first.right + noise[1])


def dense(blocks: Array) -> Array:
    count, size, _ = blocks.shape
    found = np.zeros((count * size, count * size))
    for which, block in enumerate(blocks):
        found[which * size : (which + 1) * size, which * size : (which + 1) * size] = block
    return found


def metric(gram: Array) -> Array:
    return np.diag(gram) if gram.ndim == 1 else gram


def designs(found: Wrapped, gram: Array) -> Array:
    """[r * c, r * c]: what each entry of the core gives, weighed by the root of the Gram; the twin of everything."""
    root = np.linalg.cholesky(metric(gram) + 1e-12 * np.eye(len(gram))).T
    return np.kron(dense(found.left), (dense(found.right) @ root.T).T)


@given(SEEDS, st.booleans())
@settings(deadline=None, max_examples=20)
def test_the_three_matrices_are_what_they_say_and_so_is_the_loss(seed: int, full: bool) -> None:
    target, gram = problem(seed, full=full)
    found = started(seed, target, gram, 3, 4)
    product = dense(found.left) @ found.core @ dense(found.right)
    np.testing.assert_allclose(found.matrix, product, atol=1e-12)
    rest = product - target
    np.testing.assert_allclose(loss(found, target, gram), np.trace(rest @ metric(gram) @ rest.T), rtol=1e-10)
    assert found.extra == 6 * 3 + 8 * 4


def test_it_begins_with_nowag_p() -> None:
    """Written out as in the paper: normalised by columns, then rows, weighed by energies; the rest is lost."""
    target, energies = problem(0, 8, 16, full=False)
    columns = np.sqrt((target**2).sum(axis=0)) + 1e-5
    rows = np.sqrt(((target / columns) ** 2).sum(axis=1)) + 1e-5
    normal = target / columns / rows[:, None]
    mask = np.zeros(target.shape, bool)
    for row in range(8):
        for first in range(0, 16, 4):
            best = sorted(range(4), key=lambda at: -(normal[row, first + at] ** 2) * energies[first + at])[:2]
            mask[row, [first + at for at in best]] = True
    np.testing.assert_array_equal(nowag_mask(target, energies, 2, 4), mask)
    begun = unwrapped(np.where(mask, target, 0.0), 4, 4)
    np.testing.assert_allclose(loss(begun, target, energies), np.sum((target**2 * energies)[~mask]), rtol=1e-12)
    # Blocks of one and no iterations: the masked weights, bit for bit.
    alone = armor(unwrapped(np.where(mask, target, 0.0), 1, 1), target, energies, iterations=0)
    np.testing.assert_array_equal(alone.matrix, np.where(mask, target, 0.0))


@given(SEEDS, st.sampled_from([(2, 4), (1, 2), (1, 4), (3, 4), (2, 3)]))
@settings(deadline=None, max_examples=40)
def test_a_group_gets_the_best_of_all_choices(seed: int, pattern: tuple[int, int]) -> None:
    """Brute force by least squares over all choices; what it is said to gain is what the loss falls by."""
    keep, group = pattern
    random = np.random.default_rng(seed)
    design, wanted = random.normal(size=(9, group)), random.normal(size=9)
    solvers = np.zeros((1, group, len(list(combinations(range(group), keep))), group))
    for which, kept in enumerate(combinations(range(group), keep)):
        inside = design[:, kept]
        solvers[0, np.array(kept)[:, None], which, np.array(kept)] = np.linalg.inv(inside.T @ inside)
    pulls = design.T @ wanted
    found = best_of_group(pulls[None, None], solvers.reshape(1, group, -1))[0, 0]
    losses = []
    for kept in combinations(range(group), keep):
        values = np.linalg.lstsq(design[:, kept], wanted, rcond=None)[0]
        losses.append(np.sum((design[:, kept] @ values - wanted) ** 2))
    now = np.sum((design @ found - wanted) ** 2)
    assert np.count_nonzero(found) <= keep
    np.testing.assert_allclose(now, min(losses), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(np.sum(wanted**2) - now, pulls @ found, rtol=1e-9, atol=1e-12)


def slow_sweep(found: Wrapped, target: Array, gram: Array, order: list[tuple[int, int]]) -> Array:
    """The twin of a sweep: every group of every row by itself, all choices, least squares on the whole matrix."""
    design, core = designs(found, gram), found.core.copy()
    root = np.linalg.cholesky(metric(gram)).T
    wanted = (target @ root.T).reshape(-1)
    for row, first in order:
        columns = [row * core.shape[1] + first + at for at in range(4)]
        core[row, first : first + 4] = 0
        rest = wanted - design @ core.reshape(-1)
        options = []
        for kept in combinations(range(4), 2):
            inside = design[:, [columns[at] for at in kept]]
            values = np.linalg.lstsq(inside, rest, rcond=None)[0]
            options.append((float(np.sum((inside @ values - rest) ** 2)), kept, values))
        _, kept, values = min(options, key=lambda one: one[0])
        core[row, [first + at for at in kept]] = values
    return core


@given(SEEDS, st.booleans())
@settings(deadline=None, max_examples=15)
def test_a_sweep_is_one_group_after_another(seed: int, full: bool) -> None:
    target, gram = problem(seed, full=full)
    found = started(seed, target, gram, 3, 4)
    given_core = found.core.copy()
    swept = sweep_core(found, target @ metric(gram), gram, 2, 4)
    np.testing.assert_array_equal(found.core, given_core)
    # Rows by their place in a block, then columns.
    order = [(block * 3 + row, first) for row in range(3) for block in range(2) for first in (0, 4)]
    twin = slow_sweep(found, target, gram, order)
    np.testing.assert_allclose(swept.core, twin, rtol=1e-5, atol=1e-6)


def test_columns_of_many_strides_are_swept_alike() -> None:
    """Effects on later columns are put off; together they are what they were one by one."""
    target, gram = problem(3, 4, 160, full=True)
    found = started(3, target, gram, 2, 8)
    gram = gram + np.eye(160)
    swept = sweep_core(found, target @ gram, gram, 2, 4)
    order = [(block * 2 + row, first) for row in range(2) for block in range(2) for first in range(0, 160, 4)]
    np.testing.assert_allclose(swept.core, slow_sweep(found, target, gram, order), rtol=1e-5, atol=1e-6)


@given(SEEDS, st.booleans())
@settings(deadline=None, max_examples=20)
def test_a_is_least_squares_and_so_is_each_block_of_b(seed: int, full: bool) -> None:
    target, gram = problem(seed, full=full)
    found = started(seed, target, gram, 3, 4)
    root = np.linalg.cholesky(metric(gram))
    left = fit_left(found, target, gram)
    for block in range(2):
        rows = slice(block * 3, block * 3 + 3)
        inner = found.core[rows] @ dense(found.right) @ root
        best = np.linalg.lstsq(inner.T, (target[rows] @ root).T, rcond=None)[0].T @ inner
        np.testing.assert_allclose(left.matrix[rows] @ root, best, rtol=1e-4, atol=1e-4 * np.abs(best).max())
    # The last block of B sees the others as they are by then, and nothing pulls it any more.
    right = fit_right(found, target, gram)
    slope = right.outer[:, 4:].T @ ((right.matrix - target) @ metric(gram))[:, 4:]
    scale = np.abs(right.outer[:, 4:].T @ (target @ metric(gram))[:, 4:]).max()
    assert np.abs(slope).max() < 1e-6 * scale


@given(SEEDS, st.booleans(), st.sampled_from([(1, 1), (2, 4), (6, 8), (3, 2)]))
@settings(deadline=None, max_examples=40)
def test_no_step_raises_the_loss(seed: int, full: bool, sizes: tuple[int, int]) -> None:
    target, gram = problem(seed, full=full)
    found = started(seed, target, gram, *sizes)
    aim = target * gram if gram.ndim == 1 else target @ gram
    first = before = loss(found, target, gram)
    for step in 2 * [lambda one: fit_left(one, target, gram), lambda one: fit_right(one, target, gram)]:
        fitted = step(found)
        for found in (fitted, sweep_core(fitted, aim, gram, 2, 4)):
            now = loss(found, target, gram)
            assert now <= before * (1 + 1e-7) + 1e-9 * first
            before = now


@pytest.mark.parametrize("full", [False, True])
def test_more_iterations_are_never_worse_though_they_reach_too_far(full: bool) -> None:
    target, gram = problem(7, 16, 16, full=full)
    mask = nowag_mask(target, metric(gram).diagonal(), 2, 4)
    start = unwrapped(np.where(mask, target, 0.0), 4, 4)
    losses = [loss(armor(start, target, gram, iterations=n, tolerance=0), target, gram) for n in range(25)]
    assert (np.diff(losses) <= 0).all()
    # Steps that were taken back, and others after them.
    assert losses[24] < losses[12] < losses[6] < losses[0]


@pytest.mark.parametrize("full", [False, True])
def test_blocks_get_what_the_core_alone_does_not(full: bool) -> None:
    """A matrix that is A S B is found again, nearly: far below what any core alone leaves."""
    random = np.random.default_rng(5)
    target, gram = problem(5, 32, 32, full=full)
    hidden = np.where(keep_of(random.normal(size=(32, 32)), 2, 4), target, 0.0)
    target = dense(random.normal(size=(4, 8, 8)) + 2 * np.eye(8)) @ hidden @ dense(random.normal(size=(4, 8, 8)))
    mask = nowag_mask(target, metric(gram).diagonal(), 2, 4)
    start = unwrapped(np.where(mask, target, 0.0), 8, 8)
    alone = armor(unwrapped(start.core, 1, 1), target, gram, iterations=40, tolerance=0)
    found = armor(start, target, gram, iterations=40, tolerance=0)
    assert loss(found, target, gram) < 0.35 * loss(alone, target, gram)
    assert (np.count_nonzero(found.core.reshape(32, 8, 4), axis=2) <= 2).all()


@pytest.mark.parametrize("full", [False, True])
def test_what_is_sparse_already_stays_what_it_is(full: bool) -> None:
    target, gram = problem(1, 16, 16, full=full)
    target = np.where(keep_of(np.abs(target), 2, 4), target, 0.0)
    start = unwrapped(np.where(nowag_mask(target, metric(gram).diagonal(), 2, 4), target, 0.0), 4, 4)
    assert loss(start, target, gram) == 0.0
    np.testing.assert_array_equal(armor(start, target, gram).matrix, target)


@pytest.mark.parametrize("full", [False, True])
def test_dead_inputs_and_empty_rows_do_no_harm(full: bool) -> None:
    target, gram = problem(2, 8, 16, full=full)
    target[3] = 0.0
    target[4:] = 0.0
    if full:
        gram[:, 8:12] = gram[8:12] = 0.0
    else:
        gram[8:12] = 0.0
    start = unwrapped(np.where(nowag_mask(target, metric(gram).diagonal(), 2, 4), target, 0.0), 4, 4)
    found = armor(start, target, gram, iterations=10)
    assert np.isfinite(found.matrix).all()
    assert loss(found, target, gram) < loss(start, target, gram)
    zero = armor(unwrapped(np.zeros((8, 16)), 4, 4), np.zeros((8, 16)), gram)
    assert not zero.matrix.any()


def test_the_same_comes_out_twice() -> None:
    target, gram = problem(4, 16, 16, full=True)
    start = unwrapped(np.where(keep_of(np.abs(target), 2, 4), target, 0.0), 4, 4)
    first, second = armor(start, target, gram), armor(start, target, gram)
    for one, other in ((first.left, second.left), (first.core, second.core), (first.right, second.right)):
        assert one.tobytes() == other.tobytes()


@given(st.integers(1, 200), st.integers(1, 200))
def test_the_largest_block_divides_and_nothing_larger_does(size: int, limit: int) -> None:
    found = largest_block(size, limit)
    assert size % found == 0 and found <= limit
    assert all(size % other for other in range(found + 1, min(size, limit) + 1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s, t, g: (s, t[:4], g), "does not fit a target"),
        (lambda s, t, g: (s, t, g[:4]), "a Gram of shape"),
        (lambda s, t, g: (Wrapped(s.left[:1], s.core, s.right), t, g), "left blocks of shape"),
        (lambda s, t, g: (Wrapped(s.left, s.core, s.right[:, :2]), t, g), "right blocks of shape"),
        (lambda s, t, g: (Wrapped(s.left, t, s.right), t, g), "is not 2:4"),
        (lambda s, t, g: (s, t * np.nan, g), "the target holds NaN"),
        (lambda s, t, g: (s, t, g * np.inf), "the Gram holds NaN"),
    ],
)
def test_what_does_not_fit_is_refused(change: Any, words: str) -> None:
    target, gram = problem(0, full=True)
    start = unwrapped(np.where(keep_of(np.abs(target), 2, 4), target, 0.0), 3, 4)
    with pytest.raises(ValueError, match=words):
        armor(*change(start, target, gram))


@pytest.mark.parametrize("pattern", [(8, 16), (0, 4), (5, 4), (2, 5)])
def test_patterns_of_too_many_choices_are_refused(pattern: tuple[int, int]) -> None:
    target = np.ones((4, 16))
    with pytest.raises(ValueError, match=r"choices|pattern|multiple"):
        armor(unwrapped(np.zeros((4, 16)), 2, 4), target, np.ones(16), pattern)
