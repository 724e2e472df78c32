"""Snapshots: each kind of change moves its facet, and no other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from helpers.graphs import Net, function_call, loop, tiny_graphs

from secateur.ir import DataType, FunctionKey, Graph, Tensor, TensorType
from secateur.ir.build import add_constant, emit
from secateur.passes import Facet
from secateur.passes.facets import EVERYTHING, NOTHING
from secateur.passes.snapshot import Snapshot


def _quantized() -> Graph:
    net = Net("quantized")
    x, scale, zero = net.input("x", 4, 3), net.scale("s", 3), net.constant("z", np.zeros(3, np.int8))
    weight = net.op("DequantizeLinear", net.constant("q", np.ones((3, 3), np.int8)), scale, zero, axis=0)
    return net.done((net.op("LeakyRelu", net.op("MatMul", x, weight), alpha=0.5, to="y"), (4, 3)))


def _axis(graph: Graph) -> None:
    graph.set_attribute(graph.ops()[0], "axis", 1)


def _reconnect(graph: Graph) -> None:
    graph.set_inputs(graph.ops()[-1], [graph["x"]])


def _quantize_more(graph: Graph) -> None:
    emit(graph, "QuantizeLinear", [graph["x"], graph["s"], graph["z"]])


_CHANGES: dict[str, tuple[Callable[[Graph], object], Facet]] = {
    "nothing": (lambda graph: None, NOTHING),
    "an equal weight": (lambda g: g["q"].set_const(Tensor(np.ones((3, 3), np.int8))), NOTHING),
    "new numbers": (lambda g: g["q"].set_const(Tensor(np.zeros((3, 3), np.int8))), Facet.WEIGHTS),
    "another scale": (lambda g: g["s"].set_const(Tensor(-g["s"].const.numpy())), Facet.WEIGHTS | Facet.SCHEME),  # type: ignore[union-attr]
    "another shape": (lambda g: g["q"].set_const(Tensor(np.ones((3, 2), np.int8))), Facet.WEIGHTS | Facet.SHAPE),
    "another type": (lambda g: g["q"].set_const(Tensor(np.ones((3, 3), np.uint8))), Facet.WEIGHTS | Facet.DTYPE),
    "a stated shape": (lambda g: setattr(g["x"], "type", TensorType(DataType.FLOAT32, ("n", 3))), Facet.SHAPE),
    "a stated type": (lambda g: setattr(g["x"], "type", TensorType(DataType.FLOAT16, (4, 3))), Facet.DTYPE),
    "an attribute": (lambda g: g.set_attribute(g.ops()[-1], "alpha", 0.25), Facet.ATTRIBUTES),
    "an equal attribute": (lambda g: g.set_attribute(g.ops()[-1], "alpha", 0.5), NOTHING),
    "an attribute less": (lambda g: g.set_attribute(g.ops()[-1], "alpha", None), Facet.ATTRIBUTES),
    "a name": (lambda g: g.rename(g["q"], "other"), Facet.ATTRIBUTES),
    "the name of an op": (lambda g: setattr(g.ops()[0], "name", "other"), Facet.ATTRIBUTES),
    "an opset": (lambda g: setattr(g, "header", g.header.with_opset("", 21)), Facet.ATTRIBUTES),
    "metadata": (lambda g: g.metadata.update(key="value"), Facet.ATTRIBUTES),
    "a constant more": (lambda g: add_constant(g, "more", 1.0), Facet.TOPOLOGY),
    "an op more": (lambda g: emit(g, "Neg", [g["x"]]), Facet.TOPOLOGY),
    "another input": (_reconnect, Facet.TOPOLOGY),
    "another interface": (lambda g: g.set_interface(outputs=[]), Facet.TOPOLOGY),
    "another operator": (lambda g: setattr(g.ops()[-1], "op_type", "Elu"), Facet.TOPOLOGY),
    "a quantization axis": (_axis, Facet.ATTRIBUTES | Facet.SCHEME),
    "a quantizer more": (_quantize_more, Facet.TOPOLOGY | Facet.SCHEME),
}


@pytest.mark.parametrize("name", _CHANGES)
def test_what_a_change_moves(name: str) -> None:
    change, moved = _CHANGES[name]
    graph = _quantized()
    start = Snapshot.of(graph)
    change(graph)
    assert start.moved(Snapshot.of(graph)) == moved


def test_what_goes_takes_its_facets_along() -> None:
    graph = _quantized()
    op = emit(graph, "DequantizeLinear", [graph["z"], graph["s"]], {"axis": 0})
    start = Snapshot.of(graph)
    graph.remove(op)
    assert start.moved(Snapshot.of(graph)) == Facet.TOPOLOGY


def test_bodies_and_functions_count() -> None:
    graph = loop()
    start = Snapshot.of(graph)
    body = graph.ops()[0].bodies()[0]
    body.ops()[-1].name = "other"
    assert start.moved(Snapshot.of(graph)) == Facet.ATTRIBUTES
    body.set_inputs(body.ops()[-1], body.ops()[-1].inputs[::-1])
    assert start.moved(Snapshot.of(graph)) == Facet.ATTRIBUTES | Facet.TOPOLOGY
    graph = function_call()
    start = Snapshot.of(graph)
    key, function = next(iter(graph.functions.items()))
    function.ops()[0].op_type = "Add"
    assert start.moved(Snapshot.of(graph)) == Facet.TOPOLOGY
    graph.functions[FunctionKey("d", "n")] = graph.functions.pop(key)
    assert start.moved(Snapshot.of(graph)) == Facet.TOPOLOGY


@pytest.mark.parametrize("name", tiny_graphs())
def test_a_graph_equals_itself_and_no_copy(name: str) -> None:
    graph = tiny_graphs()[name]()
    assert Snapshot.of(graph).moved(Snapshot.of(graph)) == NOTHING
    assert Facet.TOPOLOGY in Snapshot.of(graph).moved(Snapshot.of(graph.clone()))


def test_not_a_number_equals_itself() -> None:
    graph = _quantized()
    graph.set_attribute(graph.ops()[-1], "alpha", float("nan"))
    start = Snapshot.of(graph)
    graph.set_attribute(graph.ops()[-1], "alpha", float("nan"))
    assert start.moved(Snapshot.of(graph)) == NOTHING


def test_facets_name_themselves() -> None:
    assert str(Facet.TOPOLOGY | Facet.SCHEME) == "topology, scheme"
    assert str(NOTHING) == "nothing"
    assert all(facet in EVERYTHING for facet in Facet)
