"""Every check of the verifier, each broken in exactly that way; by reaching into privates where mutators refuse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from helpers.graphs import tiny_graphs
from helpers.random_graphs import random_graph
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.ir import Attribute, AttributeKind, DataType, FunctionKey, Graph, Header, Op, Tensor, TensorType, Value
from secateur.ir.build import add_constant, add_input, emit
from secateur.ir.errors import GraphError
from secateur.ir.node import NOTHING
from secateur.ir.verify import verify

TINY = tiny_graphs()


@pytest.mark.parametrize("name", TINY)
def test_tiny_graphs_are_well_formed(name: str) -> None:
    graph = TINY[name]()
    graph.verify()
    graph.clone().verify()
    for part in graph.graphs():
        part.verify()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_random_graphs_are_well_formed(seed: int) -> None:
    verify(random_graph(seed))


def op(graph: Graph, name: str) -> Op:
    return next(found for found in graph.ops() if found.name == name)


def holder(graph: Graph) -> Op:
    return next(found for found in graph.ops() if found.bodies())


def function(graph: Graph) -> Graph:
    return next(iter(graph.functions.values()))


def misname(graph: Graph) -> None:
    graph["relu"].name = "other"


def lose_value(graph: Graph) -> None:
    del graph._names["relu"]


def lose_node(graph: Graph) -> None:
    graph.nx.remove_node(graph["idle"])


def lose_reader_edge(graph: Graph) -> None:
    graph.nx.remove_edge(graph["conv"], op(graph, "/bn"))


def lose_maker_edge(graph: Graph) -> None:
    graph.nx.remove_edge(op(graph, "/relu"), graph["relu"])


def add_reader_edge(graph: Graph) -> None:
    graph.nx.add_edge(graph["x"], op(graph, "/relu"))


def add_maker_edge(graph: Graph) -> None:
    graph.nx.add_edge(op(graph, "/conv"), graph["relu"])


def change_port(graph: Graph) -> None:
    op(graph, "/relu").inputs = (graph["conv"],)


def repeat_output(graph: Graph) -> None:
    found = op(graph, "/relu")
    found.outputs = (found.output, found.output)


def two_makers(graph: Graph) -> None:
    found = op(graph, "/conv")
    found.outputs = (*found.outputs, graph["relu"])
    graph.nx.add_edge(found, graph["relu"])


def stranger_read(graph: Graph) -> None:
    found, stranger = op(graph, "/relu"), Value("stranger")
    found.inputs = (stranger,)
    graph.nx.remove_edge(graph["bn"], found)
    graph.nx.add_edge(stranger, found)


def stranger_node(graph: Graph) -> None:
    graph.nx.add_node("a string")  # type: ignore[arg-type]


def stranger_op(graph: Graph) -> None:
    graph.ops()
    graph.nx.add_node(Op("Relu", (), ()))


def repeat_input(graph: Graph) -> None:
    graph._inputs = (graph["x"], graph["x"])


def stranger_input(graph: Graph) -> None:
    graph._inputs = (graph["x"], Value("x"))


def made_input(graph: Graph) -> None:
    graph._inputs = (graph["x"], graph["relu"])


def stranger_output(graph: Graph) -> None:
    graph._outputs = (Value("y"),)


def unmade_value(graph: Graph) -> None:
    graph.add_value(Value("loose", TensorType(DataType.FLOAT32, ())))


def make_constant(graph: Graph) -> None:
    graph["relu"].set_const(Tensor(np.zeros(3)))


def retype(shape: tuple[int | str | None, ...], dtype: DataType = DataType.FLOAT32) -> Callable[[Graph], None]:
    def change(graph: Graph) -> None:
        graph["conv.weight"].type = TensorType(dtype, shape)

    return change


def untype(graph: Graph) -> None:
    graph["conv.weight"].type = None


def swap_constant(graph: Graph) -> None:
    graph["conv.weight"].const = Tensor(np.zeros((2, 2), np.float32))


def cycle(graph: Graph) -> None:
    graph.set_inputs(op(graph, "/conv"), [graph["relu"], graph["conv.weight"]])


def stale_order(graph: Graph) -> None:
    graph.ops()
    assert graph._order is not None
    graph._order.reverse()


def attribute(kind: AttributeKind, value: object, reference: str = "") -> Callable[[Graph], None]:
    def change(graph: Graph) -> None:
        op(graph, "/relu").attributes["a"] = Attribute(kind, value, reference)

    return change


def unimport(graph: Graph) -> None:
    op(graph, "/relu").domain = "com.example"


def unimport_inside(graph: Graph) -> None:
    holder(graph).bodies()[0].ops()[0].domain = "com.example"


def unimport_in_function(graph: Graph) -> None:
    function(graph).header = replace(function(graph).header, opsets=(("com.example", 1),))


def forget_function_domain(graph: Graph) -> None:
    graph.header = replace(graph.header, opsets=(("", 20),))


def share_body(graph: Graph) -> None:
    found = holder(graph)
    made = Op("If", found.inputs, (Value("again"),), dict(found.attributes))
    for body in found.bodies():
        body._holder = None
    graph.add_op(made)


def repeat_body(graph: Graph) -> None:
    found = holder(graph)
    found.attributes["else_branch"] = found.attributes["then_branch"]


def swap_body(graph: Graph) -> None:
    found = holder(graph)
    found.attributes["then_branch"] = Attribute(AttributeKind.GRAPH, Graph("other", body=True))


def forget_holding(graph: Graph) -> None:
    graph._hold_bodies.clear()


def false_holding(graph: Graph) -> None:
    graph._hold_bodies[graph.ops()[0]] = None


def whole_body(graph: Graph) -> None:
    holder(graph).bodies()[0]._is_body = False


def lose_capture_edge(graph: Graph) -> None:
    graph.nx.remove_edge(graph["outer"], holder(graph))


def stale_capture(graph: Graph) -> None:
    body = holder(graph).bodies()[1]
    body.nx.add_node(graph["x"])
    graph.nx.add_edge(graph["x"], holder(graph))


def false_capture_edge(graph: Graph) -> None:
    graph.nx.add_edge(graph["x"], holder(graph))


def shadowed(graph: Graph) -> None:
    body = holder(graph).bodies()[0]
    body.rename(body["chosen"], "relu")


def stranger_captured(graph: Graph) -> None:
    body = holder(graph).bodies()[0]
    found, stranger = body.ops()[0], Value("stranger")
    body.nx.remove_edge(found.inputs[1], found)  # type: ignore[arg-type]
    body.nx.remove_node(found.inputs[1])  # type: ignore[arg-type]
    found.inputs = (found.inputs[0], stranger)
    body.nx.add_edge(stranger, found)


def value_in_two_graphs(graph: Graph) -> None:
    body = holder(graph).bodies()[0]
    body._names["x"] = graph["x"]
    body.nx.add_node(graph["x"])


def body_functions(graph: Graph) -> None:
    holder(graph).bodies()[0].functions[FunctionKey("d", "f")] = Graph()


def function_functions(graph: Graph) -> None:
    function(graph).functions[FunctionKey("d", "f")] = Graph()


def body_as_function(graph: Graph) -> None:
    graph.functions[FunctionKey("d", "f")] = Graph(body=True)


def broken_function(graph: Graph) -> None:
    function(graph).add_value(Value("loose"))


def shared_with_function(graph: Graph) -> None:
    other = Graph(header=Header())
    other._names["x"] = graph["x"]
    other.nx.add_node(graph["x"])
    graph.functions[FunctionKey("d", "f")] = other


def too_many_arguments(graph: Graph) -> None:
    call = next(found for found in graph.ops() if found.op_type == "ScaledLeaky")
    graph.set_inputs(call, [*call.inputs, graph["x"]])


def too_many_results(graph: Graph) -> None:
    emit(graph, "example.functions::ScaledLeaky", [graph["x"], graph["x"]], outputs=["p", "q"])


def endless_calls(graph: Graph) -> None:
    inner = function(graph)
    inner.header = inner.header.with_opset("example.functions", 1)
    emit(inner, "example.functions::ScaledLeaky", inner.inputs)


def unknown_parameter(graph: Graph) -> None:
    function(graph).ops()[0].attributes["a"] = Attribute(AttributeKind.INT, None, "unknown")


KINDS = AttributeKind
BREAKS: list[tuple[str, Callable[[Graph], None], str]] = [
    ("conv_bn_relu", misname, "%other is known to graph 'conv_bn_relu' as 'relu'"),
    ("conv_bn_relu", lose_value, "reads %relu, which belongs to no graph around it"),
    ("unused_op", lose_node, "%idle of graph 'unused_op' is not in its networkx graph"),
    ("conv_bn_relu", lose_reader_edge, "BatchNormalization '/bn' of graph 'conv_bn_relu' lacks an edge for %conv"),
    ("conv_bn_relu", lose_maker_edge, "nothing makes %relu"),
    ("conv_bn_relu", add_reader_edge, "Relu '/relu' of graph 'conv_bn_relu' has an edge for %x but no port"),
    ("conv_bn_relu", add_maker_edge, "Conv '/conv' of graph 'conv_bn_relu' has an edge for %relu but no port"),
    ("conv_bn_relu", change_port, "Relu '/relu' of graph 'conv_bn_relu' lacks an edge for %conv"),
    ("conv_bn_relu", repeat_output, "Relu '/relu' names an output twice: [%relu, %relu]"),
    ("conv_bn_relu", two_makers, "%relu of graph 'conv_bn_relu' is made by Relu '/relu' and Conv '/conv'"),
    ("conv_bn_relu", stranger_read, "reads %stranger, which belongs to no graph around it"),
    ("conv_bn_relu", stranger_node, "graph 'conv_bn_relu' does not know 'a string'"),
    ("conv_bn_relu", stranger_op, "graph 'conv_bn_relu' does not know Relu"),
    ("conv_bn_relu", repeat_input, "graph 'conv_bn_relu' lists an input twice"),
    ("conv_bn_relu", stranger_input, "the input %x does not belong to graph 'conv_bn_relu'"),
    ("conv_bn_relu", made_input, "the input %relu of graph 'conv_bn_relu' is made by Relu '/relu'"),
    ("conv_bn_relu", stranger_output, "the output %y of graph 'conv_bn_relu' is not in it"),
    ("conv_bn_relu", unmade_value, "nothing makes %loose"),
    ("conv_bn_relu", make_constant, "the constant %relu is made by Relu '/relu' too"),
    (
        "conv_bn_relu",
        retype((6, 3, 3)),
        "the constant %conv.weight is Tensor(f32[6, 3, 3, 3]), but its type says f32[6, 3, 3]",
    ),
    ("conv_bn_relu", retype((6, 3, 3, 4)), "but its type says f32[6, 3, 3, 4]"),
    ("conv_bn_relu", retype((6, 3, 3, 3), DataType.FLOAT16), "but its type says f16[6, 3, 3, 3]"),
    ("conv_bn_relu", untype, "but its type says _"),
    ("conv_bn_relu", swap_constant, "the constant %conv.weight is Tensor(f32[2, 2])"),
    ("conv_bn_relu", cycle, "the ops of graph 'conv_bn_relu' form a cycle through"),
    ("conv_bn_relu", stale_order, "the order of ops is stale"),
    (
        "conv_bn_relu",
        attribute(KINDS.INT, True),
        "attribute 'a' of Relu '/relu' is INT and must hold int, found bool True",
    ),
    (
        "conv_bn_relu",
        attribute(KINDS.INT, 2**63),
        "attribute 'a' of Relu '/relu' holds 9223372036854775808, which does not fit",
    ),
    ("conv_bn_relu", attribute(KINDS.FLOAT, 1), "is FLOAT and must hold float, found int 1"),
    ("conv_bn_relu", attribute(KINDS.FLOAT, np.float32(1)), "found numpy.float32"),
    ("conv_bn_relu", attribute(KINDS.STRING, b"x"), "is STRING and must hold str, found bytes b'x'"),
    ("conv_bn_relu", attribute(KINDS.INTS, [1]), "is INTS and must hold a tuple, found list [1]"),
    ("conv_bn_relu", attribute(KINDS.INTS, (1, 1.0)), "is INT and must hold int, found float 1.0"),
    ("conv_bn_relu", attribute(KINDS.TENSOR, np.zeros(1)), "is TENSOR and must hold Tensor, found numpy.ndarray"),
    ("conv_bn_relu", attribute(KINDS.INT, None), "is INT and must hold int, found NoneType"),
    ("conv_bn_relu", attribute(KINDS.UNDEFINED, 1), "holds 1 besides a reference or without a kind"),
    ("conv_bn_relu", attribute(KINDS.INT, 1, "alpha"), "holds 1 besides a reference"),
    ("conv_bn_relu", attribute(KINDS.INT, None, "alpha"), "refers to $alpha, which is no parameter here"),
    ("function_call", unknown_parameter, "refers to $unknown, which is no parameter here"),
    ("conv_bn_relu", unimport, "is of domain 'com.example', which graph 'conv_bn_relu' doesn't import"),
    ("if_captures", unimport_inside, "is of domain 'com.example', which graph 'if_captures' doesn't import"),
    ("function_call", unimport_in_function, "is of domain '', which graph 'ScaledLeaky' doesn't import"),
    ("function_call", forget_function_domain, "is of domain 'example.functions', which"),
    ("if_captures", share_body, "the body 'then' of If '/if' belongs to If '-> again'"),
    ("if_captures", repeat_body, "If '/if' holds the same body twice"),
    ("if_captures", swap_body, "the body 'other' of If '/if' belongs to no op"),
    ("if_captures", forget_holding, "If '/if' has bodies that graph 'if_captures' doesn't know of"),
    ("if_captures", false_holding, "graph 'if_captures' counts an op among those with bodies that has none"),
    ("if_captures", whole_body, "the body 'then' of If '/if' is not made as one"),
    ("if_captures", lose_capture_edge, "If '/if' of graph 'if_captures' lacks an edge for %outer"),
    ("if_captures", false_capture_edge, "If '/if' of graph 'if_captures' has an edge for %x but no port"),
    ("if_captures", stale_capture, "graph 'other' holds %x of a graph around it, but reads it no more"),
    ("if_captures", shadowed, "MatMul '/chosen' of graph 'then' reads %relu, but there %relu is another"),
    ("if_captures", stranger_captured, "MatMul '/chosen' of graph 'then' reads %stranger, which belongs to no graph"),
    ("if_captures", value_in_two_graphs, "%x belongs to graph 'if_captures' and to graph 'then'"),
    ("if_captures", body_functions, "the body 'then' of If '/if' has functions: they belong to the model"),
    ("function_call", function_functions, "is the body of an op, or has functions of its own"),
    ("function_call", body_as_function, "the function d::f is the body of an op"),
    ("function_call", broken_function, "nothing makes %loose of graph 'ScaledLeaky'"),
    ("function_call", shared_with_function, "%x belongs to graph 'function_call' and to the graph"),
    ("function_call", too_many_arguments, "has 3 inputs, but its function has 2"),
    ("function_call", too_many_results, "has 2 outputs, but its function has 1"),
    ("function_call", endless_calls, "the function example.functions::ScaledLeaky ends up calling itself"),
]


@pytest.mark.parametrize(("name", "broken", "said"), BREAKS)
def test_each_break_is_found(name: str, broken: Callable[[Graph], None], said: str) -> None:
    graph = TINY[name]()
    broken(graph)
    with pytest.raises(GraphError) as caught:
        verify(graph)
    assert said in str(caught.value)
    assert caught.value.hint


def test_the_error_shows_ten_lines_around_the_op() -> None:
    graph = TINY["attention"]()
    graph.nx.remove_edge(graph["mul"], op(graph, "/softmax"))
    with pytest.raises(GraphError) as caught:
        verify(graph)
    first, *lines, hint = str(caught.value).splitlines()
    assert first == "Softmax '/softmax' of graph 'attention' lacks an edge for %mul"
    assert len(lines) == 10
    assert lines[5] == "> %softmax = Softmax(%mul) {axis = -1} @/softmax"
    assert lines[3] == "  %scaling = f32[] 0.5"
    assert hint == "  hint: change ports with add_op and set_inputs"


def test_types_of_constants_may_be_wider() -> None:
    graph = TINY["conv_bn_relu"]()
    for shape in (None, (6, 3, 3, 3), ("out", 3, None, 3)):
        graph["conv.weight"].type = TensorType(DataType.FLOAT32, shape)
        verify(graph)


def test_a_name_inside_may_shadow_one_that_is_not_captured() -> None:
    graph = TINY["if_captures"]()
    body = holder(graph).bodies()[0]
    body.rename(body["chosen"], "x")
    verify(graph)


def test_what_is_allowed() -> None:
    graph = Graph()
    verify(graph)
    value = add_input(graph, "x", ())
    add_constant(graph, "unread", np.zeros(3))
    graph.set_interface(outputs=[value, value])
    emit(graph, "ai.onnx::Relu", [value, None, value], {"b": [], "f": [1.0], "s": ["a"]}, outputs=[None, "y", None])
    graph["y"].metadata = NOTHING
    verify(graph)


def test_a_body_that_is_not_attached_yet() -> None:
    graph = TINY["if_captures"]()
    body = Graph("free", body=True)
    body.set_interface(outputs=[emit(body, "Relu", [graph["relu"]], outputs=["r"]).output])
    verify(body)


def test_ten_thousand_ops_take_no_time() -> None:
    """The bound is ten times what it takes (30 ms), so that it holds on a busy machine."""
    from time import process_time

    graph = Graph()
    value, weight = add_input(graph, "x", ()), add_constant(graph, "w", np.zeros(3))
    for _ in range(10_000):
        value = emit(graph, "Conv", [value, weight], {"strides": [1, 1]}).output
    graph.set_interface(outputs=[value])
    graph.ops()
    start = process_time()
    verify(graph)
    assert process_time() - start < 0.4
