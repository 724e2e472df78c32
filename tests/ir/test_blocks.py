"""Blocks against brute force: a value cuts the graph exactly if nothing gets through without it."""

from __future__ import annotations

import random
from itertools import pairwise
from time import process_time

import networkx as nx
import numpy as np
import pytest
from helpers.graphs import tiny_graphs
from helpers.random_graphs import random_graph
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.ir import Graph, Op, Value
from secateur.ir.blocks import Block, blocks, cut_values, residual_blocks
from secateur.ir.build import add_constant, add_input, emit
from secateur.ir.text_parse import parse_graph

TINY = tiny_graphs()


def random_dag(seed: int) -> Graph:
    """Ops with one to three inputs, mostly among the latest values, some of them constants; one or two outputs."""
    source = random.Random(seed)
    graph = Graph()
    known = [add_input(graph, f"x{index}", ()) for index in range(source.choice((1, 1, 1, 2)))]
    for index in range(source.randrange(1, 14)):
        reach = known[-source.choice((1, 2, 3, 8)) :]
        inputs: list[Value | None] = [source.choice(reach) for _ in range(source.choice((1, 1, 2, 3)))]
        if source.random() < 0.3:
            inputs.append(add_constant(graph, f"w{index}", np.float32(1)))
        if source.random() < 0.15:
            inputs.append(emit(graph, "Identity", [add_constant(graph, f"c{index}", np.float32(1))]).output)
        kind = source.choice(("Relu", "Add", "Add", "Split"))
        made = emit(graph, kind, inputs, outputs=["v", "v"] if kind == "Split" else ["v"])
        known += [value for value in made.outputs if value is not None]
    graph.set_interface(outputs=source.sample(known[-3:], k=min(len(known[-3:]), source.choice((1, 1, 1, 2)))))
    return graph


def paths(graph: Graph, side: set[Value]) -> nx.DiGraph:
    """Everything from a source before the inputs to a sink after the outputs, without constants and side values."""
    whole = nx.DiGraph(graph.nx.edges)
    whole.add_nodes_from(graph.nx)
    whole.add_edges_from(("source", value) for value in graph.inputs)
    whole.add_edges_from((value, "sink") for value in graph.outputs)
    whole.add_nodes_from(("source", "sink"))
    whole.remove_nodes_from([node for node in graph.values() if node.const is not None or node in side])
    return whole


def cuts_by_force(graph: Graph, side: set[Value]) -> list[Value]:
    whole = paths(graph, side)
    if not nx.has_path(whole, "source", "sink"):
        return []
    found = []
    for value in whole:
        if isinstance(value, Value):
            rest = whole.copy()
            rest.remove_node(value)
            if not nx.has_path(rest, "source", "sink"):
                found.append(value)
    return sorted(found, key=lambda value: len(nx.ancestors(whole, value)))


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), aside=st.integers(0, 3))
def test_cuts_are_what_nothing_gets_around(seed: int, aside: int) -> None:
    graph = random_dag(seed)
    values = [value for value in graph.values() if value not in graph.outputs]
    side = {values[seed % len(values)]} if values and aside == 0 else set()
    found = cut_values(graph, side=side)
    assert found == cuts_by_force(graph, side)
    assert found == cuts_by_dominators(graph, side)


def cuts_by_dominators(graph: Graph, side: set[Value]) -> list[Value]:
    above = nx.immediate_dominators(paths(graph, side), "source")
    chain: list[Value] = []
    node = above.get("sink")
    while node is not None and node != "source":
        chain += [node] if isinstance(node, Value) else []
        node = above.get(node)
    return chain[::-1]


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_blocks_hold_what_lies_between_cuts(seed: int) -> None:
    graph = random_dag(seed)
    found = blocks(graph)
    assert [(block.entry, block.exit) for block in found] == list(pairwise(cut_values(graph)))
    turn = {op: index for index, op in enumerate(graph.ops())}
    seen: set[Op] = set()
    for block in found:
        assert list(block.ops) == sorted(block.ops, key=turn.__getitem__)
        assert not seen & set(block.ops)
        seen.update(block.ops)
        assert_computable(graph, block, seen)
    whole = paths(graph, set())
    if found:
        first, last = found[0].entry, found[-1].exit
        between = nx.descendants(whole, first) & nx.ancestors(whole, last)
        assert {node for node in between if isinstance(node, Op)} <= seen


