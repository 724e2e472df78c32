"""Mutual information is that of the histogram by its definition, known cases, and scikit-learn on the same cells."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mutual_info_score

from secateur.calib.solvers.mutual_information import mutual_information, sample_means

SEEDS = st.integers(0, 2**32 - 1)


def test_known_cases() -> None:
    balanced = np.arange(1000) % 2
    assert mutual_information(balanced, balanced).nats == pytest.approx(np.log(2))
    assert mutual_information(balanced, 1 - balanced).nats == pytest.approx(np.log(2))
    assert mutual_information(balanced, np.zeros(1000)).nats == 0
    even = np.arange(1600.0)
    assert mutual_information(even, even**1).nats == pytest.approx(np.log(16))
    assert mutual_information(even, even**3, ranks=True).nats == pytest.approx(np.log(16))
    found = mutual_information(balanced, balanced)
    assert (found.support, found.samples) == (2, 1000)


def test_independent_numbers_tell_as_much_as_the_bias_says() -> None:
    random = np.random.default_rng(0)
    found = mutual_information(random.normal(size=10_000), random.normal(size=10_000))
    assert found.nats < 0.02
    assert found.corrected < 0.008
    small = [mutual_information(random.uniform(size=200), random.uniform(size=200), 8) for _ in range(100)]
    assert np.mean([one.nats for one in small]) == pytest.approx(small[0].bias, rel=0.15)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, bins=st.integers(1, 16))
def test_it_is_that_of_the_histogram(seed: int, bins: int) -> None:
    random = np.random.default_rng(seed)
    x = random.normal(size=300)
    y = x + random.normal(size=300) * random.exponential()
    # Bins of equal width as numpy has them.
    edges = [np.digitize(side, np.histogram_bin_edges(side, bins)[1:-1]) for side in (x, y)]
    found = mutual_information(x, y, bins)
    assert found.nats == pytest.approx(mutual_info_score(*edges), abs=1e-12)
    assert found.nats == pytest.approx(mutual_information(y, x, bins).nats)
    assert 0 <= found.corrected <= found.nats <= np.log(bins) + 1e-12
    # Ranks do not know of what is done to all numbers alike.
    ranked = mutual_information(x, y, bins, ranks=True)
    assert mutual_information(np.exp(x), y**3, bins, ranks=True).nats == pytest.approx(ranked.nats)


def test_more_noise_tells_less() -> None:
    random = np.random.default_rng(1)
    x, noise = random.normal(size=5000), random.normal(size=5000)
    nats = [mutual_information(x, x + size * noise).nats for size in (0.1, 0.5, 2.0, 10.0)]
    assert nats == sorted(nats, reverse=True)


def test_outputs_are_reduced_to_a_number_each() -> None:
    outputs = np.random.default_rng(2).normal(size=(5, 3, 4)).astype(np.float16)
    np.testing.assert_allclose(sample_means(outputs), outputs.astype(np.float64).mean(axis=(1, 2)))
    huge = np.array([-3e38, 0, 3e38], np.float32)
    assert mutual_information(huge, huge).nats == pytest.approx(np.log(3))


def test_what_is_no_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="on both sides"):
        mutual_information(np.ones(2), np.ones(3))
    with pytest.raises(ValueError, match="at least one"):
        mutual_information(np.ones(0), np.ones(0))
    with pytest.raises(ValueError, match="one bin"):
        mutual_information(np.ones(2), np.ones(2), 0)
    with pytest.raises(ValueError, match="NaN"):
        mutual_information(np.array([np.nan, 1]), np.ones(2))
