"""Stripping a serialized model of its weights: nothing else changes, and nothing else is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from secateur.ir.errors import ModelError
from secateur.ir.storage import Storage
from secateur.ir.wire import THRESHOLD, placeholder, strip, varint

MARK = b"0123456789abcdef"


def tensor(size: int, seed: int = 0) -> onnx.TensorProto:
    return numpy_helper.from_array(np.random.default_rng(seed).integers(0, 256, size, np.uint8), f"t{size}")


def model_with_weights_everywhere(sizes: list[int]) -> onnx.ModelProto:
    """Initializers, sparse ones, attributes of every kind, bodies in bodies, functions."""
    graph = helper.make_graph([], "leaf", [], [])
    for size in sizes:
        sparse = onnx.SparseTensorProto(values=tensor(size), indices=tensor(size, 1), dims=[size])
        node = helper.make_node("Any", ["x"] * (size % 7), ["y"], domain="any", t=tensor(size), many=[tensor(size)] * 2,
                                g=graph, graphs=[graph], s=sparse, several=[sparse], text="z" * size)  # fmt: skip
        graph = helper.make_graph([node], "g" * size, [], [], [tensor(size)], sparse_initializer=[sparse])
    function = helper.make_function("f", "F", [], [], list(graph.node), [helper.make_opsetid("", 20)])
    function.attribute_proto.append(helper.make_attribute("default", tensor(max(sizes, default=0))))
    return helper.make_model(graph, functions=[function])


def fill(message: Any, content: bytes) -> int:
    """Puts the bytes back where placeholders are; returns how many there were."""
    count = 0
    for field, value in message.ListFields():
        if field.message_type is not None:
            count += sum(fill(item, content) for item in (value if field.is_repeated else [value]))
        elif field.name == "raw_data" and (place := placeholder(value, MARK)) is not None:
            message.raw_data = content[place[0] : sum(place)]
            count += 1
    return count


@given(st.lists(st.one_of(st.integers(0, 50), st.integers(2000, 2100), st.integers(10_000, 100_000)), max_size=3))
def test_stripping_takes_the_large_weights_and_nothing_else(sizes: list[int]) -> None:
    model = model_with_weights_everywhere(sizes)
    content = model.SerializeToString()
    stripped = strip(Storage(content), MARK)
    back = onnx.ModelProto.FromString(stripped)
    found = fill(back, content)
    assert back == model
    assert (found > 0) == any(size > THRESHOLD for size in sizes)


def test_a_file_is_stripped_as_bytes_are(tmp_path: Path) -> None:
    content = model_with_weights_everywhere([100_000, 2000]).SerializeToString()
    (tmp_path / "model.onnx").write_bytes(content)
    assert strip(Storage(tmp_path / "model.onnx"), MARK) == strip(Storage(content), MARK)


def test_weights_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = helper.make_model(helper.make_graph([], "g", [], [], [tensor(5_000_000, seed) for seed in range(4)]))
    onnx.save(model, tmp_path / "model.onnx")
    storage, read = Storage(tmp_path / "model.onnx"), []
    original = Storage.read
    monkeypatch.setattr(Storage, "read", lambda self, start, size: read.append(size) or original(self, start, size))
    assert len(strip(storage, MARK)) < 400
    assert sum(read) < 600_000 < storage.size


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 2**32, 2**63 - 1])
def test_varint_writes_what_protobuf_reads(number: int) -> None:
    assert onnx.ModelProto.FromString(b"\x28" + varint(number)).model_version == number


@pytest.mark.parametrize(
    "content",
    [
        b"\x3a\xff\xff\xff\x7f",  # a graph that would be longer than the file
        b"\x3a" + b"\xff" * 12,  # a length that never ends
        b"\x0f\x00",  # wire type 7
        b"\x3a",  # nothing after the key
        b"\x09\x00",  # eight bytes, of which there is one
        b"\x3a\x84\x10\x2a\x90\x10" + bytes(2052),  # an initializer longer than its graph
    ],
)
def test_what_is_no_message_is_refused(content: bytes) -> None:
    with pytest.raises(ModelError, match="no ONNX model"):
        strip(Storage(content), MARK)


def test_nesting_has_an_end() -> None:
    content = b"\x4a\x80\x20" + bytes(4096)
    for level in range(3000):
        content = (b"\x0a", b"\x2a", b"\x32")[level % 3] + varint(len(content)) + content
    content = b"\x3a" + varint(len(content)) + content
    assert strip(Storage(content), MARK) == content