def assert_computable(graph: Graph, block: Block, seen: set[Op]) -> None:
    """Every op of the block reads its entry, constants, and what this block (or, of constants, an earlier) made."""
    known = {block.entry, *graph.constants()}
    known.update(value for op in seen - set(block.ops) if not is_fed(graph, op) for value in op.outputs if value)
    for op in block.ops:
        assert all(value is None or value in known for value in op.inputs)
        known.update(value for value in op.outputs if value is not None)
    assert block.exit in known


def is_fed(graph: Graph, op: Op) -> bool:
    return any(nx.has_path(graph.nx, value, op) for value in graph.inputs)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_residual_blocks_have_one_way_in_and_one_way_out(seed: int) -> None:
    graph = random_dag(seed)
    whole = paths(graph, set())
    found = {block.exit: block for block in residual_blocks(graph)}
    for op in graph.ops():
        expected = region_by_force(graph, whole, op)
        block = found.get(op.output)
        assert (block.entry if block else None) is expected
        if block:
            inside = nx.descendants(whole, block.entry) & nx.ancestors(whole, block.exit)
            assert {node for node in inside if isinstance(node, Op)} <= set(block.ops)
            assert_computable(graph, block, set(block.ops))


def region_by_force(graph: Graph, whole: nx.DiGraph, join: Op) -> Value | None:
    """The last value that every path to a join goes through, if nothing that leaves it gets past the join."""
    alive = nx.descendants(whole, "source") & nx.ancestors(whole, "sink")
    operands = {value for value in join.inputs if value in alive}
    if join.op_type != "Add" or join not in alive or len(operands) < 2:
        return None
    before = [node for node in alive & nx.ancestors(whole, join) if not reaches(whole, "source", join, node)]
    last = max(before, key=lambda node: len(nx.ancestors(whole, node)), default=None)
    if not isinstance(last, Value) or reaches(whole, last, "sink", join):
        return None
    # Only the nearest: nothing between the two may already gather all paths.
    return last


def reaches(whole: nx.DiGraph, start: object, end: object, without: object) -> bool:
    rest = whole.copy()
    rest.remove_node(without)
    return nx.has_path(rest, start, end)


def names(found: list[Block]) -> list[tuple[str, str, list[str]]]:
    return [(block.entry.name, block.exit.name, [op.output.name for op in block.ops]) for block in found]


def test_residual_network() -> None:
    graph = TINY["residual"]()
    cuts = [value.name for value in cut_values(graph)]
    assert cuts == ["x", "stem", "a_sum", "relu_1", "b_sum", "relu_3", "globalaveragepool", "flatten"]
    assert names(residual_blocks(graph)) == [
        ("stem", "a_sum", ["a1", "relu", "a2", "a_sum"]),
        ("relu_1", "b_sum", ["b1", "relu_2", "b2", "b_sum"]),
    ]
    assert names(blocks(graph))[1] == ("stem", "a_sum", ["a1", "relu", "a2", "a_sum"])


def test_nested_and_projected_blocks() -> None:
    graph = parse_graph(
        """graph(%x) -> (%y) {
             %a = Relu(%x)
             %p = Proj(%a)
             %b = Relu(%a)
             %c = Relu(%b)
             %inner = Add(%b, %c)
             %outer = Add(%p, %inner)
             %y = Relu(%outer)
           }"""
    )
    assert names(residual_blocks(graph)) == [
        ("b", "inner", ["c", "inner"]),
        ("a", "outer", ["p", "b", "c", "inner", "outer"]),
    ]
    assert [value.name for value in cut_values(graph)] == ["x", "a", "outer", "y"]


