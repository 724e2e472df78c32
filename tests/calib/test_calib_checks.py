"""What fits passes with the model's dtypes; each misfit names source, array, expected, found and remedy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from secateur.calib.batches import Batch
from secateur.calib.checks import Signature, check_batch, checked, fixed_batch_size
from secateur.calib.sources import open_source
from secateur.ir.errors import DataError

SIGNATURE: Signature = {
    "image": (np.dtype(np.float32), ("N", 3, None)),
    "mask": (np.dtype(np.int64), ("N", 4)),
}
IMAGE = np.ones((2, 3, 5), np.float32)
MASK = np.ones((2, 4), np.int64)


def test_what_fits_passes_unchanged_and_in_order() -> None:
    batch = check_batch(Batch({"mask": MASK, "image": IMAGE}, 0.5), SIGNATURE, "data")
    assert list(batch.feeds) == ["image", "mask"]
    assert batch.feeds["image"] is IMAGE
    assert batch.weight == 0.5


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ">f4"])
def test_floats_are_cast(dtype: Any) -> None:
    batch = check_batch(Batch({"image": IMAGE.astype(dtype), "mask": MASK.astype(np.int32)}), SIGNATURE, "data")
    assert batch.feeds["image"].dtype == np.float32
    assert batch.feeds["mask"].dtype == np.int64


MISFITS: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"mask": None}, "lacks mask"),
    "extra": ({"labels": MASK}, "has labels, which is no input"),
    "renamed": ({"image": None, "img": IMAGE}, "lacks image and has img"),
    "rank": ({"image": IMAGE[0]}, r"shape \[3, 5\], expected rank 3 as in \[N, 3, \?\]"),
    "fixed": ({"image": np.ones((2, 1, 5), np.float32)}, "size 1 on axis 1, expected 3"),
    "symbol": ({"mask": MASK[:1]}, "dimension 'N' is 2 by axis 0 of .*'image'"),
    "no_values": ({"image": np.ones((2, 3, 0), np.float32)}, "is empty"),
    "bytes": ({"image": np.ones((2, 3, 5), np.uint8)}, "is uint8, expected float32"),
    "bool": ({"mask": np.ones((2, 4), bool)}, "is bool, expected int64"),
    "narrowing": ({"mask": np.ones((2, 4), np.uint64)}, "is uint64, expected int64"),
    "float_for_int": ({"mask": np.ones((2, 4))}, "is float64, expected int64"),
    "nan": ({"image": np.where(np.arange(30).reshape(2, 3, 5) > 27, np.nan, IMAGE)}, "2 of 30 values that are NaN"),
    "inf": ({"image": np.full((2, 3, 5), np.inf)}, "30 of 30 values"),
    "overflow": ({"image": np.full((2, 3, 5), 1e300)}, "beyond the range of float32"),
    "text": ({"image": np.full((2, 3, 5), "a")}, "expected float32"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_a_misfit_is_one_clear_error(case: str) -> None:
    changes, message = MISFITS[case]
    both: dict[str, Any] = {"image": IMAGE, "mask": MASK} | changes
    feeds = {name: array for name, array in both.items() if array is not None}
    with pytest.raises(DataError, match=message) as caught:
        check_batch(Batch(feeds), SIGNATURE, "cats.npz", 7)
    assert str(caught.value).startswith("cats.npz, batch 7")
    assert caught.value.hint


def test_bfloat16_is_a_float() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    signature: Signature = {"x": (np.dtype(ml_dtypes.bfloat16), (None,))}
    assert check_batch(Batch({"x": np.ones(3)}), signature, "data").feeds["x"].dtype == ml_dtypes.bfloat16


def test_a_fixed_batch_is_known_and_can_be_served() -> None:
    fixed: Signature = {"image": (np.dtype(np.float32), (1, 3, 5)), "step": (np.dtype(np.float32), ())}
    assert fixed_batch_size(fixed) == 1
    assert fixed_batch_size(SIGNATURE) is None
    assert fixed_batch_size({"a": (np.dtype(np.float32), (1, 2)), "b": (np.dtype(np.float32), (2, 2))}) is None
    data = {"image": IMAGE, "step": np.float32(1)}
    source = checked(open_source(data, fixed_batch_size(fixed)), fixed)
    assert [batch.feeds["image"].shape for batch in source] == [(1, 3, 5)] * 2
    with pytest.raises(DataError, match=r"(?s)^the dict, batch 0.*axis 0, expected 1.*batch_size=1"):
        list(checked(open_source(data), fixed))
