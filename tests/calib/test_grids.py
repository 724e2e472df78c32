"""Grids round as an exhaustive search for the nearest code does, and a search for scales never does worse."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.calib.solvers.block_scales import E8M0, nvfp4_scales, power_scales
from secateur.calib.solvers.grids import (
    FP4,
    FP8,
    GRIDS,
    INT4,
    INT8,
    Grid,
    codes,
    in_blocks,
    largest_of,
    nearest,
    real,
    scales_by_error,
    scales_by_range,
    spread_out,
    symmetric_scale,
)

ALL = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
SEEDS = st.integers(0, 2**32 - 1)
CASES = given(
    seed=SEEDS,
    grid=st.sampled_from(list(GRIDS.values())),
    block=st.sampled_from([None, 1, 4, 7, 64]),
    dtype=st.sampled_from([np.float32, np.float16, ml_dtypes.bfloat16]),
)


def weights(seed: int, rows: int = 5, columns: int = 21) -> Any:
    """Rows of different sizes, one of zeros, some with outliers."""
    random = np.random.default_rng(seed)
    weight = random.standard_t(3, (rows, columns)) * 10.0 ** random.uniform(-3, 1, (rows, 1))
    weight[random.integers(rows)] = 0
    return weight.astype(np.float32)


def nearest_code(x: float, values: Any) -> float:
    """By exhaustive search; of two that are as near the one that is even, counted from zero."""
    away = np.abs(values - x)
    near = np.flatnonzero(away == away.min())
    zero = int(np.flatnonzero(values == 0)[0])
    return float(values[near[0] if len(near) == 1 or (near[0] - zero) % 2 == 0 else near[1]])


def error(weight: Any, rounded: Any, block: int | None, energies: Any = None) -> Any:
    """[r, n] sum of energies * (w - q)^2 of each block, in float64."""
    cost = (weight.astype(np.float64) - rounded) ** 2 * (1 if energies is None else energies)
    return in_blocks(cost, block).sum(axis=2)


def sqnr(weight: Any, rounded: Any) -> float:
    exact = weight.astype(np.float64)
    return float(10 * np.log10((exact**2).mean() / ((exact - rounded) ** 2).mean()))


@ALL
def test_it_rounds_to_the_nearest_code_and_half_to_even(grid: Grid) -> None:
    values = grid.values()
    random = np.random.default_rng(0)
    ties = (values[1:] + values[:-1]) / 2
    x = np.concatenate([values, ties, np.nextafter(ties, 999), np.nextafter(ties, -999), random.normal(size=200) * 3])
    x = np.concatenate([x, [0.0, -0.0, 1e9, -1e9, 1e-30]])
    expected = [nearest_code(one, values) for one in x]
    for kind in (np.float64, np.float32):
        # float32 has no numbers that near to a tie: these become ties themselves.
        exact = x.astype(kind)
        wanted = expected if kind is np.float64 else [nearest_code(float(one), values) for one in exact]
        np.testing.assert_array_equal(grid.rounded(exact), wanted)
        np.testing.assert_array_equal(grid.codes(exact).astype(np.float64), wanted)
        assert grid.rounded(exact).dtype == kind
        assert grid.rounded(exact[3]) == wanted[3]
        assert grid.codes(exact[3]) == wanted[3]
    assert grid.codes(x).dtype == grid.dtype
    assert values[0] == grid.smallest
    assert values[-1] == grid.largest


@pytest.mark.parametrize("grid", [FP8, FP4], ids=["fp8", "fp4"])
def test_floating_grids_agree_with_casts(grid: Grid) -> None:
    random = np.random.default_rng(1)
    x = (random.normal(size=100_000) * 10.0 ** random.uniform(-5, 3, 100_000)).astype(np.float32)
    cast = np.clip(x, grid.smallest, grid.largest).astype(grid.dtype).astype(np.float32)
    np.testing.assert_array_equal(grid.rounded(x), cast)
    assert np.isfinite(cast).all()


def test_fp8_is_e4m3() -> None:
    values = FP8.values()
    assert np.count_nonzero(values >= 0) == 127
    assert min(values[values > 0]) == 2.0**-9
    x = np.geomspace(2.0**-6, 448, 10_001)
    assert (np.abs(FP8.rounded(x) - x) <= 2.0**-4 * x).all()


def test_fp4_has_the_boundaries_of_the_format() -> None:
    ties = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
    np.testing.assert_array_equal(FP4.rounded(ties), [0, 1, 1, 2, 2, 4, 4])
    np.testing.assert_array_equal(FP4.rounded(np.nextafter(ties, 9)), [0.5, 1, 1.5, 2, 3, 4, 6])
    np.testing.assert_array_equal(FP4.values()[7:], [0, 0.5, 1, 1.5, 2, 3, 4, 6])


@settings(max_examples=80, deadline=None)
@CASES
def test_codes_give_back_what_was_rounded(seed: int, grid: Grid, block: int | None, dtype: Any) -> None:
    weight = weights(seed)
    mask = np.random.default_rng(seed).random(weight.shape) < 0.5
    for kind in (np.float32, np.float64):
        given_weight = weight.astype(kind)
        for scale in (scales_by_range(given_weight, grid, block, dtype), scales_by_error(given_weight, grid, block)):
            rounded = nearest(given_weight, scale, grid, block, mask)
            stored = codes(rounded, scale, grid, block)
            assert rounded.dtype == kind
            assert stored.dtype == grid.dtype
            np.testing.assert_array_equal(real(stored, scale, block), rounded.astype(np.float32))
            assert (rounded[~mask] == 0).all()
            np.testing.assert_array_equal(
                rounded[mask].astype(np.float32), real(codes(given_weight, scale, grid, block), scale, block)[mask]
            )


@settings(max_examples=60, deadline=None)
@CASES
def test_scales_put_the_range_on_the_largest_code(seed: int, grid: Grid, block: int | None, dtype: Any) -> None:
    weight = weights(seed)
    scale = scales_by_range(weight, grid, block, dtype)
    ranges = in_blocks(np.abs(weight), block).max(axis=2)
    np.testing.assert_array_equal(largest_of(weight, block), ranges)
    assert scale.dtype == dtype
    assert scale.shape == ranges.shape
    limits = ml_dtypes.finfo(dtype)
    expected = np.where(ranges > 0, np.maximum(ranges / grid.largest, float(limits.smallest_normal)), 1)
    np.testing.assert_allclose(scale.astype(np.float64), expected, rtol=float(limits.eps))


@settings(max_examples=80, deadline=None)
@CASES
def test_a_search_does_no_worse(seed: int, grid: Grid, block: int | None, dtype: Any) -> None:
    weight = weights(seed)
    energies = np.random.default_rng(seed).exponential(size=weight.shape[1]) * 1e9
    for given_energies in (None, energies, np.where(np.arange(21) % 2, energies, 0)):
        start = scales_by_range(weight, grid, block, dtype)
        found = scales_by_error(weight, grid, block, given_energies, dtype)
        before = error(weight, nearest(weight, start, grid, block), block, given_energies)
        after = error(weight, nearest(weight, found, grid, block), block, given_energies)
        assert found.dtype == dtype
        assert (found.astype(np.float64) >= float(ml_dtypes.finfo(dtype).smallest_normal)).all()
        assert (after <= before * (1 + 1e-4)).all()
        # Rows do not know each other.
        alone = scales_by_error(weight[2:3], grid, block, given_energies, dtype)
        np.testing.assert_array_equal(alone, found[2:3])


@pytest.mark.parametrize(("grid", "block"), [(INT8, None), (INT4, None), (INT4, 32), (FP8, None), (FP4, 16)])
def test_a_search_finds_nearly_what_a_dense_one_does(grid: Grid, block: int | None) -> None:
    random = np.random.default_rng(2)
    weight = random.standard_t(5, (24, 128)).astype(np.float32)
    start = scales_by_range(weight, grid, block)
    dense = np.min(
        [
            error(weight, nearest(weight, start * np.float32(share), grid, block), block)
            for share in np.linspace(0.15, 1.6, 1451)
        ],
        axis=0,
    )
    found = error(weight, nearest(weight, scales_by_error(weight, grid, block), grid, block), block)
    assert found.sum() <= (1.15 if grid == FP8 else 1.06) * dense.sum()
    assert found.sum() < error(weight, nearest(weight, start, grid, block), block).sum()


def test_scales_follow_powers_of_two() -> None:
    weight = weights(3)
    for grid in GRIDS.values():
        for power in (-40, 7):
            times = np.ldexp(weight, power)
            once = scales_by_error(weight, grid, 4)
            twice = scales_by_error(times, grid, 4)
            used = in_blocks(weight, 4).any(axis=2)
            np.testing.assert_array_equal(np.ldexp(once, power)[used], twice[used])
            assert (once[~used] == 1).all()


def test_scales_are_never_subnormal_zero_or_infinite() -> None:
    tiny = np.full((1, 4), 1e-44, np.float32)
    for dtype in (np.float32, np.float16, ml_dtypes.bfloat16):
        smallest = float(ml_dtypes.finfo(dtype).smallest_normal)
        assert scales_by_range(tiny, INT8, dtype=dtype) == smallest
        assert scales_by_error(tiny, INT8, dtype=dtype) == smallest
        assert scales_by_range(np.zeros((1, 4)), INT8, dtype=dtype) == 1
    with pytest.raises(ValueError, match="too large for float16"):
        scales_by_range(np.full((1, 4), 1e9, np.float32), INT8, dtype=np.float16)
    assert scales_by_range(np.full((1, 4), 3e38, np.float32), INT8) * 127 == pytest.approx(3e38)
    assert scales_by_range(np.zeros((2, 0), np.float32), INT8).tolist() == [[1], [1]]


def test_what_is_no_weight_is_refused() -> None:
    broken = np.array([[1.0, np.nan]])
    good = np.ones((2, 6), np.float32)
    with pytest.raises(ValueError, match="NaN"):
        scales_by_range(broken, INT8)
    with pytest.raises(ValueError, match="NaN"):
        codes(broken, np.ones((1, 1)), INT8)
    with pytest.raises(ValueError, match="NaN"):
        symmetric_scale(-1.0, np.float32)
    with pytest.raises(ValueError, match="matrix"):
        scales_by_range(np.ones(3), INT8)
    with pytest.raises(ValueError, match="at least one column"):
        scales_by_range(good, INT8, 0)
    with pytest.raises(ValueError, match="expected 2 in each row"):
        codes(good, np.ones((2, 3)), INT8, 4)
    with pytest.raises(ValueError, match="do not fit a weight"):
        codes(good, np.ones((1, 1)), INT8)
    with pytest.raises(ValueError, match="energies of shape"):
        scales_by_error(good, INT8, energies=np.ones(3))
    with pytest.raises(ValueError, match="negative"):
        scales_by_error(good, INT8, energies=-np.ones(6))
    with pytest.raises(ValueError, match="steps 0"):
        scales_by_error(good, INT8, steps=0)


def test_scales_spread_over_a_short_last_block() -> None:
    scale = np.array([[1.0, 2.0, 3.0]])
    np.testing.assert_array_equal(spread_out(scale, 5, 2), [[1, 1, 2, 2, 3]])
    np.testing.assert_array_equal(spread_out(scale[:, :1], 5, None), [[1, 1, 1, 1, 1]])


def test_figures_of_a_normal_distribution() -> None:
    weight = np.random.default_rng(4).normal(size=(1, 200_000)).astype(np.float32)
    assert sqnr(weight, nearest(weight, scales_by_range(weight, FP8), FP8)) == pytest.approx(31.6, abs=0.2)
    # The range of so many numbers, not more: 4.5 .. 4.7.
    assert sqnr(weight, nearest(weight, scales_by_range(weight, INT8), INT8)) == pytest.approx(39.4, abs=0.5)
    for block, expected in ((16, 21.4), (32, 20.3), (64, 19.4), (128, 18.6)):
        scale = scales_by_range(weight, INT4, block)
        assert sqnr(weight, nearest(weight, scale, INT4, block)) == pytest.approx(expected, abs=0.1)
    levels = nvfp4_scales(weight)
    assert sqnr(weight, nearest(weight, levels.scale, FP4, 16)) == pytest.approx(20.4, abs=0.1)
    better = nvfp4_scales(weight, search=True)
    assert sqnr(weight, nearest(weight, better.scale, FP4, 16)) > 21.2


def test_nvfp4_reproduces_its_own_numbers() -> None:
    values = FP4.values()
    block = np.concatenate([values, [6.0]])[None].astype(np.float32)
    weight = np.concatenate([block, 0.25 * block], axis=1)
    # The scale of the whole weight is a power of two times 1 / 448 then, that of blocks 448 and 112.
    levels = nvfp4_scales(weight)
    np.testing.assert_array_equal(levels.block.astype(np.float32), [[448, 112]])
    np.testing.assert_array_equal(codes(weight, levels.scale, FP4, 16).astype(np.float32), np.tile(block, 2))
    np.testing.assert_allclose(nearest(weight, levels.scale, FP4, 16), weight, rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, power=st.integers(-20, 20), search=st.booleans())
def test_nvfp4_follows_powers_of_two(seed: int, power: int, search: bool) -> None:
    weight = weights(seed)
    once, twice = nvfp4_scales(weight, search=search), nvfp4_scales(np.ldexp(weight, power), search=search)
    np.testing.assert_array_equal(np.ldexp(once.scale, power), twice.scale)
    np.testing.assert_array_equal(once.block, twice.block)
    assert once.block.dtype == ml_dtypes.float8_e4m3fn
    assert (once.scale > 0).all()


def test_nvfp4_has_a_scale_for_what_is_zero_or_small() -> None:
    weight = np.zeros((2, 40), np.float32)
    assert (nvfp4_scales(weight).scale == 1).all()
    weight[0, 0], weight[1, 20] = 6 * 448, 1e-6
    levels = nvfp4_scales(weight)
    np.testing.assert_array_equal(levels.block.astype(np.float32), [[448, 1, 1], [1, 2.0**-9, 1]])
    assert codes(weight, levels.scale, FP4, 16)[0, 0] == 6
    small = nvfp4_scales(np.full((1, 16), 1e-44, np.float32))
    assert small.scale >= np.finfo(np.float32).tiny
    with pytest.raises(ValueError, match="NaN"):
        nvfp4_scales(np.full((1, 16), np.inf, np.float32))


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS)
def test_searches_of_stored_scales_do_no_worse(seed: int) -> None:
    weight = weights(seed, 3, 50)
    energies = np.random.default_rng(seed).exponential(size=50)

    def cost(grid: Grid, scale: Any, block: int) -> Any:
        return error(weight, nearest(weight, scale, grid, block), block, energies)

    for grid in (FP8, FP4):
        plain = power_scales(weight, grid).astype(np.float32)
        found = power_scales(weight, grid, energies=energies, search=True).astype(np.float32)
        assert (cost(grid, found, 32) <= cost(grid, plain, 32) * (1 + 1e-4)).all()
    plain, found = nvfp4_scales(weight).scale, nvfp4_scales(weight, energies=energies, search=True).scale
    assert (cost(FP4, found, 16) <= cost(FP4, plain, 16) * (1 + 1e-4)).all()


def test_powers_of_two_are_those_of_the_specification() -> None:
    weight = np.array([[448.0, 1], [511, 1], [512, 1], [1, -1.99], [0, 0], [1e-44, 0], [-3e38, 0]], np.float32)
    scale = power_scales(weight, FP8, 2)
    assert scale.dtype == E8M0
    np.testing.assert_array_equal(scale.astype(np.float64)[:, 0], [1, 1, 2, 2.0**-8, 1, 2.0**-126, 2.0**119])
    np.testing.assert_array_equal(power_scales(weight[:4], FP4, 2).astype(np.float64)[:, 0], [64, 64, 128, 0.25])
    assert codes(weight[1:2], scale[1:2].astype(np.float32), FP8, 2)[0, 0] == 448
    # 511 saturates at 448; the power above keeps it at 512.
    assert power_scales(weight[1:2], FP8, 2, search=True).astype(np.float64) == 2
    with pytest.raises(ValueError, match="NaN"):
        power_scales(np.array([[np.nan, 1]]), FP8, 2)
