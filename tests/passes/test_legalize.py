"""`legalize` changes no bit, and TensorRT takes what it did not take before."""

from __future__ import annotations

from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from helpers import tensorrt_models as models
from helpers.graphs import random_feeds
from helpers.tensorrt_constructs import CONSTRUCTS, net, quantized
from onnx import numpy_helper

import secateur as sc
from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.ir import Graph
from secateur.ir.errors import BackendError
from secateur.ir.onnx_read import from_proto
from secateur.passes import Context, run_pipeline
from secateur.passes.legalize import Legalize
from secateur.passes.settings import Check, Settings

_RUNNER = partial(OnnxRuntimeRunner, optimize=False, threads=1)


def _unsigned(weight: bool = False, zero: int = 128) -> onnx.ModelProto:
    """The quantized conv with uint8 activations, or weights, around a zero point."""
    proto = quantized()
    for tensor in proto.graph.initializer:
        if tensor.name == "z" and not weight:
            tensor.CopyFrom(numpy_helper.from_array(np.array(zero, np.uint8), "z"))
        if tensor.name == "w" and weight:
            codes = (numpy_helper.to_array(tensor).astype(np.int16) + zero).astype(np.uint8)
            tensor.CopyFrom(numpy_helper.from_array(codes, "w"))
    if weight:
        proto.graph.initializer.append(numpy_helper.from_array(np.array(zero, np.uint8), "wz"))
        next(node for node in proto.graph.node if "w" in node.input).input.append("wz")
    return proto


def _spare_outputs() -> onnx.ModelProto:
    proto = CONSTRUCTS["layer normalization, three outputs"].make()
    del proto.graph.output[1:]
    return proto


def _pool_with_indices() -> onnx.ModelProto:
    return net([("MaxPool", "x", "y,indices", {"kernel_shape": [2, 2]})], {"x": (models.FLOAT, [1, 2, 6, 6])})


CASES = {
    "int32 bias": CONSTRUCTS["int32 bias"].make,
    "uint8 activation": _unsigned,
    "uint8 weight": partial(_unsigned, weight=True),
    "spare outputs": _spare_outputs,
    "indices of a pool": _pool_with_indices,
}
EACH = pytest.mark.parametrize("name", CASES)


def _legal(graph: Graph) -> Any:
    return run_pipeline(graph, [Legalize()], Context(runner=_RUNNER), settings=Settings(check=Check.FULL))


def _outputs(graph: Graph, feeds: dict[str, Any]) -> dict[str, Any]:
    with _RUNNER(graph) as runner:
        return runner.run(feeds)


@EACH
def test_no_bit_changes_and_lint_is_content(name: str) -> None:
    graph = from_proto(CASES[name]())
    assert not sc.lint(graph, target="tensorrt-rtx,8.9").is_clean
    done = _legal(graph)
    assert done.report.rewrites == 1
    assert sc.lint(done.graph, target="tensorrt-rtx,8.9").is_clean
    before = from_proto(CASES[name]())
    for seed in range(3):
        feeds = {key: 3 * value for key, value in random_feeds(before, seed).items()}
        expected, found = _outputs(before, feeds), _outputs(done.graph, feeds)
        assert expected.keys() == found.keys()
        for key, array in expected.items():
            np.testing.assert_array_equal(array, found[key])
    assert _legal(done.graph).report.rewrites == 0


@EACH
def test_tensorrt_takes_it_afterwards_and_not_before(name: str, tmp_path: Any) -> None:
    pytest.importorskip("tensorrt_rtx")
    from secateur.backends.tensorrt import supports

    path = models.save(tmp_path / "before.onnx", CASES[name]())
    assert supports(path, "tensorrt-rtx")
    _legal(from_proto(CASES[name]())).graph.save(tmp_path / "after.onnx")
    assert supports(tmp_path / "after.onnx", "tensorrt-rtx") == []


def test_other_zero_points_stay() -> None:
    assert _legal(from_proto(_unsigned(zero=127))).report.rewrites == 0


def test_outputs_that_are_read_stay() -> None:
    graph = from_proto(CONSTRUCTS["layer normalization, three outputs"].make())
    assert _legal(graph).report.rewrites == 0


def _mixed(*, weight: Any = np.float16, output: int = models.FLOAT) -> onnx.ModelProto:
    constants = {"w": models.weights(4, 3, dtype=weight), "b": models.weights(3, dtype=np.float32)}
    nodes = [("MatMul", "x,w", "h", {}), ("Add", "h,b", "s", {}), ("Relu", "s", "y", {})]
    return net(nodes, {"x": (models.FLOAT, [2, 4])}, constants, outputs={"y": output})


@pytest.mark.parametrize("weight", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_inputs_of_several_types_meet_in_the_widest(weight: Any) -> None:
    proto = _mixed(weight=weight)
    graph = from_proto(proto)
    with pytest.raises(BackendError):
        _outputs(graph, {"x": np.ones((2, 4), np.float32)})
    done = _legal(graph)
    x = models.weights(2, 4, seed=3)
    constants = {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in proto.graph.initializer}
    wanted = np.maximum(x.astype(np.float64) @ constants["w"] + constants["b"], 0)
    found = _outputs(done.graph, {"x": x})["y"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    casts = [op for op in done.graph.ops() if op.op_type == "Cast"]
    assert len(casts) == (2 if weight is np.float64 else 0), "float32 weights need none: constants are converted"
    assert _legal(done.graph).report.rewrites == 0


def test_a_value_in_two_types_is_cast_once_and_outputs_keep_theirs() -> None:
    nodes = [("Add", "x,h", "a", {}), ("Mul", "x,h", "m", {}), ("Sub", "a,m", "y", {}), ("Relu", "h", "z", {})]
    half = onnx.TensorProto.FLOAT16
    inputs = {"x": (models.FLOAT, [3]), "h": (half, [3])}
    done = _legal(from_proto(net(nodes, inputs, outputs={"y": half, "z": half})))
    casts = [op for op in done.graph.ops() if op.op_type == "Cast"]
    assert [op.output.name for op in casts] == ["h_f32", "y"]
    feeds = {"x": np.array([1, 2, 3], np.float32), "h": np.array([0.5, -1, 2], np.float16)}
    found = _outputs(done.graph, feeds)
    assert found["y"].dtype == found["z"].dtype == np.float16
    np.testing.assert_array_equal(found["y"], [1.0, 3.0, -1.0])


def test_tensorrt_takes_mixed_types_afterwards(tmp_path: Any) -> None:
    pytest.importorskip("tensorrt_rtx")
    from secateur.backends.tensorrt import supports

    assert supports(models.save(tmp_path / "before.onnx", _mixed()), "tensorrt-rtx")
    assert not sc.lint(from_proto(_mixed()), target="tensorrt-rtx,8.9").is_clean
    _legal(from_proto(_mixed())).graph.save(tmp_path / "after.onnx")
    assert supports(tmp_path / "after.onnx", "tensorrt-rtx") == []
