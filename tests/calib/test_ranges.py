"""Ranges and histograms: statistics of the values alone, and calibrators with known answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.calib.ranges import BINS, Histogram, Range, amax_entropy, amax_max, amax_mse, amax_percentile
from secateur.ir.errors import DataError

Array = np.ndarray[Any, Any]


def histogram_of(*parts: Any) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.update(part)
    return histogram


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    exponents=st.lists(st.integers(-30, 30), min_size=1, max_size=5),
    silent=st.integers(0, 4),
)
def test_histograms_do_not_depend_on_batches_or_merges(seed: int, exponents: list[int], silent: int) -> None:
    random = np.random.default_rng(seed)
    parts = [random.normal(size=7) * 2.0**exponent for exponent in exponents]
    parts.insert(silent % (len(parts) + 1), np.zeros(3))
    whole = histogram_of(np.concatenate(parts))
    streamed = histogram_of(*(parts[index] for index in random.permutation(len(parts))))
    merged = Histogram()
    for part in reversed(parts):
        merged.merge(histogram_of(part))
    for other in (streamed, merged, Histogram.from_state(whole.state())):
        assert other.width == whole.width and other.absmax == whole.absmax
        assert np.array_equal(other.counts, whole.counts)
    assert whole.counts.sum() == sum(map(len, parts))
    assert BINS < len(whole.counts) <= 2 * BINS


def test_bins_hold_what_they_say() -> None:
    x = np.random.default_rng(0).normal(size=10_000)
    histogram = histogram_of(x[:10], x[10:])
    expected, _ = np.histogram(np.abs(x), histogram.edges)
    assert np.array_equal(histogram.counts, expected)
    assert histogram.edges[-2] <= histogram.absmax <= histogram.edges[-1]


def test_extreme_magnitudes_are_binned() -> None:
    histogram = histogram_of(np.array([5e-324]), np.zeros(2), np.array([1e300]))
    assert histogram.counts[0] == 3 and histogram.counts[-1] == 1
    assert not histogram_of(np.zeros(4)).width
    assert histogram_of(np.zeros(4)).counts.tolist() == [4]
    assert histogram_of(np.zeros(0)).counts.sum() == 0


@pytest.mark.parametrize("axis", [None, 1, -1])
def test_ranges_are_those_of_the_whole(axis: int | None) -> None:
    x = np.random.default_rng(1).normal(size=(8, 3, 5)).astype(np.float32)
    parts = [Range(axis) for _ in range(2)]
    for sample in x[:5]:
        parts[0].update(sample[None])
    parts[1].update(x[5:])
    merged = Range(axis)
    for part in parts:
        merged.merge(part)
    others = tuple(a for a in range(3) if axis is None or a != axis % 3)
    assert np.array_equal(merged.minimum, x.min(others)) and np.array_equal(merged.maximum, x.max(others))
    assert np.array_equal(amax_max(merged), np.abs(x).max(others))
    assert merged.count * (1 if axis is None else x.shape[axis]) == x.size
    restored = Range.from_state(merged.state())
    assert (restored.axis, restored.count) == (axis, merged.count)
    assert np.array_equal(restored.absmax, merged.absmax) and np.array_equal(restored.minimum, merged.minimum)


def test_ranges_that_do_not_fit_are_refused() -> None:
    channels = Range(1)
    channels.update(np.ones((2, 3)))
    with pytest.raises(ValueError, match="do not join"):
        channels.update(np.ones((2, 4)))
    with pytest.raises(ValueError, match="axis 1 and axis None"):
        channels.merge(Range())
    empty = Range(1)
    empty.update(np.ones((0, 3)))
    assert Range.from_state(empty.state()).count == 0 and amax_max(empty) == 0
    with pytest.raises(DataError, match="1 of 2 values"):
        Range().update([1.0, np.nan])
    with pytest.raises(DataError, match="2 of 2 values"):
        Histogram().update([np.inf, -np.inf])
    with pytest.raises(DataError, match="bins"):
        Histogram.from_state({"absmax": np.asarray(1.0), "counts": np.ones(3)})


CALIBRATORS = {
    "max": lambda histogram: float(amax_max(histogram)),
    "percentile": amax_percentile,
    "mse": amax_mse,
    "entropy": amax_entropy,
}


@pytest.mark.parametrize("name", CALIBRATORS)
def test_calibrators_scale_with_the_data(name: str) -> None:
    x = np.random.default_rng(2).normal(size=200_000)
    amax = CALIBRATORS[name](histogram_of(x))
    assert CALIBRATORS[name](histogram_of(x * 2.0**-13)) == amax * 2.0**-13
    assert CALIBRATORS[name](histogram_of(x * 3.0)) == pytest.approx(amax * 3.0, rel=0.05)
    assert CALIBRATORS[name](histogram_of(-x)) == amax
    assert 0 < amax <= np.abs(x).max()
    assert CALIBRATORS[name](histogram_of(np.zeros(5))) == 0.0


def test_calibrators_give_known_answers() -> None:
    normal = np.random.default_rng(3).normal(size=200_000)
    alone, with_outlier = histogram_of(normal), histogram_of(normal, [40.0])
    largest = float(np.abs(normal).max())
    assert 3.4 < amax_entropy(alone) <= largest
    # One outlier in 200,000 decides the largest value, and must not decide the range.
    assert amax_max(with_outlier) == 40.0
    assert 3.4 < amax_entropy(with_outlier) < 5.0
    uniform = histogram_of(np.random.default_rng(4).uniform(-3, 3, 200_000))
    assert amax_entropy(uniform) == uniform.absmax
    assert amax_mse(uniform) == pytest.approx(3.0, rel=0.01)


@pytest.mark.parametrize("percentile", [50.0, 99.0, 99.9, 100.0])
def test_percentiles_are_those_of_the_values(percentile: float) -> None:
    x = np.abs(np.random.default_rng(5).normal(size=50_001))
    histogram = histogram_of(x)
    amax = amax_percentile(histogram, percentile)
    assert np.mean(x <= amax) >= percentile / 100 > np.mean(x <= amax - 1.001 * histogram.width) - 1e-12
    assert (amax == x.max()) == (percentile == 100)
    with pytest.raises(ValueError, match="percentile"):
        amax_percentile(histogram, 0.0)


def test_mse_is_the_least_error_of_the_values() -> None:
    x = np.random.default_rng(6).standard_t(3, 20_000)
    histogram = histogram_of(x)

    def error(amax: float) -> float:
        scale = amax / 7
        return float(np.sum((np.clip(np.rint(x / scale), -7, 7) * scale - x) ** 2))

    best = min(error(amax) for amax in np.linspace(0.02, 1, 400) * histogram.absmax)
    assert error(amax_mse(histogram, bits=4)) <= 1.02 * best


def naive_entropy(counts: Array, bits: int) -> int:
    """The method as its text says it, bin by bin: the number of bins to keep."""
    counts = counts.astype(np.float64)
    counts[0] = counts[1]
    cells, best = 2 ** (bits - 1), (np.inf, 0)
    for kept in range(128, len(counts) + 1):
        inside = counts[:kept]
        p = inside.copy()
        p[-1] += counts[kept:].sum()
        cell = np.arange(kept) * cells // kept
        q = np.zeros(kept)
        for index in range(cells):
            filled = (cell == index) & (inside > 0)
            q[filled] = inside[cell == index].sum() / max(1, filled.sum())
        p, q = p / p.sum(), q / q.sum()
        with np.errstate(divide="ignore", invalid="ignore"):
            divergence = float(np.where(p > 0, p * np.log(p / q), 0.0).sum())
        if counts[kept:].sum() > 0.01 * counts.sum():
            continue
        best = min(best, (divergence, kept), key=lambda pair: (round(pair[0], 12), -pair[1]))
    return best[1]


@pytest.mark.parametrize("seed", range(3))
def test_entropy_is_what_its_definition_says(seed: int) -> None:
    random = np.random.default_rng(seed)
    histogram = Histogram()
    histogram.width, histogram.absmax = 1.0, 200.0
    histogram.counts = random.poisson(300 * np.exp(-np.arange(200) / (20 + 10 * seed)))
    histogram.counts[0] = 100_000  # as after a ReLU
    assert amax_entropy(histogram, bits=5) == naive_entropy(histogram.counts, bits=5)


def test_a_spike_hides_nothing_beyond_it_from_entropy() -> None:
    """Half of the values are one number, as the background of pictures is; the others lie beyond it."""
    random = np.random.default_rng(0)
    histogram = Histogram()
    histogram.update(np.concatenate([np.full(50_000, 0.8), random.choice(256, 50_000) * (2 / 255)]))
    assert amax_entropy(histogram) > 1.9
