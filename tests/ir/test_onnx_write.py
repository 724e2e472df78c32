"""Writing: inside the model or beside it, over itself, the same bytes every time, little memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from secateur.ir import DataType, FunctionKey, Graph, Header, Tensor, TensorType, Value, onnx_write
from secateur.ir.build import add_constant, add_input, emit
from secateur.ir.errors import ModelError, OutputError
from secateur.ir.node import ConstantNode
from secateur.ir.onnx_read import from_bytes, load
from secateur.ir.onnx_write import detached, save, to_bytes
from secateur.ir.storage import Storage


def chain(sizes: tuple[int, ...] = (100, 300, 1 << 19, 700)) -> Graph:
    """x + w0 + w1 + ...: vectors of these sizes, reduced to one number each."""
    graph = Graph("chain")
    value = add_input(graph, "x", [1])
    for number, size in enumerate(sizes):
        weight = add_constant(graph, f"w{number}", np.arange(number, number + size, dtype=np.float32))
        total = emit(graph, "ReduceSum", [weight], {"keepdims": 1}).output
        value = emit(graph, "Add", [value, total]).output
    value.type = TensorType(DataType.FLOAT32, (1,))
    graph.set_interface(outputs=[value])
    return graph


def numbers(graph: Graph) -> dict[str, list[float]]:
    return {value.name: value.const.numpy().ravel().tolist() for value in graph.constants() if value.const is not None}


def externals(path: Path) -> dict[str, dict[str, str]]:
    proto = onnx.load(path, load_external_data=False)
    found = [tensor for tensor in proto.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]
    return {tensor.name: {entry.key: entry.value for entry in tensor.external_data} for tensor in found}


def test_external_data_lies_aligned_beside_the_model(tmp_path: Path) -> None:
    graph, path = chain(), tmp_path / "net.onnx"
    save(graph, path, external_data=True)
    assert sorted(os.listdir(tmp_path)) == ["net.onnx", "net.onnx.data"]
    found = externals(path)
    assert sorted(found) == ["w1", "w2", "w3"]  # w0 is too small to be worth it
    assert {entry["location"] for entry in found.values()} == {"net.onnx.data"}
    assert [int(found[name]["offset"]) for name in ("w1", "w2", "w3")] == [0, 4096, 4096 + (1 << 21)]
    assert path.with_name("net.onnx.data").stat().st_size == 4096 + (1 << 21) + 2800
    onnx.checker.check_model(str(path), full_check=True)
    assert numbers(load(path)) == numbers(graph)
    assert to_bytes(load(path)) == to_bytes(graph)


def test_without_being_asked_the_weights_stay_in_the_model_up_to_a_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, path = chain(), tmp_path / "net.onnx"
    save(graph, path)
    assert os.listdir(tmp_path) == ["net.onnx"]
    assert path.read_bytes() == to_bytes(graph)
    monkeypatch.setattr(onnx_write, "_COMFORTABLE", 1 << 20)
    save(graph, path)
    assert sorted(externals(path)) == ["w1", "w2", "w3"]


def test_two_exports_give_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        save(chain(), tmp_path / folder / "net.onnx", external_data=True)
    for name in ("net.onnx", "net.onnx.data"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_tensor_that_several_constants_share_is_stored_once(tmp_path: Path) -> None:
    graph, tensor = Graph("tied"), Tensor(np.ones(1000, np.float32))
    shared = [graph.add_constant(name, tensor) for name in ("a", "b")]
    graph.set_interface(outputs=[emit(graph, "Add", shared).output])
    save(graph, tmp_path / "net.onnx", external_data=True)
    found = externals(tmp_path / "net.onnx")
    assert found["a"] == found["b"] and (tmp_path / "net.onnx.data").stat().st_size == 4000
    save(load(tmp_path / "net.onnx"), tmp_path / "again.onnx", external_data=True)
    assert (tmp_path / "again.onnx.data").stat().st_size == 4000


@pytest.mark.parametrize("external", [True, False], ids=["external", "inline"])
@pytest.mark.parametrize("was_external", [True, False], ids=["from external", "from inline"])
def test_a_model_can_be_saved_over_itself(tmp_path: Path, was_external: bool, external: bool) -> None:
    path = tmp_path / "net.onnx"
    save(chain(), path, external_data=was_external)
    expected, graph = numbers(chain()), load(path)
    changed = graph["w2"]
    changed.set_const(Tensor(np.full(3000, 7, np.float32)))
    expected["w2"] = [7.0] * 3000
    for _ in range(3):
        save(graph, path, external_data=external)
        assert numbers(graph) == expected
        assert numbers(load(path)) == expected


def test_a_model_whose_files_are_gone_can_still_be_saved(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    save(chain(), path, external_data=True)
    graph = load(path)
    for file in (path, tmp_path / "net.onnx.data"):
        file.unlink()
    save(graph, path, external_data=True)
    assert numbers(load(path)) == numbers(chain())


def test_bodies_and_constant_nodes_go_outside_too(tmp_path: Path) -> None:
    outer, body = Graph("outer"), Graph("body", body=True)
    for graph in (outer, body):
        weight = Value(f"w_{graph.name}", const=Tensor(np.arange(2000.0)), node=ConstantNode("made"))
        graph.add_value(weight)
        bias = add_constant(graph, f"b_{graph.name}", np.arange(2000.0))
        graph.set_interface(outputs=[emit(graph, "Add", [weight, bias], outputs=[f"y_{graph.name}"]).output])
    condition = add_constant(outer, "c", np.array(True))
    other = body.clone()
    made = emit(outer, "If", [condition], {"then_branch": body, "else_branch": other})
    outer.set_interface(outputs=[made.output, *outer.outputs])
    save(outer, tmp_path / "net.onnx", external_data=True)
    assert (tmp_path / "net.onnx").stat().st_size < 4000
    assert (tmp_path / "net.onnx.data").stat().st_size >= 4 * 16000
    back = load(tmp_path / "net.onnx")
    assert to_bytes(back) == to_bytes(outer)
    assert {value.name: value.node for value in back.constants()}["w_outer"] == ConstantNode("made")


def test_functions_keep_their_constants(tmp_path: Path) -> None:
    graph, function = Graph("net", header=Header(opsets=(("", 20), ("my", 1)))), Graph("Add1")
    given = add_input(function, "a", [])
    bias = add_constant(function, "one", np.ones(2000, np.float32))
    function.set_interface(outputs=[emit(function, "Add", [given, bias]).output])
    graph.functions[FunctionKey("my", "Add1")] = function
    made = emit(graph, "my::Add1", [add_input(graph, "x", [2000])]).output
    made.type = TensorType(DataType.FLOAT32, (2000,))
    graph.set_interface(outputs=[made])
    graph.verify()
    save(graph, tmp_path / "net.onnx", external_data=True)
    onnx.checker.check_model(str(tmp_path / "net.onnx"))
    loaded = load(tmp_path / "net.onnx")
    assert numbers(loaded.functions[FunctionKey("my", "Add1")]) == {"one": [1.0] * 2000}
    assert to_bytes(from_bytes(to_bytes(loaded))) == to_bytes(loaded)


def test_detached_leaves_large_initializers_out() -> None:
    graph = chain()
    graph.add_value(Value("node", const=Tensor(np.ones(1000)), node=ConstantNode()))
    content, tensors = detached(graph)
    assert list(tensors) == ["w1", "w2", "w3", "node"] and tensors["w2"] is graph["w2"].const
    proto = onnx.ModelProto.FromString(content)
    inside = {tensor.name: tensor for tensor in proto.graph.initializer}
    assert inside["w0"].raw_data and not inside["w2"].raw_data
    assert [(entry.key, entry.value) for entry in inside["w2"].external_data] == [("location", "detached")]
    assert len(content) < 4000
    content, tensors = detached(graph, threshold=1 << 30)
    assert tensors == {} and sorted(numbers(from_bytes(content))) == ["node", "w0", "w1", "w2", "w3"]


def huge(tmp_path: Path, size: int = 3 << 30) -> Graph:
    """A graph with a weight of 3 GiB that takes no room on the disk."""
    with (tmp_path / "weights").open("wb") as file:
        file.truncate(size)
    tensor = Tensor.mapped(DataType.UINT8, (size,), Storage(tmp_path / "weights"), 0)
    graph = Graph("huge")
    graph.set_interface(outputs=[emit(graph, "Neg", [graph.add_constant("w", tensor)]).output])
    return graph


def test_more_than_protobuf_allows_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    graph = huge(tmp_path)
    for attempt in (lambda: to_bytes(graph), lambda: save(graph, tmp_path / "net.onnx", external_data=False)):
        with pytest.raises(OutputError, match=r"protobuf allows.*\n.*external_data"):
            attempt()
    content, tensors = detached(graph)
    assert len(content) < 1000 and list(tensors) == ["w"]
    assert os.listdir(tmp_path) == ["weights"]


def test_a_failed_save_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    save(chain(), path, external_data=True)
    graph, before = load(path), {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    (tmp_path / "copy").write_bytes(before["net.onnx.data"])
    os.replace(tmp_path / "copy", tmp_path / "net.onnx.data")
    os.utime(tmp_path / "net.onnx.data", ns=(1, 1))
    for value in graph.constants():
        if value.const is not None and value.const.storage is not None:
            value.const.storage.release()
    with pytest.raises(ModelError, match="has changed"):
        save(graph, path, external_data=True)
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


def test_a_folder_that_does_not_exist_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="not a folder"):
        save(chain(), tmp_path / "nowhere" / "net.onnx")


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards, since pytest would keep hundreds of megabytes."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel does not say how much is resident")
@pytest.mark.parametrize("external", [True, False], ids=["external", "inline"])
def test_loading_verifying_and_saving_keeps_nothing_resident(scratch: Path, external: bool) -> None:
    graph = Graph("wide")
    block = Tensor(np.ones(1 << 24, np.float32))
    for number in range(4):
        graph.add_constant(f"w{number}", Tensor(block.numpy().reshape(-1)) if number % 2 else block)
    graph.set_interface(outputs=list(graph.constants()))
    save(graph, scratch / "net.onnx", external_data=external)
    script = """
import sys
from secateur.ir.onnx_read import load
from secateur.ir.build import add_input
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
graph = load(sys.argv[1])
graph.verify()
graph.save(sys.argv[2], external_data=sys.argv[3] == "True")
print(peak() - before)
"""
    command = [sys.executable, "-c", script, str(scratch / "net.onnx"), str(scratch / "out.onnx"), str(external)]
    kilobytes = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert kilobytes < 24 << 10, f"256 MiB of weights took {kilobytes} KiB"
