"""Parts of graphs: the right ops and nothing else, the original untouched, honest refusals."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from helpers.graphs import tiny_graphs

from secateur.ir import DataType, Graph, Op, TensorType, Value
from secateur.ir.build import add_constant, add_input, emit
from secateur.ir.equal import equal
from secateur.ir.errors import GraphError
from secateur.ir.extract import extract, extract_shapes, forget_sizes, grouped

_NAMES = sorted(tiny_graphs())


def made(graph: Graph) -> list[Value]:
    return [value for op in graph.ops() for value in op.outputs if value is not None]


def ops_before(graph: Graph, cut: list[str], outputs: list[str]) -> set[str]:
    """By networkx alone: what leads to the outputs once nothing leads to the cut any more."""
    paths = nx.DiGraph(graph.nx.edges)
    paths.add_nodes_from(graph.nx.nodes)
    paths.remove_edges_from([edge for edge in list(paths.edges) if edge[1] in {graph[name] for name in cut}])
    found = {node for name in outputs for node in nx.ancestors(paths, graph[name])}
    return {node.output.name for node in found if isinstance(node, Op)}


@pytest.mark.parametrize("name", _NAMES)
def test_a_part_has_exactly_the_ops_on_the_way(name: str) -> None:
    graph = tiny_graphs()[name]()
    untouched = graph.clone()
    for value in made(graph):
        part = extract(graph, None, [value.name])
        part.verify()
        assert {op.output.name for op in part.ops()} == ops_before(graph, [], [value.name])
        assert [output.name for output in part.outputs] == [value.name]
        assert [given.name for given in part.inputs] == [given.name for given in graph.inputs]
        assert all(constant.const is graph[constant.name].const for constant in part.constants())
        assert part.header == graph.header and part.functions.keys() == graph.functions.keys()
    assert equal(graph, untouched)


@pytest.mark.parametrize("name", _NAMES)
def test_a_cut_value_becomes_an_input_and_nothing_before_it_stays(name: str) -> None:
    graph = tiny_graphs()[name]()
    everything = [value.name for value in graph.inputs]
    outputs = [value.name for value in graph.outputs]
    for value in made(graph):
        cut = [value.name, *everything]
        part = extract(graph, cut, outputs)
        part.verify()
        assert [given.name for given in part.inputs] == cut
        assert part.inputs[0].type == value.type and part.producer(part.inputs[0]) is None
        kept = {op.output.name.removesuffix("_computed") for op in part.ops()}
        assert kept == ops_before(graph, cut, outputs)


def test_the_whole_is_equal_to_the_graph_it_comes_from() -> None:
    graph = tiny_graphs()["attention"]()
    assert equal(extract(graph, None, [value.name for value in graph.outputs]), graph)


def test_what_is_cut_at_one_output_of_an_op_still_gets_the_other() -> None:
    graph = tiny_graphs()["scan"]()
    part = extract(graph, ["initial", "sequence", "final"], ["all", "final"])
    part.verify()
    assert part.producer(part["final"]) is None
    (scan,) = part.ops()
    assert [value and value.name for value in scan.outputs] == ["final_computed", "all"]


def test_inputs_constants_and_repeated_names_may_be_outputs() -> None:
    graph = tiny_graphs()["overridable_input"]()
    part = extract(graph, ["x"], ["x", "w", "gain", "x"])
    part.verify()
    assert [value.name for value in part.outputs] == ["x", "w", "gain"]
    assert not part.ops() and part.is_constant(part["gain"])


def test_a_constant_may_be_fed_and_a_default_stays_a_default() -> None:
    graph = tiny_graphs()["overridable_input"]()
    part = extract(graph, ["x", "w", "gain"], [graph.outputs[0].name])
    assert part["w"].const is None and part["w"].type == graph["w"].type
    assert part["gain"].const is graph["gain"].const and part["gain"] in part.inputs


def test_bodies_are_copied_with_what_they_capture() -> None:
    graph = tiny_graphs()["if_captures"]()
    part = extract(graph, ["condition", "relu"], ["if"])
    part.verify()
    (op,) = part.ops()
    assert {value.name for value in part.captures(op)} == {"relu", "outer"}
    assert all(body is not other for body, other in zip(op.bodies(), graph.ops()[-2].bodies(), strict=True))
    assert all(value in part for value in part.captures(op))


def test_an_uncovered_input_is_named_with_the_op_that_reads_it() -> None:
    graph = tiny_graphs()["if_captures"]()
    with pytest.raises(GraphError, match=r"'tanh' depends on the graph input 'condition' \(If .*cut at 'x'") as caught:
        extract(graph, ["x"], ["tanh"])
    assert "'condition'" in (caught.value.hint or "")
    with pytest.raises(GraphError, match="'x' depends on the graph input 'x', which the cut at 'w' does not cover"):
        extract(graph, ["w"], ["x"])
    with pytest.raises(GraphError, match="cut at nothing"):
        extract(graph, [], ["tanh"])


def test_unknown_names_and_those_inside_bodies_are_refused() -> None:
    graph = tiny_graphs()["nested_if"]()
    with pytest.raises(GraphError, match="no value 'nobody'"):
        extract(graph, None, ["nobody"])
    with pytest.raises(GraphError, match="'deep' lies in the body 'innermost' of If"):
        extract(graph, None, ["deep"])
    with pytest.raises(GraphError, match="'shallow' lies in the body"):
        extract(graph, ["shallow"], ["if"])
    with pytest.raises(GraphError, match="is the body of an op"):
        extract(graph.ops()[-1].bodies()[0], None, ["inner"])


def test_a_long_chain_takes_no_recursion_and_linear_time() -> None:
    graph = Graph("chain")
    value = add_input(graph, "x", (4,))
    for _ in range(5000):
        value = emit(graph, "Relu", [value]).output
    graph.set_interface(outputs=[value])
    assert len(extract(graph, None, [value.name]).ops()) == 5000
    assert len(extract(graph, ["relu_2500"], [value.name]).ops()) == 2499


def test_shapes_are_the_outputs_in_the_order_asked_for() -> None:
    graph = tiny_graphs()["gemm_mlp"]()
    part = extract_shapes(graph, ["fc1"], ["fc2", "relu", "fc1"])
    part.verify()
    readers = [part.producer(value) for value in part.outputs]
    assert [op.inputs[0].name for op in readers if op and op.inputs[0]] == ["fc2", "relu", "fc1"]
    assert {op.op_type for op in readers if op} == {"Shape"}


def test_sizes_are_forgotten_where_the_graph_is_cut_and_nowhere_else() -> None:
    graph = Graph("g")
    x = add_input(graph, "x", (1, 3))
    y = emit(graph, "Relu", [x], outputs=("y",)).output
    y.type = TensorType(DataType.FLOAT32, (1, 3))
    z = emit(graph, "Add", [x, y], outputs=("z",)).output
    graph.set_interface(outputs=[z])
    part = extract(graph, ["x", "y"], ["z"])
    forget_sizes(part, graph)
    assert [value.type for value in part.inputs] == [x.type, TensorType(DataType.FLOAT32, (None, None))]
    assert y.type == TensorType(DataType.FLOAT32, (1, 3))


def test_a_part_may_be_changed_without_the_original_noticing() -> None:
    graph = tiny_graphs()["function_call"]()
    untouched = graph.clone()
    part = extract(graph, None, [graph.outputs[0].name])
    for body in part.functions.values():
        body.rename(body.inputs[0], "other")
    part.set_inputs(part.ops()[0], [add_constant(part, "new", np.ones(6, np.float32))] * 2)
    assert equal(graph, untouched)


def test_groups_keep_order_and_fill_up_to_the_limit() -> None:
    assert grouped({"a": 4, "b": 4, "c": 4, "d": 20, "e": 1}, 8) == [["a", "b"], ["c"], ["d"], ["e"]]
    assert grouped({"a": 4, "b": 4}, 8) == [["a", "b"]]
    assert grouped({"a": 4, "b": 4}, 1) == [["a"], ["b"]]
    assert grouped(dict[str, int](), 1) == []
