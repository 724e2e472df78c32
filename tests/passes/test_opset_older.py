"""Models of opset 7 to 12 compute the same at a newer one: a tiny model for each rule at each opset, and real ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest
from helpers.graphs import Net
from helpers.models import filled, light_models, real_model
from helpers.zoo_feeds import random_feeds

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.sources import open_source
from secateur.ir import DataType, Graph, Header, Value
from secateur.ir.build import emit
from secateur.ir.errors import RefusedError
from secateur.ir.onnx_read import load
from secateur.ir.onnx_write import to_bytes
from secateur.passes import Context, parse_pipeline, run_pipeline
from secateur.passes.opset import raise_opset

_RUNNER = partial(OnnxRuntimeRunner, optimize=False, threads=1)
SHAPE = (2, 3, 4, 5)


def outputs(graph: Graph, feeds: Any) -> list[Any]:
    with _RUNNER(graph) as runner:
        return list(runner.run(feeds).values())


def older(opset: int, write: Callable[[Net, Value], Value], *shape: int | str | None) -> Graph:
    """One op on an input; the output's shape is not stated."""
    net = Net("older", graph=Graph("older", header=Header(ir_version=7, opsets=(("", opset),))))
    made = write(net, net.input("x", *(shape or SHAPE)))
    return net.done((made, (None,) * _rank(made, len(shape or SHAPE))))


def _rank(made: Value, before: int) -> int:
    return {"unsqueeze": before + 2, "squeeze": before - 1, "reducesum_flat": before - 1}.get(made.name, before)


def op(op_type: str, *, to: str = "", **attributes: Any) -> Callable[[Net, Value], Value]:
    return lambda net, x: net.op(op_type, x, to=to, **attributes)


def second(op_type: str, array: Any, **attributes: Any) -> Callable[[Net, Value], Value]:
    """With a constant as its second input."""
    return lambda net, x: net.op(op_type, x, net.constant("second", array), **attributes)


def _norm(**attributes: Any) -> Callable[[Net, Value], Value]:
    def write(net: Net, x: Value) -> Value:
        numbers = [net.scale("scale", 3), net.weight("bias", 3), net.weight("mean", 3), net.scale("variance", 3)]
        return net.op("BatchNormalization", x, *numbers, **attributes)

    return write


def _scatter(net: Net, x: Value) -> Value:
    return net.op("Scatter", x, net.constant("at", np.zeros((1, 3, 1, 1), np.int64)), net.scale("new", 1, 3, 1, 1))


