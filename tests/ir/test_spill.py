"""Weights that wait in a file are the same weights, and leave nothing behind."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pytest

from secateur.ir.node import Value
from secateur.ir.spill import SMALL, Spool, spilled
from secateur.ir.tensor import Tensor
from secateur.ir.types import DataType


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("dtype", [DataType.FLOAT32, DataType.BFLOAT16, DataType.INT4])
def test_the_same_tensor_without_memory_and_without_a_name(folder: Path, dtype: DataType) -> None:
    tensor = Tensor(np.arange(-8, 8).astype(dtype.numpy).reshape(2, 8), dtype)
    waiting = spilled(tensor, above=1)
    assert waiting.is_mapped
    assert waiting.equals(tensor)
    assert waiting.digest == tensor.digest
    assert b"".join(waiting.chunks()) == b"".join(tensor.chunks())
    assert not list(folder.iterdir())


def test_the_file_is_closed_with_the_last_tensor(folder: Path) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("descriptors cannot be counted here")
    before = descriptors()
    waiting = spilled(Tensor(np.zeros((64, 64), np.float32)), above=1)
    numbers = waiting.numpy()
    assert descriptors() > before
    del waiting
    assert not numbers.any()  # what somebody holds stays readable
    del numbers
    gc.collect()
    assert descriptors() == before


def test_small_ones_and_those_that_there_is_no_room_for_stay_in_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensor = Tensor(np.zeros(4, np.float32))
    assert spilled(tensor) is tensor

    def full(descriptor: int, data: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.write", full)
    assert spilled(tensor, above=1) is tensor
    assert not list(folder.iterdir())


def _constants(*sizes: int) -> list[Value]:
    arrays = [np.full(size, index, np.uint8) for index, size in enumerate(sizes)]
    return [Value(str(index), const=Tensor(array)) for index, array in enumerate(arrays)]


def test_constants_share_a_file_as_soon_as_they_are_large_together(folder: Path) -> None:
    values = _constants(SMALL + 1, SMALL, SMALL + 3, SMALL - 1)
    before = [value.const for value in values]
    spool = Spool(above=3 * SMALL)
    spool.add([*values[:2], None, Value("no constant")])
    assert [value.const for value in values] == before
    spool.add([values[1], *values[2:]])
    assert [value.const.is_mapped for value in values] == [True, True, True, False]
    assert len({value.const.storage for value in values[:3]}) == 1
    assert all(value.const.equals(tensor) for value, tensor in zip(values, before, strict=True))
    assert not list(folder.iterdir())


def test_what_was_replaced_or_moved_meanwhile_does_not_count(folder: Path) -> None:
    first, second = _constants(SMALL, SMALL)
    spool = Spool(above=2 * SMALL)
    spool.add([first])
    first.set_const(Tensor(np.zeros(1, np.uint8)))
    spool.add([second])
    assert not second.const.is_mapped


def test_rows_of_different_types_lie_where_processors_read_them_at_once(folder: Path) -> None:
    codes = Value("codes", const=Tensor(np.zeros(SMALL + 1, np.uint8)))
    numbers = Value("numbers", const=Tensor(np.arange(SMALL, dtype=np.float64)))
    Spool(above=1).add([codes, numbers])
    assert numbers.const.is_mapped
    assert numbers.const.numpy().flags.aligned
    np.testing.assert_array_equal(numbers.const.numpy(), np.arange(SMALL))
