"""LASSO on Grams: the optimality conditions and coordinate descent as oracles; the published method's known answers."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.calib.gram import Gram
from secateur.calib.patches import ConvGeometry, patches, update_conv_grams
from secateur.calib.solvers import lasso as lasso_module
from secateur.calib.solvers.lasso import LassoTerms, joined, lasso, lasso_channels, lasso_terms
from secateur.calib.solvers.least_squares import residual

Array = np.ndarray[Any, Any]


def terms_of(z: Array, y: Array) -> LassoTerms:
    """The terms of contributions z[M, c] to a target y[M]."""
    return LassoTerms(z.T @ z, z.T @ y, float(y @ y), float(len(y)))


def violation(terms: LassoTerms, beta: Array, alpha: float) -> float:
    """How far from optimal, by the conditions of Karush, Kuhn and Tucker; relative to `alpha_max`."""
    gradient = (terms.linear - terms.quadratic @ beta) / terms.scale
    at_gates = np.abs(gradient - alpha * np.sign(beta))[beta != 0]
    return max(float(at_gates.max(initial=0.0)), float(np.abs(gradient).max()) - alpha) / terms.alpha_max


def objective(terms: LassoTerms, beta: Array, alpha: float) -> float:
    loss = beta @ terms.quadratic @ beta - 2 * terms.linear @ beta + terms.energy
    return float(loss / (2 * terms.scale) + alpha * np.abs(beta).sum())


def coordinate_descent(terms: LassoTerms, alpha: float, sweeps: int = 4000) -> Array:
    """The twin: one gate at a time, as scikit-learn does it."""
    beta = np.zeros(len(terms.linear))
    for _ in range(sweeps):
        before = beta.copy()
        for i in np.flatnonzero(terms.quadratic.diagonal() > 0):
            pull = terms.linear[i] - terms.quadratic[i] @ beta + terms.quadratic[i, i] * beta[i]
            beta[i] = np.sign(pull) * max(abs(pull) - alpha * terms.scale, 0.0) / terms.quadratic[i, i]
        if np.abs(beta - before).max() < 1e-13:
            break
    return beta


@st.composite
def problems(draw: st.DrawFn) -> LassoTerms:
    """Contributions that are independent, alike, opposite, dependent, tied by whole numbers, or more than samples."""
    channels, rows = draw(st.integers(1, 9)), draw(st.integers(1, 30))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    z = random.normal(size=(rows, channels))
    kind = draw(st.sampled_from(["plain", "duplicate", "opposite", "dependent", "tied"]))
    if kind == "duplicate":
        z[:, -1] = z[:, 0]
    elif kind == "opposite":
        z[:, -1] = -3 * z[:, 0]
    elif kind == "dependent":
        z[:, 0] = z[:, 1:].sum(axis=1)
    elif kind == "tied":
        z = random.integers(-1, 2, z.shape).astype(float)
    y = z @ random.integers(-2, 3, channels) + draw(st.sampled_from([0.0, 0.5])) * random.normal(size=rows)
    return terms_of(z, y)


@settings(max_examples=150, deadline=None)
@given(problems(), st.sampled_from([0.9, 0.5, 0.1, 0.01, 0.001]))
def test_solutions_are_optimal(terms: LassoTerms, share: float) -> None:
    if terms.alpha_max < 1e-9:
        return
    alpha = share * terms.alpha_max
    beta = lasso(terms, alpha)
    assert violation(terms, beta, alpha) < 1e-8
    twin = objective(terms, coordinate_descent(terms, alpha), alpha)
    assert objective(terms, beta, alpha) <= twin + 1e-9 * (terms.energy / terms.scale)


@settings(max_examples=100, deadline=None)
@given(problems(), st.integers(1, 9))
def test_as_many_channels_stay_as_are_wanted(terms: LassoTerms, keep: int) -> None:
    keep = min(keep, len(terms.linear))
    selection = lasso_channels(terms, keep)
    assert len(selection.kept) == keep and np.all(np.diff(selection.kept) > 0)
    assert set(np.flatnonzero(selection.beta)) <= set(selection.kept)
    if 0 < selection.alpha < terms.alpha_max and terms.alpha_max > 1e-9:
        assert violation(terms, selection.beta, selection.alpha) < 1e-8
    again = lasso_channels(terms, keep)
    assert np.array_equal(selection.kept, again.kept) and np.array_equal(selection.beta, again.beta)


def test_ties_are_resolved() -> None:
    """Whole numbers make gates open and close at the same alpha, and some stay at zero: no cycle, no wrong sign."""
    for seed in range(400):
        random = np.random.default_rng(seed)
        z = random.integers(-1, 2, (random.integers(1, 8), random.integers(2, 10))).astype(float)
        terms = terms_of(z, z.sum(axis=1))
        if terms.alpha_max == 0:
            continue
        for share in (0.9, 0.5, 0.1):
            alpha = share * terms.alpha_max
            assert violation(terms, lasso(terms, alpha), alpha) < 1e-9, seed


@pytest.mark.parametrize("channels", [64, 200])
def test_wide_and_ill_conditioned_problems_stay_optimal(channels: int) -> None:
    random = np.random.default_rng(channels)
    spectrum = np.logspace(0, -5, channels)
    z = (random.normal(size=(3 * channels, channels)) * spectrum) @ random.normal(size=(channels, channels))
    terms = terms_of(z, z.sum(axis=1))
    for keep in (channels // 4, channels // 2):
        selection = lasso_channels(terms, keep)
        assert np.count_nonzero(selection.beta) == keep
        assert violation(terms, selection.beta, selection.alpha) < 1e-8


def test_scaling_is_that_of_scikit_learn() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    random = np.random.default_rng(0)
    z, y = random.normal(size=(60, 8)), random.normal(size=60)
    terms = terms_of(z, y)
    alpha = 0.3 * terms.alpha_max
    model = linear_model.Lasso(alpha, fit_intercept=False, tol=1e-12, max_iter=100_000).fit(z, y)
    np.testing.assert_allclose(lasso(terms, alpha), model.coef_, atol=1e-8)


def layer(seed: int, group: int = 1) -> tuple[Array, Array, ConvGeometry]:
    random = np.random.default_rng(seed)
    mix = random.normal(size=(6, 6))
    x = np.einsum("nchw,cd->ndhw", random.normal(size=(5, 6, 6, 5)), mix) + 1.0
    return x, random.normal(size=(4, 6 // group, 3, 3)), ConvGeometry((3, 3), (1, 1), (1, 1), (1, 1, 1, 1), group)


def contributions(x: Array, weight: Array, geometry: ConvGeometry) -> Array:
    """Z [rows * outputs, c]: what each input channel adds to the output, centred; made from the patches themselves."""
    columns = []
    for rows, part in zip(patches(x, geometry), np.split(weight, geometry.group), strict=True):
        for channel in range(part.shape[1]):
            taps = slice(9 * channel, 9 * channel + 9)
            z = rows[:, taps] @ part[:, channel].reshape(len(part), 9).T
            columns.append((z - z.mean(axis=0)).ravel())
    return np.stack(columns, axis=1)


def terms_by_gram(x: Array, weight: Array, geometry: ConvGeometry, y: Array) -> list[LassoTerms]:
    outputs = len(weight) // geometry.group
    grams = [Gram(weight[0].size, outputs) for _ in range(geometry.group)]
    for index in range(len(x)):
        update_conv_grams(grams, x[index : index + 1], geometry, y[index : index + 1])
    sums = [gram.centered() for gram in grams]
    parts = np.split(weight, geometry.group)
    return [lasso_terms(s.xx, s.xy, s.yy, s.count, part) for s, part in zip(sums, parts, strict=True)]


def test_terms_are_those_of_the_explicit_contributions(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, geometry = layer(1)
    y = np.random.default_rng(2).normal(size=(5, 4, 6, 5))
    flat = np.moveaxis(y, 1, -1).reshape(-1, 4)
    explicit = terms_of(contributions(x, weight, geometry), (flat - flat.mean(0)).ravel())
    for chunk in (1 << 25, 8 * 9 * 54 * 4):
        monkeypatch.setattr(lasso_module, "_CHUNK_BYTES", chunk)
        (terms,) = terms_by_gram(x, weight, geometry, y)
        np.testing.assert_allclose(terms.quadratic, explicit.quadratic, rtol=1e-10)
        largest = np.abs(explicit.linear).max()
        np.testing.assert_allclose(terms.linear, explicit.linear, rtol=1e-10, atol=1e-10 * largest)
        assert terms.energy == pytest.approx(explicit.energy) and terms.scale == explicit.scale


def test_channels_may_share_a_gate() -> None:
    x, weight, geometry = layer(6)
    (terms,) = terms_by_gram(x, weight, geometry, np.random.default_rng(4).normal(size=(5, 4, 6, 5)))
    tied = terms.tied([0, 1, 2, 0, 1, 2])
    beta = np.array([0.3, -1.0, 2.0])
    assert objective(tied, beta, 0.0) == pytest.approx(objective(terms, np.tile(beta, 2), 0.0))


def test_layers_are_solved_jointly() -> None:
    random = np.random.default_rng(5)
    layers = []
    for size in (1.0, 100.0):
        z = random.normal(size=(50, 5))
        layers.append((z, size * (z.sum(axis=1) + random.normal(size=50))))
    both = joined([terms_of(size * z, y) for size, (z, y) in zip((1.0, 100.0), layers, strict=True)])
    stacked = np.concatenate([size * z / np.linalg.norm(y) for size, (z, y) in zip((1.0, 100.0), layers, strict=True)])
    target = np.concatenate([y / np.linalg.norm(y) for _, y in layers])
    explicit = terms_of(stacked, target)
    np.testing.assert_allclose(both.quadratic, explicit.quadratic)
    np.testing.assert_allclose(both.linear, explicit.linear)
    assert both.energy == pytest.approx(2.0)
    with pytest.raises(ValueError, match="zero everywhere"):
        joined([terms_of(np.ones((2, 2)), np.zeros(2))])


def test_from_all_closed_to_all_open() -> None:
    """No gate is open from alpha_max on; without a penalty, data without noise opens all of them to exactly one."""
    x, weight, geometry = layer(6)
    z = contributions(x, weight, geometry)
    terms = terms_of(z, z.sum(axis=1))
    assert not lasso(terms, terms.alpha_max).any()
    assert np.count_nonzero(lasso(terms, 0.999 * terms.alpha_max)) == 1
    np.testing.assert_allclose(lasso(terms, 0.0), 1.0, rtol=1e-8)
    np.testing.assert_allclose(lasso_channels(terms, 6).beta, 1.0, rtol=1e-8)


def test_the_smaller_of_two_equal_channels_goes_first() -> None:
    z = np.random.default_rng(7).normal(size=(200, 5))
    z[:, 1] = z[:, 3] / 3
    terms = terms_of(z, z.sum(axis=1))
    for keep in (3, 4):
        assert 1 not in lasso_channels(terms, keep).kept


def test_dead_channels_go_before_all_others() -> None:
    z = np.random.default_rng(8).normal(size=(30, 5))
    z[:, [0, 2]] = 0.0
    terms = terms_of(z, z.sum(axis=1))
    assert lasso_channels(terms, 3).kept.tolist() == [1, 3, 4]
    assert lasso_channels(terms, 4).kept.tolist() == [0, 1, 3, 4]
    silent = terms_of(np.zeros((3, 4)), np.zeros(3))
    assert len(lasso_channels(silent, 2).kept) == 2 and silent.alpha_max == 0


def test_selection_is_near_the_best_there_is() -> None:
    """All 35 choices of 4 channels of 7, each refitted: the mean ratio to the best was 1.11 where it was published."""
    lasso_ratios, magnitude_ratios = [], []
    for seed in range(40):
        random = np.random.default_rng(seed)
        x = random.normal(size=(60, 7)) @ (np.eye(7) + 0.6 * random.normal(size=(7, 7)))
        weight = random.normal(size=(5, 7))
        gram = Gram(7, 5)
        gram.update(x, x @ weight.T)
        sums = gram.centered()
        terms = lasso_terms(sums.xx, sums.xy, sums.yy, sums.count, weight)

        def loss(kept: Any, sums: Any = sums) -> float:
            return residual(sums.xx, sums.xy, sums.yy, list(kept))

        best = min(map(loss, combinations(range(7), 4)))
        lasso_ratios.append(loss(lasso_channels(terms, 4).kept) / best)
        magnitude_ratios.append(loss(np.argsort(-np.abs(weight).sum(axis=0))[:4]) / best)
    assert np.mean(lasso_ratios) < 1.5
    assert np.mean(lasso_ratios) < np.mean(magnitude_ratios)


def test_what_does_not_fit_is_refused() -> None:
    terms = terms_of(np.eye(3), np.ones(3))
    for keep in (0, 4):
        with pytest.raises(ValueError, match=r"within 1\.\.3"):
            lasso_channels(terms, keep)
    with pytest.raises(ValueError, match="alpha"):
        lasso(terms, -1.0)
    with pytest.raises(ValueError, match="units of shape"):
        terms.tied([0, 1])
    with pytest.raises(ValueError, match="do not fit a weight"):
        lasso_terms(np.eye(4), np.ones((4, 2)), np.ones(2), 3.0, np.ones((2, 3)))
