"""Formulas of what bits and zeros cost agree with samples and published figures; bounds lie below what is had."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.calib.solvers.element_masks import keep_of, keep_share
from secateur.calib.solvers.gptq import gptq, row_errors
from secateur.calib.solvers.grids import INT4, INT8, Grid, nearest, scales_by_error, scales_by_range
from secateur.calib.solvers.masked_least_squares import masked_least_squares
from secateur.calib.solvers.spending import (
    exact_pruning,
    kurtosis,
    least_pruning,
    least_rounding,
    same_size,
    smallest_energy,
    sqnr,
    stored_bits,
)

SEEDS = st.integers(0, 2**32 - 1)


def problem(seed: int, rows: int, columns: int) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(3 * columns, columns)) @ random.normal(size=(columns, columns))
    return random.normal(size=(rows, columns)), x.T @ x


def integer_grid(bits: int) -> Grid:
    """Symmetric integers of any number of bits."""
    largest = 2.0 ** (bits - 1) - 1
    return {8: INT8, 4: INT4}.get(bits) or Grid(f"int{bits}", np.dtype(np.int8), largest, -largest - 1)


def pruned(weight: Any, sparsity: float) -> Any:
    return np.where(keep_share(np.abs(weight), 1 - sparsity), weight, 0)


def rounded(weight: Any, bits: int, clip: float) -> Any:
    return nearest(weight, np.full((len(weight), 1), clip / 2 ** (bits - 1)), integer_grid(bits))


@pytest.mark.parametrize(
    ("bits", "quantized", "clip", "zeros"),
    [
        (8, 40.57, 3.94, 11.47),
        (6, 29.82, 3.33, 8.31),
        (4, 19.26, 2.71, 5.58),
        (3, 13.91, 2.41, 4.30),
        (2, 8.26, 2.10, 3.03),
    ],
)
def test_figures_of_the_normal_distribution(bits: int, quantized: float, clip: float, zeros: float) -> None:
    """The best clip of N(0, 1) in so many bits and its decibels, and those of as small a pruned weight."""
    weight = np.random.default_rng(bits).normal(size=(1, 1_000_000)).astype(np.float32)
    # -127 is the least code of 8 bits for weights; the formula has one more, which so wide a clip does not need.
    assert sqnr(weight, rounded(weight, bits, clip)) == pytest.approx(quantized, abs=0.1)
    for other in (0.8 * clip, 1.25 * clip):
        assert sqnr(weight, rounded(weight, bits, other)) < quantized
    assert sqnr(weight, pruned(weight, 1 - same_size(bits))) == pytest.approx(zeros, abs=0.1)


def test_figures_of_other_distributions_and_patterns() -> None:
    random = np.random.default_rng(2)
    heavy, flat = random.laplace(size=(1, 400_000)), random.uniform(-1, 1, (1, 400_000))
    for sparsity, expected in ((0.5, 14.77), (0.75, 7.87)):
        assert sqnr(heavy, pruned(heavy, sparsity)) == pytest.approx(expected, abs=0.1)
    assert sqnr(flat, pruned(flat, 0.75)) == pytest.approx(-10 * np.log10(0.75**3), abs=0.05)
    weight = random.normal(size=(100, 10_000))
    for keep, group, expected in ((2, 4, 8.78), (4, 8, 9.86), (1, 4, 4.18)):
        kept = np.where(keep_of(np.abs(weight), keep, group), weight, 0)
        assert sqnr(weight, kept) == pytest.approx(expected, abs=0.03)
    uniform = random.uniform(-1, 1, (1, 100_000))
    for bits in (4, 6):
        # All but one of 2^b codes, each for an equal part of the range: about 6.02 decibels a bit.
        found = nearest(uniform, scales_by_error(uniform, integer_grid(bits)), integer_grid(bits))
        assert sqnr(uniform, found) == pytest.approx(20 * np.log10(2**bits - 1), abs=0.15)


def test_heavy_tails_and_few_bits_favour_pruning() -> None:
    random = np.random.default_rng(3)
    heavy, light = random.standard_t(3, (1, 200_000)), random.standard_t(5, (1, 200_000))
    assert kurtosis(heavy) > 20 > kurtosis(light) > 2
    clips = np.geomspace(0.5, 60, 120)

    def best(weight: Any, bits: int) -> float:
        return max(sqnr(weight, rounded(weight, bits, clip)) for clip in clips)

    for bits in (2, 3):
        assert best(heavy, bits) < sqnr(heavy, pruned(heavy, 1 - same_size(bits)))
        assert best(light, bits) > sqnr(light, pruned(light, 1 - same_size(bits)))


def test_kurtosis_of_known_distributions() -> None:
    random = np.random.default_rng(4)
    assert kurtosis(random.normal(size=(10, 40_000))) == pytest.approx(0, abs=0.05)
    assert kurtosis(random.uniform(size=(10, 40_000))) == pytest.approx(-1.2, abs=0.01)
    assert kurtosis(random.laplace(size=(10, 40_000))) == pytest.approx(3, abs=0.3)
    assert kurtosis(np.ones((2, 2))) == 0
    assert kurtosis(np.ones((0, 2))) == 0


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, size=st.floats(1e-3, 1e3))
def test_ratios_know_no_scale(seed: int, size: float) -> None:
    weight, gram = problem(seed, 3, 6)
    changed = np.round(weight)
    for used in (None, gram):
        exact = sqnr(weight, changed, used)
        assert sqnr(weight * size, changed * size, used) == pytest.approx(exact)
    assert sqnr(weight, changed, 5 * np.eye(6)) == pytest.approx(sqnr(weight, changed))
    assert sqnr(weight, weight, gram) == sqnr(weight, weight) == np.inf
    assert sqnr(0 * weight, weight) == -np.inf


def test_sizes_are_those_of_what_is_stored() -> None:
    assert stored_bits() == 16
    assert stored_bits(pattern=(2, 4)) == 9
    assert stored_bits(8, (2, 4)) == 5
    assert stored_bits(4, block=128) == 4.125
    assert stored_bits(4, block=16, scale_bits=8) == 4.5
    assert stored_bits(share=0.5) == 9
    assert stored_bits(share=0.25) == 5
    assert (same_size(8), same_size(4), same_size(2)) == (0.5, 0.25, 0.125)
    assert stored_bits(share=same_size(4, stored=True)) == pytest.approx(4)
    assert same_size(8, zeros=0.5) == 0.25
    with pytest.raises(ValueError, match="not both"):
        stored_bits(pattern=(2, 4), share=0.5)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, columns=st.sampled_from([6, 20]), kept=st.integers(0, 6))
def test_no_pruning_is_below_the_bound(seed: int, columns: int, kept: int) -> None:
    weight, gram = problem(seed, 3, columns)
    least = least_pruning(smallest_energy(gram), weight, kept)
    random = np.random.default_rng(seed)
    found = []
    for saliency in (np.abs(weight), np.abs(weight) * np.sqrt(gram.diagonal()), random.random(weight.shape)):
        mask = keep_share(saliency, kept / columns, "row")
        found.append(row_errors(gram, weight, masked_least_squares(gram, weight, mask, ridge=0.0)))
    assert (least <= np.min(found, axis=0) * (1 + 1e-6) + 1e-9).all()
    if columns == 6:
        best = exact_pruning(gram, weight, kept)
        assert (least <= best * (1 + 1e-6) + 1e-9).all()
        assert (best <= np.min(found, axis=0) * (1 + 1e-6) + 1e-9).all()
        # All, one that goes alone (w^2 / (H^-1)_jj), and none.
        known = {
            0: row_errors(gram, weight, 0 * weight),
            5: (weight**2 / np.diag(np.linalg.inv(gram))).min(axis=1),
            6: np.zeros(3),
        }
        if kept in known:
            np.testing.assert_allclose(best, known[kept], rtol=1e-6, atol=1e-9 * float(gram.max()))


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, grid=st.sampled_from([INT8, INT4]))
def test_no_rounding_is_below_the_bound(seed: int, grid: Any) -> None:
    weight, gram = problem(seed, 3, 8)
    scale = scales_by_range(weight, grid)
    least = least_rounding(smallest_energy(gram), weight, scale, grid)
    for found in (nearest(weight, scale, grid), gptq(weight, gram, scale, grid)):
        assert (least <= row_errors(gram, weight, found) * (1 + 1e-9)).all()
    even = least_rounding(smallest_energy(3 * np.eye(8)), weight, scale, grid)
    np.testing.assert_allclose(even, row_errors(3 * np.eye(8), weight, nearest(weight, scale, grid)))


def test_what_is_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot stay"):
        least_pruning(1.0, np.ones((1, 3)), 4)
    with pytest.raises(ValueError, match="too many"):
        exact_pruning(np.eye(17), np.ones((1, 17)), 4)
    with pytest.raises(ValueError, match="same shape"):
        sqnr(np.ones(2), np.ones(3))
