"""Fast masks are bit by bit those of a stable sort, for every type, axis, pattern and tie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.sparse_problems import satisfies
from hypothesis import given
from hypothesis import strategies as st

from secateur.ir import DataType, Tensor
from secateur.passes.sparsify import masks
from secateur.passes.sparsify.masks import MagnitudeMasker, keep_largest

Array = np.ndarray[Any, Any]
PATTERNS = ((1, 2), (1, 4), (2, 4), (3, 4), (2, 6), (4, 8), (5, 16), (7, 32))
TYPES = (DataType.FLOAT16, DataType.BFLOAT16, DataType.FLOAT32, DataType.FLOAT64)


def _by_sorting(saliency: Array, keep: int, group: int, axis: int) -> Array:
    last = np.moveaxis(saliency, axis, -1)
    grouped = last.reshape(*last.shape[:-1], -1, group)
    order = np.argsort(-grouped, axis=-1, kind="stable")
    mask = np.zeros(grouped.shape, np.bool_)
    np.put_along_axis(mask, order[..., :keep], True, axis=-1)
    return np.moveaxis(mask.reshape(last.shape), -1, axis)


@st.composite
def _weights(draw: st.DrawFn) -> tuple[Array, int, int, int]:
    keep, group = draw(st.sampled_from(PATTERNS))
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    axis = draw(st.integers(0, len(shape) - 1))
    shape[axis] *= group
    random = np.random.default_rng(draw(st.integers(0, 999)))
    array = random.normal(size=shape)
    # Coarse numbers have many ties, among them those of zeros of both signs.
    return (np.round(array) * draw(st.sampled_from([1.0, -1.0])) if draw(st.booleans()) else array), keep, group, axis


@given(_weights(), st.sampled_from(TYPES))
def test_masks_are_those_of_a_stable_sort(case: tuple[Array, int, int, int], dtype: DataType) -> None:
    array, keep, group, axis = case
    weight = array.astype(dtype.numpy)
    saliency = np.abs(weight.astype(np.float64))
    expected = _by_sorting(saliency, keep, group, axis)
    np.testing.assert_array_equal(keep_largest(saliency, keep, group, axis), expected)
    np.testing.assert_array_equal(keep_largest(saliency, keep, group, axis - array.ndim), expected)
    found = MagnitudeMasker(keep, group).mask(Tensor(weight), axis)
    np.testing.assert_array_equal(found.stays.unpacked(), expected)
    np.testing.assert_array_equal(found.tensor.numpy(), np.where(expected, weight, 0))
    assert satisfies(found.tensor.numpy(), keep, group, axis)
    squares = saliency**2
    share = float(squares[expected].sum() / squares.sum()) if squares.any() else 1.0
    assert found.energy == pytest.approx(share, rel=1e-5)


@pytest.mark.parametrize("group", [4, 32])
def test_not_a_number_is_the_smallest_and_infinity_the_largest(group: int) -> None:
    saliency = np.random.default_rng(0).choice([0.0, 1.0, np.inf, -np.inf, np.nan], size=(50, group))
    np.testing.assert_array_equal(keep_largest(saliency, 2, group, 1), _by_sorting(saliency, 2, group, 1))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64])
@pytest.mark.parametrize("group", [4, 32])
def test_integers_at_their_limits(dtype: type, group: int) -> None:
    limits = np.iinfo(dtype)
    saliency = np.random.default_rng(0).choice(np.array([limits.min, 0, 1, limits.max], dtype), size=(50, group))
    expected = _by_sorting(saliency.astype(object), 2, group, 1)
    np.testing.assert_array_equal(keep_largest(saliency, 2, group, 1), expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_pieces_are_masked_as_the_whole(monkeypatch: pytest.MonkeyPatch, axis: int) -> None:
    array = np.random.default_rng(0).normal(size=(48, 16, 24)).astype(np.float32)
    expected = _by_sorting(np.abs(array), 2, 4, axis)
    monkeypatch.setattr(masks, "_PIECE", 100)
    masker = MagnitudeMasker(2, 4)
    for _ in range(2):
        np.testing.assert_array_equal(masker.mask(Tensor(array), axis).stays.unpacked(), expected)
    np.testing.assert_array_equal(keep_largest(np.abs(array), 2, 4, axis), expected)