def test_a_way_past_the_join_or_into_the_block_spoils_it() -> None:
    past = parse_graph("graph(%x) -> (%y, %b) { %a = R(%x) %b = R(%a) %y = Add(%a, %b) }")
    into = parse_graph("graph(%x, %z) -> (%y) { %a = R(%x) %b = R(%a, %z) %y = Add(%a, %b) }")
    assert residual_blocks(past) == residual_blocks(into) == []
    assert names(residual_blocks(into, side=[into["z"]])) == [("a", "y", ["b", "y"])]


def test_what_every_layer_reads_can_be_put_aside() -> None:
    graph = parse_graph(
        """graph(%x, %mask) -> (%y) {
             %wide = Unsqueeze(%mask)
             %a = A(%x, %wide)
             %b = B(%a, %wide)
             %y = C(%b)
           }"""
    )
    assert [value.name for value in cut_values(graph)] == ["b", "y"]
    assert [value.name for value in cut_values(graph, side=[graph["mask"]])] == ["x", "a", "b", "y"]
    assert names(blocks(graph, side=[graph["mask"]])) == [
        ("x", "a", ["wide", "a"]),
        ("a", "b", ["b"]),
        ("b", "y", ["y"]),
    ]
    assert names(blocks(graph, side=[graph["wide"]])) == [("x", "a", ["a"]), ("a", "b", ["b"]), ("b", "y", ["y"])]


def test_constants_are_no_paths() -> None:
    for name in ("overridable_input", "constant_of_shape", "identity_chain", "shared_weight"):
        graph = TINY[name]()
        assert cut_values(graph)[0].name == "x"
        assert cut_values(graph)[-1] is graph.outputs[0]
    chain = TINY["identity_chain"]()
    assert names(blocks(chain))[2] == ("identity_1", "matmul", ["identity_2", "matmul"])


def test_an_add_that_is_none_ends_no_block() -> None:
    graph = parse_graph("graph(%x) -> (%y) { %a = A(%x) _, %y = Add(%x, %a) }")
    assert residual_blocks(graph) == []


def test_edges_of_the_model() -> None:
    empty = TINY["empty"]()
    assert cut_values(empty) == [empty["x"]]
    assert blocks(empty) == []
    assert cut_values(Graph()) == []
    assert cut_values(parse_graph("graph(%x) -> (%w) { %w = f32[] 1.0 }")) == []
    assert cut_values(TINY["weight_output"]())[-1].name == "matmul"


def test_bodies_are_part_of_their_op_and_can_be_cut_themselves() -> None:
    graph = TINY["if_captures"]()
    assert [value.name for value in cut_values(graph)] == ["if", "tanh"]
    condition = graph["condition"]
    found = cut_values(graph, side=[condition])
    assert [value.name for value in found] == ["x", "matmul", "relu", "if", "tanh"]
    body = next(op for op in graph.ops() if op.bodies()).bodies()[0]
    assert [value.name for value in cut_values(body)] == ["relu", "chosen"]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_odd_graphs_do_no_harm(seed: int) -> None:
    graph = random_graph(seed)
    for part in graph.graphs():
        blocks(part)
        residual_blocks(part)


@pytest.mark.parametrize("masked", [False, True])
def test_ten_thousand_ops_take_no_time(masked: bool) -> None:
    """Bounds are several times what it takes (0.2 and 0.5 s), so that they hold on a busy machine."""
    graph = Graph()
    value, mask = add_input(graph, "x", ()), add_input(graph, "mask", ())
    for _ in range(2000):
        branch = value
        for _ in range(3):
            branch = emit(graph, "Relu", [branch]).output
        branch = emit(graph, "Mul", [branch, mask if masked else branch]).output
        value = emit(graph, "Add", [value, branch]).output
    graph.set_interface(outputs=[value])
    start = process_time()
    assert len(blocks(graph, side=[mask])) == 2000
    middle = process_time()
    assert len(residual_blocks(graph, side=[mask])) == 2000
    assert middle - start < 1
    assert process_time() - middle < 3
