"""Raising the opset changes no bit of what a model computes; what cannot be carried over is refused."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest
from helpers.graphs import Net, random_feeds, tiny_graphs

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.ir import Graph, Header
from secateur.ir.errors import RefusedError
from secateur.ir.onnx_write import to_bytes
from secateur.passes.opset import raise_opset

_RUNNER = partial(OnnxRuntimeRunner, optimize=False, threads=1)


def outputs(graph: Graph, feeds: Any) -> list[Any]:
    with _RUNNER(graph) as runner:
        return list(runner.run(feeds).values())


def _older(name: str = "older", opset: int = 13) -> Net:
    return Net(name, graph=Graph(name, header=Header(ir_version=7, opsets=(("", opset),))))


def _reduced(op_type: str, **attributes: Any) -> Graph:
    net = _older()
    return net.done((net.op(op_type, net.op("Abs", net.input("x", 3, 4, 5)), **attributes), (None,) * 3))


@pytest.mark.parametrize("name", "L1 L2 LogSum LogSumExp Max Mean Min Prod SumSquare".split())
@pytest.mark.parametrize("axes", [[1], [-1, 0], None])
def test_axes_of_reductions_become_inputs(name: str, axes: list[int] | None) -> None:
    graph = _reduced(f"Reduce{name}", **({} if axes is None else {"axes": axes}))
    before = outputs(graph, random_feeds(graph))
    assert raise_opset(graph, 22) == 1
    graph.verify()
    onnx.checker.check_model(to_bytes(graph), full_check=True)
    np.testing.assert_array_equal(before[0], outputs(graph, random_feeds(graph))[0])


def test_equal_parts_of_a_split_are_counted() -> None:
    net = _older()
    made = net.op("Split", net.input("x", 6, 4), axis=0)
    graph = net.done((made, (6, 4)))
    assert raise_opset(graph, 21) == 1
    assert graph.ops()[0].attribute("num_outputs") == 1


def test_the_mode_of_grid_sample_is_renamed() -> None:
    net = _older(opset=16)
    made = net.op("GridSample", net.input("x", 1, 2, 4, 4), net.input("grid", 1, 3, 3, 2), mode="bilinear")
    graph = net.done((made, (1, 2, 3, 3)))
    before = outputs(graph, random_feeds(graph))
    raise_opset(graph, 20)
    np.testing.assert_array_equal(before[0], outputs(graph, random_feeds(graph))[0])


@pytest.mark.parametrize("name", ["conv_bn_relu", "attention", "if_captures", "loop", "dynamic_batch"])
def test_models_stay_as_they_are(name: str) -> None:
    graph = tiny_graphs()[name]()
    before = outputs(graph, random_feeds(graph))
    raise_opset(graph, 23)
    assert graph.header.opset() == 23 and graph.header.ir_version == 11
    for one, other in zip(before, outputs(graph, random_feeds(graph)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    assert raise_opset(graph, 23) == raise_opset(graph, 13) == 0


def test_what_means_something_else_is_refused_and_nothing_changed() -> None:
    net = _older(opset=18)
    x = net.input("x", 1, 4, 3, 3)
    made = net.op("ReduceMax", net.op("GroupNormalization", x, net.scale("s", 2), net.weight("b", 2), num_groups=2))
    graph = net.done((made, (1, 1, 1, 1)))
    text = str(graph)
    with pytest.raises(RefusedError, match="GroupNormalization"):
        raise_opset(graph, 21)
    assert str(graph) == text