SCALES = np.asarray([1, 1, 2, 1.5], np.float32)
SMALLER = np.asarray([1, 1, 0.5, 0.6], np.float32)
CASES: dict[str, tuple[int, int, Callable[[Net, Value], Value]]] = {
    "clip": (7, 10, op("Clip", min=-0.5, max=0.75)),
    "clip below": (7, 10, op("Clip", min=0.25)),
    "clip above": (7, 10, op("Clip", max=0.25)),
    "clip nothing": (7, 10, op("Clip")),
    "slice": (7, 9, op("Slice", starts=[1, -2], ends=[9, -1], axes=[1, 3])),
    "slice first axes": (7, 9, op("Slice", starts=[0, 1], ends=[1, 3])),
    "upsample nearest": (7, 8, op("Upsample", scales=[1.0, 1.0, 2.0, 3.0])),
    "upsample linear": (7, 8, op("Upsample", scales=[1.0, 1.0, 2.0, 2.0], mode="linear")),
    "upsample by a fraction": (9, 9, second("Upsample", SCALES)),
    "upsample linear by a fraction": (9, 9, second("Upsample", SCALES, mode="linear")),
    "resize larger": (10, 10, second("Resize", SCALES)),
    "resize larger, linear": (10, 10, second("Resize", SCALES, mode="linear")),
    "resize smaller": (10, 10, second("Resize", SMALLER)),
    "resize smaller, linear": (10, 10, second("Resize", SMALLER, mode="linear")),
    "pad": (7, 10, op("Pad", pads=[0, 0, 1, 2, 0, 0, 3, 4])),
    "pad with a number": (7, 10, op("Pad", pads=[0, 0, 1, 2, 0, 0, 3, 4], value=1.5)),
    "pad by reflection": (7, 10, op("Pad", pads=[0, 0, 1, 2, 0, 0, 1, 1], mode="reflect")),
    "squeeze": (7, 12, lambda net, x: net.op("Squeeze", net.op("ReduceMax", x, axes=[1]), axes=[1])),
    "unsqueeze": (7, 12, op("Unsqueeze", axes=[0, 3])),
    "split": (7, 12, op("Split", axis=1)),
    "split by sizes": (7, 12, lambda net, x: _first_of(net, "Split", x, axis=3, split=[2, 3])),
    "sum": (7, 12, op("ReduceSum", axes=[1, 2])),
    "sum of all": (7, 12, op("ReduceSum")),
    "sum without axis": (7, 12, op("ReduceSum", to="reducesum_flat", axes=[2], keepdims=0)),
    "dropout": (7, 11, op("Dropout", ratio=0.25)),
    "dropout by half": (7, 11, op("Dropout")),
    "topk": (7, 9, lambda net, x: _first_of(net, "TopK", x, k=2, axis=3)),
    "topk of the last": (7, 9, lambda net, x: _first_of(net, "TopK", x, k=3)),
    "spatial": (7, 8, _norm(spatial=1)),
    "normalization": (9, 12, _norm()),
    "scatter": (9, 10, _scatter),
    **{
        f"{name} {axis}": (7, 12, op(name, **({} if axis is None else {"axis": axis})))
        for name in ("Softmax", "LogSoftmax", "Hardmax")
        for axis in (0, None, 2, 3)
    },
    "softmax of the last": (11, 12, op("Softmax", axis=-1)),
    "softmax from the third": (11, 12, op("Softmax", axis=-2)),
}


def _first_of(net: Net, op_type: str, x: Value, **attributes: Any) -> Value:
    """Of two outputs."""
    return emit(net.graph, op_type, [x], attributes, outputs=["first", "rest"]).output


@pytest.mark.parametrize(
    ("name", "opset"),
    [(name, opset) for name, (first, last, _) in CASES.items() for opset in range(first, last + 1)],
)
def test_each_rule_keeps_what_is_computed(name: str, opset: int) -> None:
    graph = older(opset, CASES[name][2])
    onnx.checker.check_model(to_bytes(graph))
    feeds = random_feeds(graph)
    before = outputs(graph, feeds)[0]
    for newer in (13, 23):
        raised = graph.clone()
        raise_opset(raised, newer)
        assert raised.header.opset() == newer and raised.outputs[0].name == graph.outputs[0].name
        raised.verify()
        onnx.checker.check_model(to_bytes(raised), full_check=True)
        np.testing.assert_array_equal(before, outputs(raised, feeds)[0])


def test_softmax_keeps_to_one_axis_where_the_others_have_one_number_each() -> None:
    graph = older(9, op("Softmax"), 2, 5, 1, 1)
    feeds = random_feeds(graph)
    before = outputs(graph, feeds)[0]
    raise_opset(graph, 13)
    assert [one.op_type for one in graph.ops()] == ["Softmax"] and graph.ops()[0].attribute("axis") == 1
    np.testing.assert_array_equal(before, outputs(graph, feeds)[0])


def test_softmax_over_sizes_that_are_not_known_is_unfolded_again() -> None:
    graph = older(12, op("Softmax"), "batch", "channels", "wide")
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)}
    before = outputs(graph, feeds)[0]
    raise_opset(graph, 13)
    assert "Flatten" in {one.op_type for one in graph.ops()}
    np.testing.assert_array_equal(before, outputs(graph, feeds)[0])


