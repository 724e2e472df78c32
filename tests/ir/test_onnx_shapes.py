"""Types of values: onnx's inference, on a model whose weights are not read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import models
from helpers.onnxruntime_runs import session

from secateur.ir import DataType, Graph, Tensor, TensorType, Value
from secateur.ir.build import add_constant, add_input, emit
from secateur.ir.node import ConstantNode
from secateur.ir.onnx_read import load
from secateur.ir.onnx_shapes import infer, merge
from secateur.ir.onnx_write import to_bytes
from secateur.ir.types import SequenceType


def shape(types: dict[Value, Any], value: Value) -> Any:
    found = types.get(value)
    return found.shape if isinstance(found, TensorType) else found


def test_small_constants_resolve_and_large_weights_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Graph("net")
    x = add_input(graph, "x", ["batch", 6, 4])
    weight = graph.add_constant("w", Tensor(np.ones((4, 1000), np.float32)))
    wide = emit(graph, "MatMul", [x, weight]).output
    target = graph.add_value(Value("to", const=Tensor(np.array([0, 2, 3, -1])), node=ConstantNode()))
    split = emit(graph, "Reshape", [wide, target]).output
    size = emit(graph, "Shape", [split]).output
    back = emit(graph, "Reshape", [wide, size]).output
    graph.set_interface(outputs=[back])
    tensor = weight.const
    assert tensor is not None
    monkeypatch.setattr(type(tensor), "chunks", _only_small(type(tensor).chunks))
    types = infer(graph)
    assert shape(types, wide) == ("batch", 6, 1000)
    assert shape(types, split) == ("batch", 2, 3, 1000) == shape(types, back)
    assert shape(types, size) == (4,) and shape(types, weight) == (4, 1000)


def _only_small(original: Any) -> Any:
    def chunks(tensor: Tensor) -> Any:
        assert tensor.nbytes <= 1024, "a weight was read"
        return original(tensor)

    return chunks


def test_bodies_are_inferred_too() -> None:
    graph, branches = Graph("net"), []
    x = add_input(graph, "x", [3, "N"])
    graph.add_value(Value("unused", const=Tensor(np.ones(2)), node=ConstantNode()))
    for name in ("then", "else"):
        body = Graph(name, body=True)
        bias = add_constant(body, "bias", np.ones((3, 1), np.float32))
        body.set_interface(outputs=[emit(body, "Add", [emit(body, "Relu", [x]).output, bias]).output])
        branches.append(body)
    condition = add_input(graph, "c", [], DataType.BOOL)
    op = emit(graph, "If", [condition], {"then_branch": branches[0], "else_branch": branches[1]})
    graph.set_interface(outputs=[op.output])
    types = infer(graph)
    for body in branches:
        assert [shape(types, made.output) for made in body.ops()] == [(3, "N")] * 2
    assert shape(types, op.output) == (3, "N")


def test_an_unknown_op_is_a_boundary_and_not_the_end() -> None:
    graph = Graph("net")
    graph.header = graph.header.with_opset("mine", 1)
    x = add_input(graph, "x", [2, 3])
    unknown = emit(graph, "mine::Op", [x]).output
    declared = emit(graph, "mine::Op", [x]).output
    declared.type = TensorType(DataType.FLOAT16, (5, "K"))
    after, known = emit(graph, "Relu", [declared]).output, emit(graph, "Transpose", [x], {"perm": [1, 0]}).output
    graph.set_interface(outputs=[unknown, after, known])
    types = infer(graph)
    assert unknown not in types
    assert types[after] == TensorType(DataType.FLOAT16, (5, "K"))
    assert shape(types, known) == (3, 2)


def test_a_model_that_contradicts_itself_keeps_what_it_declares() -> None:
    graph = Graph("net")
    x, y = add_input(graph, "x", [2, 3]), add_input(graph, "y", [5, 7], DataType.INT64)
    made = emit(graph, "MatMul", [x, y]).output
    made.type = TensorType(DataType.FLOAT32, (1, 1))
    graph.set_interface(outputs=[made])
    assert infer(graph)[made] == made.type


@pytest.mark.parametrize(
    ("declared", "inferred", "expected"),
    [
        ((1, "N", None), (1, 7, 3), (1, 7, 3)),
        (("batch", "N"), ("unk__0", None), ("batch", "N")),
        ((None, 4), ("unk__0", "unk__1"), ("unk__0", 4)),
        (None, (1, 2), (1, 2)),
        ((1, 2), None, (1, 2)),
        ((1, 2), (1, 2, 3), (1, 2, 3)),
        (None, None, None),
    ],
)
def test_merging_keeps_the_more_exact_of_two_types(declared: Any, inferred: Any, expected: Any) -> None:
    kind = merge(TensorType(DataType.INT8, declared, "IMAGE"), TensorType(DataType.INT8, inferred))
    assert kind == TensorType(DataType.INT8, expected, "IMAGE")
    assert merge(None, TensorType(DataType.INT8, inferred)) == TensorType(DataType.INT8, inferred)
    sequence = SequenceType(TensorType(DataType.INT8))
    assert merge(TensorType(DataType.INT8, declared), sequence) == sequence


@pytest.mark.parametrize("name", ["vad", "ocr-classifier", "terrain"])
def test_real_models_are_known_throughout(name: str) -> None:
    graph = load(models.real_model(name))
    types = infer(graph)
    assert not [value for inner in graph.graphs() for value in inner.values() if value not in types]


def test_inference_agrees_with_running() -> None:
    """Oracle: every value of the light SqueezeNet, made an output, has the inferred shape when it is computed."""
    graph = models.filled(next(path for path in models.light_models() if "squeezenet" in path.name))
    types = infer(graph)
    values = [op.output for op in graph.ops()]
    graph.set_interface(outputs=values)
    runner = session(to_bytes(graph))
    feeds = {given.name: np.ones(given.shape, np.float32) for given in runner.get_inputs()}
    for value, computed in zip(values, runner.run(None, feeds), strict=True):
        assert types[value] == TensorType(DataType.of(computed.dtype), computed.shape)
