"""Which values are divided by their size before a layer reads them: norms as one op, and as those they are made of."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from helpers.graphs import Net

from secateur.ir import Graph, Value
from secateur.ir.normalized import is_normalized
from secateur.passes.cleanup.shapes import known


def _fused(op_type: str) -> Callable[[Net, Value], Value]:
    return lambda net, value: net.op(op_type, value, net.scale("gain", 4), axis=-1)


def _skip(net: Net, value: Value) -> Value:
    found = net.op("SkipSimplifiedLayerNormalization", value, net.input("y", 2, 3, 4), net.scale("gain", 4))
    op = net.graph.producer(found)
    assert op is not None
    op.domain = "com.microsoft"
    return found


def _root_mean_square(square: str, axis: int) -> Callable[[Net, Value], Value]:
    def made(net: Net, value: Value) -> Value:
        two = net.constant("two", np.float32(2))
        squared = net.op("Pow", value, two) if square == "Pow" else net.op("Mul", value, value)
        mean = net.op("ReduceMean", squared, net.constant("axes", np.array([axis])))
        return net.op("Div", value, net.op("Sqrt", mean))

    return made


def _centred(net: Net, value: Value) -> Value:
    mean = net.op("ReduceMean", value, net.constant("axes", np.array([-1])))
    return net.op("Sub", value, mean)


def _pooled(net: Net, value: Value) -> Value:
    return net.op("ReduceMean", value, net.constant("axes", np.array([-1])))


def _cubed(net: Net, value: Value) -> Value:
    cube = net.op("Pow", value, net.constant("three", np.float32(3)))
    return net.op("ReduceMean", cube, net.constant("axes", np.array([-1])))


def _graph(reader: Callable[[Net, Value], Value]) -> Graph:
    net = Net("normalized")
    value = net.op("MatMul", net.input("x", 2, 3, 5), net.weight("w", 5, 4), to="trunk")
    return net.done((reader(net, value), (2, 3, 4)))


@pytest.mark.parametrize(
    "reader",
    [
        *map(_fused, ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")),
        _skip,
        _root_mean_square("Pow", -1),
        _root_mean_square("Mul", 2),
        _centred,
    ],
)
def test_norms_are_found(reader: Callable[[Net, Value], Value]) -> None:
    graph = _graph(reader)
    assert is_normalized(known(graph), graph["trunk"])


@pytest.mark.parametrize("reader", [_root_mean_square("Mul", 1), _pooled, _cubed])
def test_other_means_are_none(reader: Callable[[Net, Value], Value]) -> None:
    graph = _graph(reader)
    assert not is_normalized(known(graph), graph["trunk"])