def test_bounds_are_of_the_type_of_the_data() -> None:
    net = Net("older", graph=Graph("older", header=Header(ir_version=7, opsets=(("", 10),))))
    x = net.input("x", 2, 3, dtype=DataType.FLOAT16)
    graph = net.done((net.op("Pad", net.op("Relu", x), pads=[0, 1, 0, 0], value=2.0), (2, 4)), dtype=DataType.FLOAT16)
    raise_opset(graph, 13)
    onnx.checker.check_model(to_bytes(graph), full_check=True)
    feeds = {"x": np.asarray([[-1, 0, 1], [2, 3, 4]], np.float16)}
    np.testing.assert_array_equal(outputs(graph, feeds)[0], [[2, 0, 0, 1], [2, 2, 3, 4]])


def _mask(net: Net, x: Value) -> Value:
    made = emit(net.graph, "Dropout", [x], {}, outputs=["kept", "mask"])
    assert made.outputs[1] is not None
    return net.op("Add", made.output, made.outputs[1])


def _scan(net: Net, x: Value) -> Value:
    body = net.body("step")
    y = body.op("Relu", body.input("now", 4, 5))
    inner = body.done((y, (4, 5)))
    return net.op("Scan", None, x, body=inner, num_scan_inputs=1)


@pytest.mark.parametrize(
    ("opset", "write", "reason"),
    [
        (8, _norm(spatial=0), "spatial=0"),
        (9, _mask, "mask"),
        (8, _scan, "batch of sequences"),
        (10, second("Resize", np.asarray([1, 1, 0.5, 2], np.float32)), "enlarges one axis"),
        (10, lambda net, x: net.op("Resize", x, net.input("scales", 4)), "not constant"),
        (10, second("ConvTranspose", np.ones((3, 2, 3, 3), np.float32), auto_pad="SAME_UPPER"), "before opset 11"),
        (9, lambda net, x: net.op("Clip", net.op("custom::What", x), min=0.0), "element type"),
    ],
)
def test_what_cannot_be_carried_over_is_named_and_nothing_changed(
    opset: int, write: Callable[[Net, Value], Value], reason: str
) -> None:
    graph = older(opset, write)
    text = str(graph)
    with pytest.raises(RefusedError, match=reason):
        raise_opset(graph, 13)
    assert str(graph) == text


def test_opset_6_is_too_old() -> None:
    with pytest.raises(RefusedError, match="opset 6"):
        raise_opset(Graph(header=Header(opsets=(("", 6),))), 13)


@pytest.mark.parametrize("name", ["ocr-detector", "ocr-recogniser", "ocr-classifier", "squeezenet", "shufflenet"])
def test_real_models_compute_the_same(name: str) -> None:
    graph = _real(name)
    feeds = random_feeds(graph)
    before = outputs(graph, feeds)
    assert raise_opset(graph, 23)
    graph.verify()
    np.testing.assert_allclose(before[0], outputs(graph, feeds)[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["ocr-detector", "ocr-recogniser", "ocr-classifier", "squeezenet"])
def test_older_models_are_quantized(name: str) -> None:
    graph = _real(name)
    feeds = random_feeds(graph)
    source = open_source([random_feeds(graph, seed) for seed in (1, 2)])
    made = run_pipeline(graph, parse_pipeline("quantize{format=int8}"), Context(source=source, runner=_RUNNER)).graph
    assert made.header.opset() == 13
    assert sum(one.op_type == "QuantizeLinear" for one in made.ops()) > 10
    (float_, *_), (coded, *_) = outputs(graph, feeds), outputs(made, feeds)
    assert np.corrcoef(float_.ravel(), coded.ravel())[0, 1] > 0.8


def _real(name: str) -> Graph:
    if name.startswith("ocr"):
        return load(real_model(name))
    return filled(next(path for path in light_models() if path.stem == f"light_{name}"))
