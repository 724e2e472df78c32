"""Sums of products: what numpy says in float64, whatever the order of types, of merged sums, and of reading."""

from __future__ import annotations

import numpy as np
import pytest

from secateur.calib import product_sums
from secateur.calib.product_sums import ProductSum


def parts(seed: int, width: int) -> list[np.ndarray]:
    """Rows of one type after the other."""
    random = np.random.default_rng(seed)
    return [random.normal(size=(rows, width)).astype("fdffd"[at]) for at, rows in enumerate((5, 3, 7, 2, 1))]


@pytest.mark.parametrize("limit", [1, 6, 1000])
@pytest.mark.parametrize("is_square", [False, True])
def test_it_is_the_sum_whenever_it_is_read(limit: int, is_square: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product_sums, "_ROWS", limit)
    monkeypatch.setattr(product_sums, "_STRIP", 4)
    found = ProductSum(9) if is_square else ProductSum(9, 6)
    expected = np.zeros((9, 9) if is_square else (9, 6))
    for x, y in zip(parts(0, 9), parts(1, 6), strict=True):
        found.add(x) if is_square else found.add(x, y)
        product = x.astype(np.float64).T @ (x if is_square else y).astype(np.float64)
        expected += np.tril(product) if is_square else product
        if len(x) != 7:
            np.testing.assert_allclose(found.total, expected, rtol=1e-5, atol=1e-5)
    assert found.total.dtype == np.float64
    other = ProductSum(9) if is_square else ProductSum(9, 6)
    other.add(np.ones((1, 9), np.float32), None if is_square else np.ones((1, 6), np.float32))
    found.merge(other)
    ones = np.ones(expected.shape)
    np.testing.assert_allclose(found.total, expected + (np.tril(ones) if is_square else ones), rtol=1e-5, atol=1e-5)


def test_there_may_be_no_targets() -> None:
    found = ProductSum(3, 0)
    found.add(np.ones((2, 3), np.float32), np.ones((2, 0), np.float32))
    assert found.total.shape == (3, 0)
