"""Which files belong to a model, wherever in it they are named."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from secateur.ir.errors import ModelError
from secateur.ir.onnx_external import checksums, external_files


def outside(name: str, location: str) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """External data of an initializer, of a body's initializer, and of an attribute."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy"]
    body = helper.make_graph(
        [helper.make_node("Identity", ["b"], ["o"])], "body", [], [ends[1]], [outside("b", "b.bin")]
    )
    nodes = [
        helper.make_node("Constant", [], ["c"], value=outside("", "folder/c.bin")),
        helper.make_node("If", ["c"], ["i"], then_branch=body, else_branch=body),
        helper.make_node("Add", ["x", "a"], ["y"]),
    ]
    path = tmp_path / "model.onnx"
    proto = helper.make_model(helper.make_graph(nodes, "graph", ends[:1], ends[1:], [outside("a", "a.bin")]))
    path.write_bytes(proto.SerializeToString())
    (tmp_path / "folder").mkdir()
    for name in ("a.bin", "b.bin", "folder/c.bin"):
        (tmp_path / name).write_bytes(np.zeros(4, np.float32).tobytes() + name.encode())
    return path


def test_files_are_found_in_graph_bodies_and_attributes(model: Path) -> None:
    assert [path.relative_to(model.parent).as_posix() for path in external_files(model)] == [
        "a.bin",
        "b.bin",
        "folder/c.bin",
    ]


def test_checksums_are_those_of_the_bytes(model: Path) -> None:
    found = checksums(model)
    assert list(found) == ["model.onnx", "a.bin", "b.bin", "folder/c.bin"]
    for name, digest in found.items():
        assert digest == hashlib.sha256((model.parent / name).read_bytes()).hexdigest()


def test_a_model_without_external_data_is_one_file(tmp_path: Path) -> None:
    path = tmp_path / "plain.onnx"
    onnx.save(helper.make_model(helper.make_graph([], "empty", [], [])), path)
    assert external_files(path) == ()
    assert list(checksums(path)) == ["plain.onnx"]


def test_what_is_missing_or_no_model(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.bin").unlink()
    with pytest.raises(ModelError, match=r"a\.bin"):
        checksums(model)
    with pytest.raises(ModelError, match="none"):
        checksums(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no model at all, though it is long enough to be one")
    with pytest.raises(ModelError):
        external_files(tmp_path / "text.onnx")
