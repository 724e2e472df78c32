"""Weights that wait in a file are the same weights, and leave nothing behind."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pytest

from secateur.ir.spill import spilled
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
