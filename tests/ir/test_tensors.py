"""Tensors: packing against a second implementation, digests and equality by bits, storage that is not what it was."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from helpers.random_graphs import random_tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from secateur.ir import DataType, Tensor
from secateur.ir.errors import ModelError
from secateur.ir.storage import Storage
from secateur.ir.tensor import pack_bits, unpack_bits

NUMERIC = [dtype for dtype in DataType if dtype not in (DataType.UNDEFINED, DataType.STRING)]
NARROW = [dtype for dtype in NUMERIC if dtype.bits < 8]
BY_NAME = {"ids": lambda dtype: dtype.short}


@given(bits=st.sampled_from([2, 4, 6]), codes=st.lists(st.integers(0, 255), max_size=40))
def test_packing_is_one_long_number(bits: int, codes: list[int]) -> None:
    """The oracle: all codes as the digits, lowest first, of one number of any length."""
    low = [code % (1 << bits) for code in codes]
    number = sum(code << (bits * place) for place, code in enumerate(low))
    packed = pack_bits(np.array(codes, np.uint8), bits)
    assert packed.tobytes() == number.to_bytes((len(codes) * bits + 7) // 8, "little")
    assert unpack_bits(packed, len(codes), bits).tolist() == low


@pytest.mark.parametrize("dtype", NUMERIC, **BY_NAME)
@given(seed=st.integers(0, 2**32), shape=st.sampled_from([(), (0,), (1,), (5,), (3, 7), (2, 0, 3)]))
@settings(max_examples=15, deadline=None)
def test_storage_is_what_onnx_reads(dtype: DataType, seed: int, shape: tuple[int, ...]) -> None:
    tensor = random_tensor(seed, dtype, shape)
    raw = b"".join(tensor.chunks())
    assert len(raw) == tensor.nbytes
    array = tensor.numpy()
    if hasattr(TensorProto, onnx_name(dtype)):
        proto = TensorProto(data_type=int(dtype), dims=shape, raw_data=raw)
        read = numpy_helper.to_array(proto)
        assert read.dtype == array.dtype and read.shape == array.shape
        assert codes_of(read, dtype) == codes_of(array, dtype)
    mapped = Tensor.mapped(dtype, shape, Storage(b"???" + raw), 3)
    assert mapped.is_mapped and mapped.equals(tensor) and tensor.equals(mapped)
    assert mapped.digest == tensor.digest
    assert not mapped.numpy().flags.writeable and not array.flags.writeable
    assert b"".join(mapped.chunks()) == raw


def onnx_name(dtype: DataType) -> str:
    return {DataType.FLOAT32: "FLOAT", DataType.FLOAT64: "DOUBLE"}.get(dtype, dtype.name)


def codes_of(array: np.ndarray, dtype: DataType) -> list[int]:
    whole = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return (whole & ((1 << min(dtype.bits, 8)) - 1)).tolist()


def test_types_are_numbered_as_onnx_numbers_them() -> None:
    for dtype in DataType:
        if hasattr(TensorProto, onnx_name(dtype)):
            assert getattr(TensorProto, onnx_name(dtype)) == dtype
            if dtype in NUMERIC:
                assert helper.tensor_dtype_to_np_dtype(int(dtype)) == dtype.numpy
        assert DataType.from_short(dtype.short) is dtype
        if dtype in NUMERIC:
            assert DataType.of(dtype.numpy) is dtype


@pytest.mark.parametrize("dtype", NARROW, **BY_NAME)
def test_unused_bits_mean_nothing(dtype: DataType) -> None:
    raw = np.frombuffer(b"".join(random_tensor(1, dtype, (3,)).chunks()), np.uint8).copy()
    plain = Tensor.mapped(dtype, (3,), Storage(raw.tobytes()), 0)
    raw[-1] |= 0xC0
    dirty = Tensor.mapped(dtype, (3,), Storage(raw.tobytes()), 0)
    wide = Tensor(
        (plain.numpy().view(np.uint8) | (0xFF << dtype.bits & 0xFF)).astype(np.uint8).view(dtype.numpy), dtype
    )
    for other in (dirty, wide):
        assert plain.equals(other) and other.equals(plain)
        assert plain.digest == other.digest


def test_equality_is_by_bits() -> None:
    nan = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)
    assert Tensor(nan).equals(Tensor(nan.copy()))
    assert not Tensor(nan[:1]).equals(Tensor(nan[1:]))
    assert not Tensor(np.array([0.0])).equals(Tensor(np.array([-0.0])))
    assert not Tensor(np.zeros(4, np.float32)).equals(Tensor(np.zeros(4, np.int32)))
    assert not Tensor(np.zeros((2, 2))).equals(Tensor(np.zeros(4)))
    assert Tensor(np.array(["a", b"b"], object)).equals(Tensor(np.array([b"a", "b"], object)))
    assert not Tensor(np.array(["a"], object)).equals(Tensor(np.array(["b"], object)))


def test_digests_tell_apart_what_differs() -> None:
    tensors = [
        Tensor(np.zeros(4, np.float32)),
        Tensor(np.zeros(4, np.int32)),
        Tensor(np.zeros((2, 2), np.float32)),
        Tensor(np.zeros((1, 4), np.float32)),
        Tensor(np.array([0, 0, 0, 1], np.float32)),
        Tensor(np.array(["ab", "c"], object)),
        Tensor(np.array(["a", "bc"], object)),
    ]
    assert len({tensor.digest for tensor in tensors}) == len(tensors)
    assert all(len(tensor.digest) == 16 for tensor in tensors)


def test_arrays_of_any_layout_and_byte_order() -> None:
    plain = np.arange(12, dtype=np.int32).reshape(3, 4)
    for array in (np.asfortranarray(plain), plain.astype(">i4"), np.repeat(plain, 2, axis=1)[:, ::2]):
        tensor = Tensor(array)
        assert tensor.equals(Tensor(plain)) and tensor.digest == Tensor(plain).digest
        assert b"".join(tensor.chunks()) == plain.tobytes()


def test_what_is_no_tensor() -> None:
    with pytest.raises(TypeError, match="no ONNX element type"):
        Tensor(np.zeros(1, "datetime64[s]"))
    assert Tensor(np.array(["a"])).dtype is DataType.STRING
    assert Tensor(np.array([1.5]), DataType.INT8).numpy().dtype == np.int8
    assert Tensor(np.array(["abc", ""], object)).nbytes == 3
    assert repr(Tensor(np.zeros((2, 3), np.float16))) == "Tensor(f16[2, 3])"


def test_storage_that_is_too_short() -> None:
    for offset, size in ((0, 3), (1, 4), (-1, 8)):
        with pytest.raises(ModelError, match=rf"is too short: f32\[1\] needs 4 bytes at offset {offset}"):
            Tensor.mapped(DataType.FLOAT32, (1,), Storage(bytes(size)), offset)
    assert Tensor.mapped(DataType.INT4, (3,), Storage(bytes(2)), 0).nbytes == 2
    with pytest.raises(ModelError, match=r"i4\[5\] needs 3 bytes"):
        Tensor.mapped(DataType.INT4, (5,), Storage(bytes(2)), 0)


@pytest.mark.parametrize("size", [8, 1 << 17])
def test_a_file_that_changed_after_loading_is_refused(tmp_path: Path, size: int) -> None:
    """Numbers that were looked at stay what they were; new ones are never read from another file."""
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(size))
    storage = Storage(path)
    seen = Tensor.mapped(DataType.UINT8, (size,), storage, 0)
    assert seen.location() == (str(path), 0, size)
    kept = seen.numpy()
    storage.release()
    other = tmp_path / "other.bin"
    other.write_bytes(bytes([1]) * size)
    os.replace(other, path)
    with pytest.raises(ModelError, match="has changed since its weights were loaded"):
        b"".join(Tensor.mapped(DataType.UINT8, (size,), storage, 0).chunks())
    assert not kept.any()


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot read"):
        Storage(tmp_path / "none.bin")


def test_copying_appends_the_stored_bytes(tmp_path: Path) -> None:
    source, target = tmp_path / "source.bin", tmp_path / "target.bin"
    raw = np.random.default_rng(0).bytes(100_000)
    source.write_bytes(raw)
    with target.open("wb") as file:
        file.write(b"head")
        file.flush()
        Tensor.mapped(DataType.UINT8, (99_000,), Storage(source), 500).copy_to(file.fileno())
        Tensor(np.arange(3, dtype=np.int16)).copy_to(file.fileno())
    assert target.read_bytes() == b"head" + raw[500:99_500] + np.arange(3, dtype=np.int16).tobytes()
