"""Tensors in and out, bit for bit, for every element type, wherever the numbers lie."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from secateur.ir import DataType, Tensor
from secateur.ir.errors import ModelError
from secateur.ir.onnx_read import from_bytes
from secateur.ir.onnx_tensors import Weights, describe
from secateur.ir.onnx_write import to_bytes

NUMERIC = [kind for kind in DataType if kind not in (DataType.UNDEFINED, DataType.STRING)]
SHAPES = [(), (0,), (1,), (3,), (5, 7), (2, 0, 3), (4, 1, 9)]


def codes(dtype: DataType, count: int) -> np.ndarray:
    """Every bit pattern that fits, then random ones: NaN payloads, infinities, negative zero."""
    random = np.random.default_rng(int(dtype))
    raw = random.integers(0, 256, count * dtype.numpy.itemsize, dtype=np.uint8)
    raw[: min(256, len(raw))] = np.arange(min(256, len(raw)), dtype=np.uint8)
    if dtype.bits < 8:
        raw &= (1 << dtype.bits) - 1
    if dtype is DataType.BOOL:
        raw &= 1
    return raw.view(dtype.numpy)


def bits(tensor: Tensor) -> bytes:
    raw = np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8)
    return bytes(raw & (1 << tensor.dtype.bits) - 1) if tensor.dtype.bits < 8 else raw.tobytes()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", NUMERIC, ids=lambda dtype: dtype.short)
def test_raw_data_is_read_and_written_bit_for_bit(dtype: DataType, shape: tuple[int, ...]) -> None:
    array = codes(dtype, int(np.prod(shape))).reshape(shape)
    proto = numpy_helper.from_array(array, "weight")
    tensor = Weights().read(proto, "the test")
    assert (tensor.dtype, tensor.shape) == (dtype, shape)
    assert bits(tensor) == bits(Tensor(array, dtype))
    written = describe(tensor, "weight")
    written.raw_data = b"".join(tensor.chunks())
    assert written == proto


@pytest.mark.parametrize("dtype", NUMERIC, ids=lambda dtype: dtype.short)
def test_typed_fields_are_read_bit_for_bit(dtype: DataType) -> None:
    array = codes(dtype, 300)
    proto = TensorProto(name="weight", data_type=int(dtype), dims=[300])
    width = dtype.numpy.itemsize
    if dtype in (DataType.FLOAT32, DataType.COMPLEX64):
        if dtype is DataType.FLOAT32:
            array = np.where(np.isnan(array), np.float32(np.nan), array)  # protobuf itself may quieten a NaN
        else:
            array = np.random.default_rng(0).standard_normal((300, 2)).astype(np.float32).view(np.complex64)[:, 0]
        proto.float_data.extend(array.view(np.float32).tolist())
    elif dtype in (DataType.FLOAT64, DataType.COMPLEX128):
        proto.double_data.extend(array.view(np.float64).tolist())
    elif dtype is DataType.INT64:
        proto.int64_data.extend(array.tolist())
    elif dtype in (DataType.UINT32, DataType.UINT64):
        proto.uint64_data.extend(array.tolist())
    elif dtype.bits in (2, 4):
        proto.int32_data.extend(numpy_helper.from_array(array).raw_data)
    else:
        proto.int32_data.extend(array.view(f"i{width}" if dtype is DataType.INT32 else f"u{width}").tolist())
    assert bits(Weights().read(proto, "the test")) == bits(Tensor(array, dtype))


def test_narrow_signed_numbers_may_be_stored_signed() -> None:
    proto = TensorProto(data_type=TensorProto.INT8, dims=[3], int32_data=[-1, -128, 127])
    assert Weights().read(proto, "the test").numpy().tolist() == [-1, -128, 127]


def test_strings_keep_bytes_that_are_no_text() -> None:
    proto = TensorProto(data_type=TensorProto.STRING, dims=[2, 2], string_data=[b"a", b"", "ä".encode(), b"\xff\x00"])
    tensor = Weights().read(proto, "the test")
    assert tensor.shape == (2, 2)
    assert describe(tensor) == proto


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"data_type": 1, "dims": [3], "raw_data": b"12345"}, "takes 12 bytes, found 5"),
        ({"data_type": 1, "dims": [3], "float_data": [1.0]}, "3 stored numbers"),
        ({"data_type": 1, "dims": [3]}, "3 stored numbers"),
        ({"data_type": 22, "dims": [3], "raw_data": b"123"}, "takes 2 bytes, found 3"),
        ({"data_type": 1, "dims": [-1], "raw_data": b""}, "cannot have the shape"),
        ({"data_type": 1, "dims": [1] * 65, "raw_data": b"1234"}, "cannot have the shape"),
        ({"data_type": 1, "dims": [2**62, 2**62], "raw_data": b"1234"}, "larger than any memory"),
        ({"data_type": 1, "dims": [0, 2**62, 8], "raw_data": b""}, "larger than any memory"),
        ({"data_type": 0, "dims": [1], "raw_data": b"1"}, "no element type"),
        ({"data_type": 99, "dims": [1], "raw_data": b"1"}, "element type 99"),
        ({"data_type": 8, "dims": [2], "string_data": [b"a"]}, "2 stored numbers"),
        ({"data_type": 1, "dims": [1], "segment": TensorProto.Segment(begin=0, end=1)}, "segment"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        Weights().read(TensorProto(name="kernel", **fields), "graph 'net'")
    assert "kernel" in str(caught.value)


# ---- sparse ----------------------------------------------------------------------------------------------------------


def sparse_model(indices: np.ndarray, dims: list[int], values: np.ndarray) -> bytes:
    sparse = onnx.SparseTensorProto(
        values=numpy_helper.from_array(values, "w"), indices=numpy_helper.from_array(indices), dims=dims
    )
    graph = onnx.GraphProto(name="g", sparse_initializer=[sparse], output=[onnx.ValueInfoProto(name="w")])
    return onnx.ModelProto(ir_version=10, graph=graph).SerializeToString()


@pytest.mark.parametrize("linear", [True, False])
def test_sparse_initializers_become_dense(linear: bool) -> None:
    values = np.array([5, 6, 7], np.float16)
    indices = np.array([1, 3, 11]) if linear else np.array([[0, 1], [0, 3], [2, 3]])
    tensor = from_bytes(sparse_model(indices, [3, 4], values))["w"].const
    dense = np.zeros(12, np.float16)
    dense[[1, 3, 11]] = values
    assert tensor is not None and np.array_equal(tensor.numpy(), dense.reshape(3, 4))


@pytest.mark.parametrize(
    ("indices", "dims", "said"),
    [
        ([12], [3, 4], "outside its shape"),
        ([-1], [3, 4], "outside its shape"),
        ([[0, 4]], [3, 4], "outside its shape"),
        ([0, 1], [3, 4], "needs indices"),
        ([0], [2**20, 2**20], "1 GiB"),
    ],
)
def test_bad_sparse_tensors_are_refused(indices: list[int], dims: list[int], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        from_bytes(sparse_model(np.array(indices), dims, np.ones(1, np.float32)))


# ---- external data ---------------------------------------------------------------------------------------------------


def external(folder: Path, **entries: object) -> onnx.ModelProto:
    """A model with one initializer float32[4] in a file of 64 bytes, 16 of them its own, at offset 16."""
    (folder / "data.bin").write_bytes(np.arange(16, dtype=np.float32).tobytes())
    tensor = TensorProto(name="kernel", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in ({"location": "data.bin", "offset": 16, "length": 16} | entries).items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    graph = onnx.GraphProto(name="net", initializer=[tensor], output=[onnx.ValueInfoProto(name="kernel")])
    return onnx.ModelProto(ir_version=10, graph=graph)


@pytest.mark.parametrize(("entries", "first"), [({}, 4), ({"offset": None}, 0), ({"length": None, "offset": 48}, 12)])
def test_external_data_is_found(tmp_path: Path, entries: dict[str, object], first: int) -> None:
    graph = from_bytes(external(tmp_path, **entries).SerializeToString(), tmp_path)
    tensor = graph["kernel"].const
    assert tensor is not None and tensor.is_mapped
    assert tensor.numpy().tolist() == list(range(first, first + 4))


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"location": "../data.bin"}, "inside the model's folder"),
        ({"location": "a/../../data.bin"}, "inside the model's folder"),
        ({"location": "/etc/passwd"}, "inside the model's folder"),
        ({"location": ""}, "inside the model's folder"),
        ({"location": None}, "inside the model's folder"),
        ({"location": "."}, "inside the model's folder"),
        ({"location": "other.bin"}, "No such file"),
        ({"location": "folder"}, "no regular file"),
        ({"location": "pipe"}, "no regular file"),
        ({"location": "nul\0byte"}, "null byte"),
        ({"length": 12}, "takes 16 bytes, found 12"),
        ({"length": "many"}, "whole number"),
        ({"offset": -4}, "whole number"),
        ({"offset": "9" * 40}, "whole number"),
        ({"offset": 52}, "needs 16 bytes from offset 52, but the file has 64 bytes"),
        ({"offset": 2**62}, "but the file has 64 bytes"),
    ],
)
def test_bad_external_data_names_tensor_and_file(tmp_path: Path, entries: dict[str, object], said: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelError, match=said) as caught:
        from_bytes(external(tmp_path, **entries).SerializeToString(), tmp_path)
    assert "kernel" in str(caught.value)


def test_external_data_without_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="folder is not known"):
        from_bytes(external(tmp_path).SerializeToString())


def test_a_file_that_changes_after_loading_is_never_read(tmp_path: Path) -> None:
    graph = from_bytes(external(tmp_path).SerializeToString(), tmp_path)
    (tmp_path / "data.bin").write_bytes(bytes(64))
    os.utime(tmp_path / "data.bin", ns=(1, 1))
    with pytest.raises(ModelError, match="has changed"):
        to_bytes(graph)


def test_hundreds_of_files_need_few_descriptors(tmp_path: Path) -> None:
    graph = onnx.GraphProto(name="net")
    for number in range(300):
        tensor = graph.initializer.add(name=f"w{number}", data_type=1, dims=[2], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=f"w{number}")
        (tmp_path / f"w{number}").write_bytes(np.float32([number, 0]).tobytes())
        graph.output.add(name=f"w{number}")
    before = len(os.listdir("/proc/self/fd"))
    loaded = from_bytes(onnx.ModelProto(ir_version=10, graph=graph).SerializeToString(), tmp_path)
    numbers = [value.const.numpy()[0] for value in loaded.constants() if value.const is not None]
    assert numbers == list(range(300))
    assert len(os.listdir("/proc/self/fd")) - before <= 64
    del loaded, numbers
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before
