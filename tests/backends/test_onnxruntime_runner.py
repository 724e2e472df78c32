"""The onnxruntime runner: every value of every graph, any part of it, all element types, and errors one can act on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from helpers.graphs import random_feeds, tiny_graphs
from onnx.reference import ReferenceEvaluator

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.ir import DataType, Graph, Header, Tensor, TensorType, Value
from secateur.ir.build import add_constant, add_input, emit
from secateur.ir.errors import BackendError, DataError, GraphError
from secateur.ir.node import ConstantNode
from secateur.ir.onnx_write import to_bytes
from secateur.ir.storage import Storage

_NAMES = sorted(tiny_graphs())


def inner_names(graph: Graph) -> list[str]:
    return [value.name for op in graph.ops() for value in op.outputs if value is not None]


def run(graph: Graph, feeds: dict[str, Any], **options: Any) -> dict[str, Any]:
    with OnnxRuntimeRunner(graph, **options) as runner:
        return runner.run(feeds)


# onnx's evaluator knows no default attributes of functions.
@pytest.mark.parametrize("name", [name for name in _NAMES if name != "function_call"])
def test_it_computes_what_the_reference_evaluator_does(name: str) -> None:
    graph = tiny_graphs()[name]()
    feeds = random_feeds(graph)
    expected = ReferenceEvaluator(to_bytes(graph)).run(None, dict(feeds))
    outputs = run(graph, feeds)
    assert list(outputs) == [value.name for value in graph.outputs]
    for found, wanted in zip(outputs.values(), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", _NAMES)
def test_any_value_may_be_fetched_and_any_part_run_with_the_same_bits(name: str) -> None:
    graph = tiny_graphs()[name]()
    feeds, names = random_feeds(graph), inner_names(graph)
    outputs = [value.name for value in graph.outputs]
    everything = run(graph, feeds, outputs=[*names, *outputs], optimize=False)
    for value in names:
        found = run(graph, {**feeds, value: everything[value]}, inputs=[*feeds, value], outputs=outputs, optimize=False)
        for output in outputs:
            np.testing.assert_array_equal(found[output], everything[output])


def mlp(dtype: Any = np.float32, width: int = 64) -> Graph:
    """Two layers whose weights are too large to stay in the model bytes."""
    random = np.random.default_rng(0)
    graph = Graph("mlp", header=Header(opsets=(("", 21),)))
    value = add_input(graph, "x", ("batch", width))
    for index in range(2):
        weight = add_constant(graph, f"w{index}", random.integers(0, 7, (width, width)).astype(dtype))
        if weight.const is not None and weight.const.dtype is not DataType.FLOAT32:
            weight = emit(graph, "Cast", [weight], {"to": 1}, outputs=(f"cast{index}",)).output
        value = emit(graph, "MatMul", [value, weight], outputs=(f"y{index}",)).output
    graph.set_interface(outputs=[value])
    return graph


_NARROW = ["bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "int4", "uint4"]


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "uint16", "int32", "bool", *_NARROW])
def test_weights_of_every_type_are_handed_over(dtype: str) -> None:
    kind = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    graph = mlp(kind)
    x = np.eye(64, dtype=np.float32)
    weights = [graph[f"w{index}"].const.numpy().astype(np.float32) for index in range(2)]  # type: ignore[union-attr]
    np.testing.assert_array_equal(run(graph, {"x": x})["y1"], weights[0] @ weights[1])


@pytest.mark.parametrize("dtype", ["float16", "float32", *_NARROW])
def test_values_of_narrow_types_are_fed_and_fetched(dtype: str) -> None:
    kind = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    graph = Graph("casts", header=Header(opsets=(("", 21),)))
    x = add_input(graph, "x", (3, 5), DataType.of(kind))
    wide = emit(graph, "Cast", [x], {"to": 1}, outputs=("wide",)).output
    back = emit(graph, "Cast", [wide], {"to": int(DataType.of(kind))}, outputs=("back",)).output
    graph.set_interface(outputs=[wide, back])
    fed = np.arange(15).reshape(3, 5).astype(kind)
    for feed in (fed, np.asfortranarray(fed)):
        found = run(graph, {"x": feed})
        assert found["back"].dtype == kind
        np.testing.assert_array_equal(found["back"].view(np.uint8), fed.view(np.uint8))
        np.testing.assert_array_equal(found["wide"], fed.astype(np.float32))


@pytest.mark.parametrize("offset", [0, 1, 6])
def test_weights_may_lie_misaligned_in_their_file(tmp_path: Path, offset: int) -> None:
    graph = mlp()
    expected = run(graph, {"x": np.eye(64, dtype=np.float32)})["y1"]
    path = tmp_path / "weights.bin"
    arrays = [graph[f"w{index}"].const.numpy() for index in range(2)]  # type: ignore[union-attr]
    path.write_bytes(bytes(offset) + b"".join(array.tobytes() for array in arrays))
    storage = Storage(path)
    for index, array in enumerate(arrays):
        tensor = Tensor.mapped(DataType.FLOAT32, array.shape, storage, offset + index * array.nbytes)
        graph[f"w{index}"].set_const(tensor)
    np.testing.assert_array_equal(run(graph, {"x": np.eye(64, dtype=np.float32)})["y1"], expected)


def test_large_constant_nodes_are_handed_over_too() -> None:
    graph = mlp()
    expected = run(graph, {"x": np.eye(64, dtype=np.float32)})["y1"]
    graph["w0"].node = ConstantNode("/w0")
    np.testing.assert_array_equal(run(graph, {"x": np.eye(64, dtype=np.float32)})["y1"], expected)
    assert graph["w0"].node is not None


@pytest.mark.slow
def test_a_model_beyond_what_protobuf_holds_runs(tmp_path: Path) -> None:
    width, layers = 8192, 9  # 2.4 GB of float32
    path = tmp_path / "weights.bin"
    with path.open("wb") as stream:
        stream.truncate(4 * width * width * layers)
        for layer in range(layers):
            stream.seek(4 * width * width * layer)
            stream.write(np.float32(2).tobytes())
    storage = Storage(path)
    graph = Graph("large")
    value = add_input(graph, "x", (1, width))
    for layer in range(layers):
        offset = 4 * width * width * layer
        tensor = Tensor.mapped(DataType.FLOAT32, (width, width), storage, offset)
        value = emit(graph, "MatMul", [value, graph.add_constant(f"w{layer}", tensor)]).output
    graph.set_interface(outputs=[value])
    (found,) = run(graph, {"x": np.ones((1, width), np.float32)}).values()
    assert found[0, 0] == 2**layers and not found[0, 1:].any()


def test_cut_values_take_any_size_and_their_type_from_the_first_feed_where_none_is_known() -> None:
    graph = mlp()
    graph["y0"].type = TensorType(DataType.FLOAT32, (1, 64))  # what an exporter noted of its one sample
    y0 = np.ones((5, 64), np.float32)
    sized = run(graph, {"y0": y0}, inputs=["y0"])["y1"]
    graph["y0"].type = None
    np.testing.assert_array_equal(run(graph, {"y0": y0}, inputs=["y0"])["y1"], sized)
    assert sized.shape == (5, 64)


def test_an_input_with_a_default_may_be_left_out() -> None:
    graph = tiny_graphs()["overridable_input"]()
    feeds = random_feeds(graph)
    plain, doubled = run(graph, feeds), run(graph, {**feeds, "gain": 2 * graph["gain"].const.numpy()})  # type: ignore[union-attr]
    (name,) = plain
    np.testing.assert_allclose(doubled[name], 2 * plain[name], rtol=1e-6)


def test_runs_repeat_bit_for_bit_whatever_the_threads() -> None:
    graph, x = mlp(), np.random.default_rng(1).standard_normal((33, 64), dtype=np.float32)
    for threads in (1, 2):
        with OnnxRuntimeRunner(graph, threads=threads) as runner:
            assert runner.input_names == ("x",) and runner.output_names == ("y1",)
            first, *others = (runner.run({"x": x}) for _ in range(3))
        again = run(graph, {"x": x}, threads=threads)
        for other in (*others, again):
            np.testing.assert_array_equal(other["y1"], first["y1"])


def test_nothing_asked_for_is_nothing_fetched() -> None:
    assert run(mlp(), {"x": np.ones((1, 64), np.float32)}, outputs=[]) == {}


def test_sequences_are_fetched_beside_tensors_but_not_beside_narrow_types() -> None:
    graph = Graph("g")
    x = add_input(graph, "x", (2, 3))
    parts = emit(graph, "SplitToSequence", [x], {"axis": 0}, outputs=("parts",)).output
    narrow = emit(graph, "Cast", [x], {"to": int(DataType.BFLOAT16)}, outputs=("narrow",)).output
    graph.set_interface(outputs=[parts, narrow])
    feed = np.ones((2, 3), np.float32)
    assert len(run(graph, {"x": feed}, outputs=["parts"])["parts"]) == 2
    with pytest.raises(BackendError, match="'parts' is a seq"):
        run(graph, {"x": feed})


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "the feeds lack x; expected x"),
        ({"x": np.ones((2, 64), np.float32), "z": np.ones(1)}, "have z, which is no input; expected x"),
        ({"x": np.ones((2, 64))}, r"'x' takes f32\[batch, 64\], got float64\[2, 64\]"),
        ({"x": np.ones(64, np.float32)}, r"'x' takes f32\[batch, 64\], got float32\[64\]"),
        ({"x": np.ones((2, 63), np.float32)}, r"'x' takes f32\[batch, 64\], got float32\[2, 63\]"),
    ],
)
def test_feeds_that_do_not_fit_are_refused(feeds: dict[str, Any], message: str) -> None:
    with OnnxRuntimeRunner(mlp()) as runner, pytest.raises(DataError, match=message) as caught:
        runner.run(feeds)
    assert caught.value.hint


def broken(op_type: str, *constants: Any, **attributes: Any) -> Graph:
    graph = mlp()
    inputs: list[Value] = [graph["y1"], *(add_constant(graph, f"c{i}", array) for i, array in enumerate(constants))]
    graph.set_interface(outputs=[emit(graph, op_type, inputs, attributes, outputs=("bad",)).output])
    return graph


def test_an_op_that_is_unknown_is_named() -> None:
    with pytest.raises(BackendError, match=r"cannot prepare Nonsense .*bad.*No Op registered for Nonsense") as caught:
        run(broken("Nonsense"), {})
    assert "no CPU kernel" in (caught.value.hint or "")
    graph = broken("their.own::Nonsense")
    graph.header = graph.header.with_opset("their.own", 1)
    with pytest.raises(BackendError, match=r"cannot prepare their\.own::Nonsense .*bad.*not a registered function"):
        run(graph, {})


def test_an_op_without_a_kernel_for_its_types_is_named() -> None:
    graph = broken("Cast", to=int(DataType.BFLOAT16))
    graph.set_interface(outputs=[emit(graph, "Conv", [graph["bad"], graph["bad"]], outputs=("worse",)).output])
    with pytest.raises(BackendError, match=r"cannot prepare Conv .*worse") as caught:
        run(graph, {})
    assert len(str(caught.value)) < 400


def test_an_op_whose_shapes_do_not_fit_is_named_before_and_while_it_runs(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BackendError, match=r"cannot prepare MatMul .*bad.*Incompatible dimensions"):
        run(broken("MatMul", np.ones((63, 2), np.float32)), {})
    graph = broken("Reshape", np.array([-1, 7]))
    graph.producer(graph["bad"]).name = "/wrong/Reshape"  # type: ignore[union-attr]
    with pytest.raises(BackendError, match=r"cannot run Reshape '/wrong/Reshape': .*cannot be reshaped") as caught:
        run(graph, {"x": np.ones((2, 64), np.float32)})
    assert "onnxruntime_src" not in str(caught.value) and len(caught.value.message) < 400
    captured = capfd.readouterr()
    assert not captured.out and not captured.err


def test_a_model_that_is_too_new_says_so() -> None:
    graph = mlp()
    graph.header = graph.header.with_opset("", 99)
    with pytest.raises(BackendError, match="Opset 99 is under development") as caught:
        run(graph, {})
    assert "pip install -U onnxruntime" in (caught.value.hint or "")


def test_without_onnxruntime_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendError, match="onnxruntime is needed") as caught:
        run(mlp(), {})
    assert caught.value.hint == "pip install 'secateur[run]'"


def test_what_is_wrong_with_the_call_shows_before_anything_is_loaded() -> None:
    with pytest.raises(GraphError, match="no value 'nobody'"):
        OnnxRuntimeRunner(mlp(), outputs=["nobody"])
    with pytest.raises(ValueError, match="threads"):
        OnnxRuntimeRunner(mlp(), threads=0)
    with pytest.raises(RuntimeError, match="inside `with`"):
        OnnxRuntimeRunner(mlp()).run({"x": np.ones((1, 64), np.float32)})
