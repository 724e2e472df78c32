"""The five mutators and what is composed of them: adjacency follows the ports, inside bodies and out."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from helpers.graphs import tiny_graphs

from secateur.ir import Attribute, AttributeKind, FunctionKey, Graph, Op, Tensor, TensorType, Value
from secateur.ir.build import add_constant, add_input, emit
from secateur.ir.errors import GraphError
from secateur.ir.text_parse import parse_graph
from secateur.ir.text_print import print_graph

TINY = tiny_graphs()


def small() -> Graph:
    return parse_graph("opset 1 graph(%x) -> (%y) { %w = f32[] 1.0 %a = A(%x, %w) %b = B(%a) %y = Y(%b, %b) }")


def nested() -> Graph:
    """A value that is read two bodies deep, and another that a body gives back as it is."""
    return parse_graph(
        """opset 1 graph(%x) -> (%y) {
             %a = A(%x)
             %b = B(%x)
             %y = If(%x) {
               else_branch = graph @outer() -> (%o) {
                 %o = If(%x) {
                   else_branch = graph @inner() -> (%i) { %i = I(%a) },
                   then_branch = graph @passing() -> (%b) {}
                 }
               }
             }
           }"""
    )


def op(graph: Graph, op_type: str) -> Op:
    return next(found for part in graph.graphs() for found in part.ops() if found.op_type == op_type)


def edges(graph: Graph) -> set[tuple[str, str]]:
    return {(str(first), str(second)) for first, second in graph.nx.edges}


# ---- adding and removing -----------------------------------------------------------------------------------------


def test_reading() -> None:
    graph = small()
    a, b, y = (op(graph, kind) for kind in "ABY")
    assert graph.ops() == [a, b, y]
    assert graph.producer(graph["b"]) is b and graph.producer(graph["x"]) is None
    assert graph.consumers(graph["b"]) == [y]
    assert graph.uses(graph["b"]) == [(y, 0), (y, 1)]
    assert graph.is_used(graph["y"]) and graph.is_used(graph["w"])
    assert graph.get("none") is None and "none" not in graph
    assert list(graph.constants()) == [graph["w"]]
    assert graph.constant(graph["w"]) is graph["w"].const
    assert graph.constant(None) is None and graph.constant(graph["a"]) is None
    with pytest.raises(GraphError, match="no value 'none' in the graph"):
        graph["none"]


def test_an_overridable_constant_is_no_constant() -> None:
    graph = TINY["overridable_input"]()
    assert graph.constant(graph["gain"]) is None
    assert not graph.is_constant(graph["gain"]) and graph.is_constant(graph["w"])


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        (["x"], "cannot make 'x'"),
        (["w"], "cannot make 'w'"),
        (["a"], "cannot make 'a'"),
        (["n", "n"], "cannot make two values of one name"),
        ([""], "it has no name"),
    ],
)
def test_an_op_with_bad_outputs_is_refused_and_nothing_changes(outputs: list[str], said: str) -> None:
    graph = small()
    before = print_graph(graph)
    with pytest.raises(GraphError, match=said):
        graph.add_op(Op("N", (graph["x"],), tuple(Value(name) for name in ["fresh", *outputs])))
    for name in outputs:
        if name in "xwa" and name:
            with pytest.raises(GraphError, match="cannot make"):
                graph.add_op(Op("N", (graph["x"],), (Value("fresh"), graph[name])))
    assert print_graph(graph) == before
    graph.verify()


def test_strangers_are_refused_and_nothing_changes() -> None:
    graph, stranger = small(), Value("stranger")
    before = print_graph(graph)
    body = Graph(body=True)
    emit(body, "I", [stranger])
    refusals = (
        lambda: graph.add_op(Op("N", (stranger,), (Value("n"),))),
        lambda: graph.add_op(Op("N", (), (Value("n"),), {"body": Attribute.of(body)})),
        lambda: graph.set_inputs(op(graph, "B"), [stranger]),
        lambda: graph.set_interface(outputs=[stranger]),
    )
    for refuse in refusals:
        with pytest.raises(GraphError, match="reads 'stranger', which belongs to no graph around it"):
            refuse()
    other = Op("B", (), ())
    with pytest.raises(GraphError, match="is not in the graph"):
        graph.set_inputs(other, [])
    with pytest.raises(GraphError, match="does not belong to it"):
        graph.remove(other)
    with pytest.raises(GraphError, match="does not belong to it"):
        graph.remove(Value("a"))
    with pytest.raises(GraphError, match="already in the graph"):
        graph.add_op(op(graph, "B"))
    assert print_graph(graph) == before
    graph.verify()


def test_add_value_refuses_names_that_are_taken_and_values_of_others() -> None:
    graph = nested()
    with pytest.raises(GraphError, match="already has a value 'a'"):
        graph.add_value(Value("a"))
    with pytest.raises(GraphError, match="without a name"):
        graph.add_value(Value(""))
    assert graph.add_value(graph["a"]) is graph["a"]
    inner = op(graph, "I").outputs[0]
    body = next(part for part in graph.graphs() if part.name == "inner")
    assert body.owner(graph["a"]) is graph and graph.owner(inner) is None
    with pytest.raises(GraphError, match="belongs to a graph around it"):
        body.add_value(graph["a"])
    with pytest.raises(GraphError, match="belongs to a graph around"):
        body.add_op(Op("N", (), (graph["a"],)))


def test_remove_names_who_still_needs_it() -> None:
    graph = small()
    with pytest.raises(GraphError, match="cannot remove 'a' from the graph: B '-> b' still needs it"):
        graph.remove(op(graph, "A"))
    with pytest.raises(GraphError, match="cannot remove 'y' from the graph: the graph's interface still needs it"):
        graph.remove(op(graph, "Y"))
    with pytest.raises(GraphError, match="cannot remove 'x' from the graph: A '-> a' still needs it"):
        graph.remove(graph["x"])
    with pytest.raises(GraphError, match="cannot remove 'w'"):
        graph.remove(graph["w"])
    a, w = op(graph, "A"), graph["w"]
    graph.replace_all_uses(graph["a"], graph["x"])
    with pytest.raises(GraphError, match="remove the op that makes it"):
        graph.remove(graph["a"])
    graph.remove(a, w)
    assert print_graph(graph) == print_graph(parse_graph("opset 1 graph(%x) -> (%y) { %b = B(%x) %y = Y(%b, %b) }"))
    graph.verify()
    with pytest.raises(GraphError, match="'x' from the graph: B '-> b' still needs it"):
        graph.remove(graph["x"])
    graph.set_interface(inputs=[])
    graph.replace_all_uses(graph["x"], add_constant(graph, "c", np.zeros(())))
    graph.remove(graph["x"])
    graph.verify()


def test_a_removed_op_can_be_added_again() -> None:
    graph = nested()
    before = print_graph(graph)
    holder = op(graph, "If")
    graph.set_interface(outputs=[])
    graph.remove(holder)
    assert edges(graph) == {("%x", "A '-> a'"), ("A '-> a'", "%a"), ("%x", "B '-> b'"), ("B '-> b'", "%b")}
    assert all(body.holder is None for body in holder.bodies())
    graph.verify()
    graph.add_op(holder)
    graph.set_interface(outputs=[holder.output])
    graph.verify()
    assert print_graph(graph) == before


def test_a_body_belongs_to_one_op() -> None:
    graph = nested()
    holder = op(graph, "If")
    with pytest.raises(GraphError, match="the body 'outer' of If '-> z' already belongs to If '-> y'"):
        graph.add_op(Op("If", holder.inputs, (Value("z"),), holder.attributes))
    assert "z" not in graph
    with pytest.raises(GraphError, match="attribute 'else_branch' of If '-> y' holds a body"):
        graph.set_attribute(holder, "else_branch", None)
    with pytest.raises(GraphError, match="attribute 'new' of If '-> y' holds a body"):
        graph.set_attribute(holder, "new", Graph(body=True))
    graph.verify()


# ---- ports and interface -------------------------------------------------------------------------------------------


def test_set_inputs_keeps_edges_in_step() -> None:
    graph = small()
    y = op(graph, "Y")
    graph.set_inputs(y, [graph["b"], None, graph["w"]])
    assert graph.uses(graph["b"]) == [(y, 0)] and graph.consumers(graph["w"])[-1] is y
    assert y.input(1) is None and y.input(2) is graph["w"] and y.input(9) is None
    graph.set_inputs(y, [])
    assert graph.consumers(graph["b"]) == []
    graph.verify()


def test_interface() -> None:
    graph = small()
    with pytest.raises(GraphError, match="'a' cannot be an input: A '-> a' makes it"):
        graph.set_interface(inputs=[graph["a"]])
    added = Value("z", TensorType(Tensor(np.zeros(1)).dtype, (1,)))
    graph.set_interface(inputs=[graph["x"], added, graph["w"]], outputs=[added, graph["w"], graph["y"], graph["y"]])
    assert graph.inputs == (graph["x"], added, graph["w"]) and graph["z"] is added
    graph.verify()
    with pytest.raises(GraphError, match="cannot remove 'z' from the graph: the graph's interface still needs it"):
        graph.remove(added)


def test_renaming() -> None:
    graph = small()
    graph.rename(graph["a"], "fresh")
    assert graph["fresh"].name == "fresh" and graph.get("a") is None
    graph.rename(graph["fresh"], "fresh")
    for name, said in (("b", "already has a value 'b'"), ("", "cannot rename 'fresh' of the graph to ''")):
        with pytest.raises(GraphError, match=said):
            graph.rename(graph["fresh"], name)
    with pytest.raises(GraphError, match="cannot rename 'fresh'"):
        graph.rename(Value("fresh"), "q")
    graph.verify()


def test_unique_names() -> None:
    graph = nested()
    assert graph.unique_name("new") == "new"
    assert [graph.unique_name("a") for _ in range(2)] == ["a_1", "a_2"]
    inner = next(part for part in graph.graphs() if part.name == "inner")
    assert graph.unique_name("i") == "i_1"  # a name of a body two levels down
    assert inner.unique_name("b") == "b_1"  # a name of the graph two levels up
    add_constant(graph, "b_2", np.zeros(1))
    assert [inner.unique_name("b"), inner.unique_name("b")] == ["b_3", "b_4"]
    assert add_constant(graph, "a", np.zeros(1)).name == "a_3"


def test_attributes() -> None:
    graph = small()
    a = op(graph, "A")
    graph.set_attribute(a, "axis", 1)
    graph.set_attribute(a, "mode", Attribute(AttributeKind.STRINGS, ("s",)))
    assert a.attribute("axis") == 1 and a.attribute("mode") == ("s",)
    graph.set_attribute(a, "axis", None)
    graph.set_attribute(a, "axis", None)
    assert a.attribute("axis", 7) == 7 and "axis" not in a.attributes
    with pytest.raises(TypeError):
        graph.set_attribute(a, "axis", object())


def test_a_graph_that_is_added_as_a_body_becomes_one() -> None:
    graph = small()
    body = Graph("plain")
    body.set_interface(outputs=[add_constant(body, "c", np.zeros(1))])
    holder = emit(graph, "If", [graph["x"]], {"body": body})
    assert body.is_body
    body.set_interface(outputs=[graph["a"]])
    graph.verify()
    graph.clone().verify()
    assert graph.consumers(graph["a"]) == [op(graph, "B"), holder]


def test_networkx_holds_no_attributes() -> None:
    graph = small()
    a = op(graph, "A")
    for change in (
        lambda: graph.nx.add_node(a, color="red"),
        lambda: graph.nx.add_edge(graph["x"], a, weight=1),
        lambda: graph.nx.nodes[a].update(color="red"),
        lambda: graph.nx.edges[graph["x"], a].__setitem__("weight", 1),
        lambda: nx.set_node_attributes(graph.nx, {a: {"color": "red"}}),
    ):
        with pytest.raises(TypeError, match="attributes live on Op and Value objects"):
            change()
    assert set(graph.nx.copy().edges) == set(graph.nx.edges)
    assert len(nx.ancestors(graph.nx, graph["y"])) == 7


# ---- captured values -----------------------------------------------------------------------------------------------


def test_captured_values_are_edges_at_every_level() -> None:
    graph = nested()
    outer, inner, passing = (
        next(p for p in graph.graphs() if p.name == name) for name in ("outer", "inner", "passing")
    )
    assert set(graph.captures(op(graph, "If"))) == {graph["x"], graph["a"], graph["b"]}
    assert set(outer.captured()) == {graph["x"], graph["a"], graph["b"]}
    assert inner.captured() == [graph["a"]] and passing.captured() == [graph["b"]]
    assert inner.root is graph and inner.holder is not None and inner.holder[0] is outer
    assert list(graph.graphs()) == [graph, outer, inner, passing]
    with pytest.raises(GraphError, match="cannot remove 'a' from the graph: If '-> y' still needs it"):
        graph.remove(op(graph, "A"))


def test_edges_follow_what_bodies_read() -> None:
    graph = nested()
    inner = next(part for part in graph.graphs() if part.name == "inner")
    passing = next(part for part in graph.graphs() if part.name == "passing")
    inner.set_inputs(op(graph, "I"), [graph["x"]])
    assert graph.consumers(graph["a"]) == []
    graph.verify()
    passing.set_interface(outputs=[graph["a"]])
    assert graph.consumers(graph["b"]) == [] and graph.consumers(graph["a"]) == [op(graph, "If")]
    graph.verify()
    passing.set_interface(outputs=[emit(passing, "N", [graph["b"]]).output])
    assert graph.consumers(graph["a"]) == []
    graph.remove(op(graph, "A"))
    passing.set_interface(outputs=[graph["x"]])
    passing.remove(op(graph, "N"))
    assert graph.consumers(graph["b"]) == []
    graph.verify()


def test_the_order_follows_what_bodies_read() -> None:
    graph = parse_graph(
        "opset 1 graph(%x) -> (%y, %z) { %y = If(%x) { body = graph() -> (%i) { %i = I(%x) } } %z = Z(%x) }"
    )
    assert [found.op_type for found in graph.ops()] == ["If", "Z"]
    (body,) = op(graph, "If").bodies()
    body.set_inputs(op(graph, "I"), [graph["z"]])
    assert [found.op_type for found in graph.ops()] == ["Z", "If"]
    body.set_inputs(op(graph, "I"), [graph["y"]])
    with pytest.raises(GraphError, match="cycle"):
        graph.ops()


def test_replacing_reaches_into_bodies() -> None:
    graph = nested()
    fresh = emit(graph, "F", [graph["x"]]).output
    for name in ("a", "b", "y"):
        graph.replace_all_uses(graph[name], fresh)
    graph.remove(op(graph, "If"), op(graph, "A"), op(graph, "B"))
    assert graph.outputs == (fresh,)
    graph = nested()
    fresh = emit(graph, "F", [graph["x"]]).output
    graph.replace_all_uses(graph["a"], fresh)
    graph.replace_all_uses(graph["b"], fresh)
    graph.verify()
    assert graph.consumers(fresh) == [op(graph, "If")]
    assert op(graph, "I").inputs == (fresh,)
    assert next(part for part in graph.graphs() if part.name == "passing").outputs == (fresh,)


def test_constants_are_seen_from_inside() -> None:
    graph = TINY["if_captures"]()
    body = op(graph, "If").bodies()[0]
    assert body.constant(graph["outer"]) is graph["outer"].const
    assert body.constant(graph["relu"]) is None


# ---- order, copies -------------------------------------------------------------------------------------------------


def test_the_order_of_the_file_is_kept() -> None:
    text = "opset 1 graph(%x) -> (%c, %d) { %b = B(%x) %a = A(%x) %d = D(%a) %c = C(%b, %a) }"
    assert [found.op_type for found in parse_graph(text).ops()] == ["B", "A", "D", "C"]


def test_an_op_that_is_inserted_later_comes_right_before_its_first_use() -> None:
    graph = parse_graph("opset 1 graph(%x) -> (%c) { %a = A(%x) %b = B(%x) %c = C(%a, %b) }")
    late = emit(graph, "Late", [graph["b"]])
    graph.set_inputs(op(graph, "C"), [graph["a"], late.output])
    early = emit(graph, "Early", [graph["x"]])
    graph.set_inputs(op(graph, "B"), [early.output])
    emit(graph, "Last", [graph["x"]])
    order = [found.op_type for found in graph.ops()]
    assert order == ["A", "Early", "B", "Late", "C", "Last"]
    assert [found.op_type for found in graph.clone().ops()] == order


def test_ops_that_are_inserted_together_keep_their_order() -> None:
    graph = parse_graph("opset 1 graph(%x) -> (%c) { %c = C(%x) }")
    first, second = (emit(graph, kind, [graph["x"]]).output for kind in ("First", "Second"))
    graph.set_inputs(op(graph, "C"), [first, second])
    assert [found.op_type for found in graph.ops()] == ["First", "Second", "C"]


def test_cycles_are_named() -> None:
    graph = small()
    first = op(graph, "A")
    graph.set_inputs(first, [graph["b"]])
    with pytest.raises(GraphError, match="the ops of the graph form a cycle through"):
        graph.ops()
    graph.set_inputs(first, [graph["a"]])
    with pytest.raises(GraphError, match="cycle through A '-> a' and A '-> a'"):
        graph.ops()


@pytest.mark.parametrize("name", TINY)
def test_clones_are_independent(name: str) -> None:
    graph = TINY[name]()
    before = print_graph(graph)
    copy = graph.clone()
    nodes = {id(node) for part in graph.graphs() for node in part.nx}
    assert not any(id(node) in nodes for part in copy.graphs() for node in part.nx)
    for part in list(copy.graphs()):
        part.name, part.doc = "changed", "changed"
        part.metadata["changed"] = "yes"
        part.set_interface(outputs=[])
        for found in reversed(part.ops()):
            found.attributes["changed"] = Attribute.of(1)
            if not any(part.is_used(value) for value in found.outputs if value is not None):
                part.remove(found)
        for value in list(part.values()):
            value.doc = "changed"
    copy.functions[FunctionKey("d", "f")] = Graph()
    for function in copy.functions.values():
        function.name = "changed"
    assert print_graph(graph) == before
    graph.verify()


def test_deep_graphs_need_no_recursion() -> None:
    graph = Graph()
    value = add_input(graph, "x", ())
    for _ in range(5000):
        value = emit(graph, "Relu", [value]).output
    graph.set_interface(outputs=[value])
    graph.verify()
    assert len(graph.clone().ops()) == 5000
    assert print_graph(graph).count("Relu(") == 5000


def test_ops_derived_from_one_are_named_apart() -> None:
    graph = Graph("derived")
    x = add_input(graph, "x", [2])
    like = emit(graph, "Relu", [x])
    like.name = "relu"
    made = [emit(graph, "Mul", [x, x], like=like) for _ in range(3)]
    made += [emit(graph, "Mul", [x, x], like=like, outputs=[name]) for name in ("first", "second")]
    assert made[0].name == "relu/Mul"
    assert len({op.name for op in made}) == len(made)
