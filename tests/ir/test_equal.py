"""Structural equality: every difference is found, none is invented, and the first one is said in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from helpers.graphs import tiny_graphs
from helpers.random_graphs import random_graph
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.ir import Attribute, AttributeKind, DataType, FunctionKey, Graph, Op, Tensor, TensorType, Value
from secateur.ir.build import add_constant, add_input, emit
from secateur.ir.equal import equal, first_difference
from secateur.ir.node import ConstantNode
from secateur.ir.text_parse import parse_graph

TINY = tiny_graphs()


def op(graph: Graph, name: str) -> Op:
    return next(found for found in graph.ops() if found.name == name)


def body(graph: Graph) -> Graph:
    return next(found for found in graph.ops() if found.bodies()).bodies()[0]


def change_bit(graph: Graph, name: str) -> None:
    tensor = graph[name].const
    assert tensor is not None
    array = tensor.numpy().copy()
    array.reshape(-1).view(np.uint8)[0] ^= 1
    graph[name].set_const(Tensor(array, tensor.dtype))


def swap_inputs(graph: Graph, name: str) -> None:
    found = op(graph, name)
    graph.set_inputs(found, [*found.inputs[1::-1], *found.inputs[2:]])


def add_metadata(item: Op | Value | Graph) -> None:
    item.metadata = {**item.metadata, "new": "entry"}


def set_header(graph: Graph, **fields: object) -> None:
    graph.header = replace(graph.header, **fields)  # type: ignore[arg-type]


def tagged(graph: Graph, name: str) -> None:
    tensor = graph[name].const
    assert tensor is not None
    copied = Tensor(tensor.numpy(), tensor.dtype)
    copied.metadata = (("k", "v"),)
    graph[name].const = copied


def reparameterize(graph: Graph) -> None:
    (function,) = graph.functions.values()
    function.header = replace(function.header, parameters=(("slope", Attribute(AttributeKind.FLOAT, 0.5)),))


CHANGES: list[tuple[str, Callable[[Graph], object], str]] = [
    ("conv_bn_relu", lambda g: change_bit(g, "conv.weight"), "the constant %conv.weight: f32[6, 3, 3, 3] #"),
    (
        "conv_bn_relu",
        lambda g: g.set_attribute(op(g, "/conv"), "pads", [0, 0, 1, 1]),
        "Conv '/conv' attribute pads: [1",
    ),
    ("conv_bn_relu", lambda g: g.set_attribute(op(g, "/conv"), "group", 1), "attribute group: nothing against 1"),
    ("conv_bn_relu", lambda g: setattr(op(g, "/relu"), "op_type", "Tanh"), "Relu '/relu' against Tanh '/relu'"),
    ("conv_bn_relu", lambda g: setattr(op(g, "/relu"), "domain", "other"), "Relu '/relu' against other::Relu '/relu'"),
    ("conv_bn_relu", lambda g: setattr(op(g, "/relu"), "overload", "fast"), "Relu '/relu' against Relu '/relu'"),
    ("conv_bn_relu", lambda g: setattr(op(g, "/relu"), "extra", b"\x01"), "extra:  against 01"),
    ("conv_bn_relu", lambda g: setattr(op(g, "/relu"), "doc", "why"), 'Relu \'/relu\' doc: "" against "why"'),
    ("conv_bn_relu", lambda g: add_metadata(op(g, "/relu")), 'Relu \'/relu\' metadata "new": nothing against "entry"'),
    ("conv_bn_relu", lambda g: add_metadata(g["relu"]), '%relu metadata "new"'),
    ("conv_bn_relu", lambda g: add_metadata(g), "graph 'conv_bn_relu' metadata \"new\""),
    ("conv_bn_relu", lambda g: setattr(g["relu"], "doc", "why"), "%relu doc"),
    (
        "conv_bn_relu",
        lambda g: setattr(g["relu"], "type", TensorType(DataType.FLOAT32)),
        "type of %relu: _ against f32[...]",
    ),
    ("conv_bn_relu", lambda g: setattr(g["conv.weight"], "node", ConstantNode()), "comes from an initializer against"),
    ("conv_bn_relu", lambda g: tagged(g, "conv.weight"), "the constant %conv.weight"),
    ("conv_bn_relu", lambda g: g.set_interface(outputs=[]), "graph 'conv_bn_relu' has outputs (%head) against ()"),
    ("conv_bn_relu", lambda g: add_input(g, "more", ()), "has inputs (%x) against (%x, %more)"),
    ("conv_bn_relu", lambda g: emit(g, "Exp", [g["x"]]), "%exp, made by Exp '-> exp', is only in the second"),
    ("conv_bn_relu", lambda g: add_constant(g, "idle", np.zeros(1)), "%idle is only in the second"),
    ("conv_bn_relu", lambda g: set_header(g, ir_version=9), "header ir_version: 10 against 9"),
    ("conv_bn_relu", lambda g: set_header(g, producer=("p", "1")), "header producer: ('', '') against ('p', '1')"),
    ("conv_bn_relu", lambda g: set_header(g, opsets=(("", 19),)), "header opsets: {'': 20} against {'': 19}"),
    ("conv_bn_relu", lambda g: set_header(g, extra=b"x"), "header extra"),
    (
        "conv_bn_relu",
        lambda g: g.functions.update({FunctionKey("d", "f"): Graph()}),
        "function d::f is only in the second",
    ),
    ("function_call", reparameterize, "function example.functions::ScaledLeaky: parameter slope: 0.25 against 0.5"),
    ("function_call", lambda g: swap_inputs(next(iter(g.functions.values())), "/mul"), "%a"),
    (
        "gemm_mlp",
        lambda g: g.set_inputs(op(g, "/fc2"), op(g, "/fc2").inputs[:2]),
        "Gemm '/fc2' has inputs (%relu, %w2, %b2)",
    ),
    (
        "matmul_mlp",
        lambda g: swap_inputs(g, "/add_1"),
        "Add '/add_1' has inputs (%down.bias, %small) against (%small, %down.bias)",
    ),
    (
        "optional_left_out",
        lambda g: g.set_inputs(op(g, "/clip"), [g["x"], g["most"], None]),
        "has inputs (%x, _, %most)",
    ),
    ("overridable_input", lambda g: g.set_interface(inputs=g.inputs[:1]), "has inputs (%x, %gain) against (%x)"),
    ("if_captures", lambda g: change_bit(g, "outer"), "the constant %outer"),
    (
        "if_captures",
        lambda g: setattr(body(g).ops()[0], "name", "new"),
        'MatMul \'/chosen\' is named "/chosen" against "new"',
    ),
    ("if_captures", lambda g: setattr(body(g), "doc", "d"), "graph 'then' doc"),
    (
        "if_captures",
        lambda g: body(g).set_interface(outputs=[g["relu"]]),
        "graph 'then' has outputs (%chosen) against (%relu)",
    ),
    (
        "scan",
        lambda g: g.set_interface(outputs=g.outputs[::-1]),
        "graph 'scan' has outputs (%final, %all) against (%all, %final)",
    ),
]


@pytest.mark.parametrize(("name", "change", "said"), CHANGES)
def test_differences_are_named(name: str, change: Callable[[Graph], object], said: str) -> None:
    graph, changed = TINY[name](), TINY[name]()
    change(changed)
    found = first_difference(graph, changed)
    assert found is not None and said in found
    assert first_difference(changed, graph) is not None


@pytest.mark.parametrize("name", TINY)
def test_every_graph_equals_itself_and_no_other(name: str) -> None:
    graph = TINY[name]()
    assert first_difference(graph, graph) is None
    for names in (True, False):
        assert equal(graph, TINY[name](), names=names)
        assert equal(graph, graph.clone(), names=names)
        assert all(not equal(graph, build(), names=names) for other, build in TINY.items() if other != name)


def renamed(graph: Graph) -> Graph:
    copy = graph.clone()
    for part in list(copy.graphs()):
        part.name = f"other {part.name}"
        for value in list(part.values()):
            part.rename(value, f"other {value.name}")
        for found in part.ops():
            found.name = f"other {found.name}"
    return copy


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_names_are_ignored_where_asked(seed: int) -> None:
    graph = random_graph(seed, 6)
    other = renamed(graph)
    assert first_difference(graph, other, names=False) is None
    assert first_difference(graph, other) is not None


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_any_one_change_is_found(seed: int) -> None:
    graph = random_graph(seed, 6)
    changed = graph.clone()
    ops = [found for part in changed.graphs() for found in part.ops()]
    if not ops:
        return
    found = ops[seed % len(ops)]
    owner = next(part for part in changed.graphs() if found in part)
    kinds: list[Callable[[], object]] = [
        lambda: setattr(found, "op_type", "Other"),
        lambda: owner.set_attribute(found, "fresh", 1),
        lambda: owner.set_inputs(found, [*found.inputs, None]),
        lambda: add_metadata(found),
        lambda: emit(owner, "Dead", []),
        lambda: add_constant(owner, "dead", np.zeros(3)),
    ]
    kinds[seed % len(kinds)]()
    for names in (True, False):
        assert first_difference(graph, changed, names=names) is not None
        assert first_difference(changed, graph, names=names) is not None


def test_order_means_nothing() -> None:
    first = parse_graph("opset 1 opset a 2 graph(%x) -> (%y) { %a = A(%x) {p = 1, q = 2} %b = B(%x) %y = Y(%a, %b) }")
    second = parse_graph("opset a 2 opset 1 graph(%x) -> (%y) { %b = B(%x) %a = A(%x) {q = 2, p = 1} %y = Y(%a, %b) }")
    assert equal(first, second)
    assert equal(first, second, names=False)


def test_a_shared_weight_differs_from_two_copies() -> None:
    shared = parse_graph("graph(%x) -> (%y) { %w = f32[] 1.0 %a = A(%x, %w) %y = A(%a, %w) }")
    copied = parse_graph("graph(%x) -> (%y) { %w = f32[] 1.0 %v = f32[] 1.0 %a = A(%x, %w) %y = A(%a, %v) }")
    for first, second in ((shared, copied), (copied, shared)):
        assert "something else elsewhere" in str(first_difference(first, second, names=False))
    assert first_difference(shared, copied) == "%v is only in the second"


def test_dead_ops_are_matched_by_order_without_names() -> None:
    first = parse_graph("graph(%x) -> (%x) { %a = A(%x) %b = B(%a) %c = C(%x) }")
    second = parse_graph("graph(%x) -> (%x) { %d = A(%x) %e = B(%d) %f = C(%x) }")
    third = parse_graph("graph(%x) -> (%x) { %d = A(%x) %e = B(%d) %f = B(%x) }")
    assert equal(first, second, names=False)
    assert first_difference(first, third, names=False) == "C '-> c' against B '-> f'"


def test_the_first_difference_comes_first() -> None:
    first = parse_graph("graph(%x) -> (%y) { %a = A(%x) {p = 1} %b = B(%a) {p = 1} %y = Y(%b) }")
    second = parse_graph("graph(%x) -> (%y) { %a = A(%x) {p = 2} %b = B(%a) {p = 2} %y = Z(%b) }")
    assert first_difference(first, second) == "A '-> a' attribute p: 1 against 2"
    # Without names nothing is matched beyond ops that differ, so these come first.
    assert first_difference(first, second, names=False) == "Y '-> y' against Z '-> y'"


def test_floats_compare_as_onnx_keeps_them() -> None:
    def graph(number: float) -> Graph:
        made = Graph()
        emit(made, "T", [], {"alpha": number}, outputs=["y"])
        return made

    assert equal(graph(0.1), graph(float(np.float32(0.1))))
    assert equal(graph(float("nan")), graph(float("nan")))
    assert not equal(graph(0.0), graph(-0.0))


def test_two_bodies_that_capture_something_else() -> None:
    text = (
        "graph(%c, %x, %z) -> (%y) {{ %a = A(%x) %b = A(%z) "
        "%y = If(%c) {{then_branch = graph() -> (%t) {{ %t = T({}) }}}} %u = U(%a, %b) }}"
    )
    first, second = parse_graph(text.format("%a")), parse_graph(text.format("%b"))
    assert equal(first, parse_graph(text.format("%a")), names=False)
    for names in (True, False):
        assert not equal(first, second, names=names)


def test_a_weight_inside_differs_from_one_outside() -> None:
    text = "graph(%c) -> (%y) {{ {} %y = If(%c) {{then_branch = graph() -> (%t) {{ {} %t = T(%w) }}}} }}"
    outside = parse_graph(text.format("%w = f32[] 1.0", ""))
    inside = parse_graph(text.format("", "%w = f32[] 1.0"))
    for names in (True, False):
        assert not equal(outside, inside, names=names) and not equal(inside, outside, names=names)
    assert (
        first_difference(outside, inside, names=False) == "%w of the graph is used where the second has %w of the graph"
    )


def test_outputs_of_one_op_are_told_apart() -> None:
    first = parse_graph("graph(%x) -> (%a, %b) { %a, %b = Split(%x) }")
    second = parse_graph("graph(%x) -> (%b, %a) { %a, %b = Split(%x) }")
    said = first_difference(first, second, names=False)
    assert said == "%a is output 0 of Split '-> a', against output 1"


def test_deep_graphs_need_no_recursion() -> None:
    def chain(last: str) -> Graph:
        graph = Graph()
        value = add_input(graph, "x", ())
        for _ in range(3000):
            value = emit(graph, "Relu", [value]).output
        graph.set_interface(outputs=[emit(graph, last, [value], outputs=["end"]).output])
        return graph

    assert equal(chain("Tanh"), chain("Tanh"))
    assert equal(chain("Tanh"), chain("Tanh"), names=False)
    assert first_difference(chain("Tanh"), chain("Sinh"), names=False) == "Tanh '-> end' against Sinh '-> end'"
