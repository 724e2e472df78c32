"""Anything in any order: random mutations of a model with bodies, against edges computed from the ports alone."""

from __future__ import annotations

from collections.abc import Iterator

import networkx as nx
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from secateur.ir import Graph, Op, Value
from secateur.ir.build import add_constant, add_input, emit
from secateur.ir.equal import first_difference
from secateur.ir.errors import GraphError
from secateur.ir.text_parse import parse_graph
from secateur.ir.text_print import print_graph


def nested() -> Graph:
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


class Mutations(RuleBasedStateMachine):
    """Random mutations of a model with bodies; after each, edges must be those that the ports alone imply."""

    @initialize()
    def start(self) -> None:
        self.graph = nested()

    def pick(self, data: st.DataObject, items: list) -> object:
        return items[data.draw(st.integers(0, len(items) - 1))]

    def part(self, data: st.DataObject) -> Graph:
        return self.pick(data, list(self.graph.graphs()))  # type: ignore[return-value]

    def readable(self, graph: Graph, reader: Op | None) -> list[Value]:
        """What an op of a graph may read without making a cycle."""
        found: list[Value] = []
        at: Op | None = reader
        around: Graph | None = graph
        while around is not None:
            after = nx.descendants(around.nx, at) if at is not None else set()
            found += [value for value in around.values() if value not in after]
            around, at = around.holder or (None, None)
        return found

    @rule(data=st.data(), kind=st.sampled_from(["constant", "input"]))
    def add_value(self, data: st.DataObject, kind: str) -> None:
        graph = self.part(data)
        if kind == "constant":
            add_constant(graph, "c", np.float32(len(graph.nx)))
        else:
            add_input(graph, graph.unique_name("in"), ())

    @rule(data=st.data(), bodies=st.integers(0, 2))
    def add_op(self, data: st.DataObject, bodies: int) -> None:
        graph = self.part(data)
        known: list[Value | None] = [*self.readable(graph, None), None]
        inputs = [self.pick(data, known) for _ in range(data.draw(st.integers(0, 3)))]
        attributes = {}
        for index in range(bodies):
            body = Graph(f"body{index}", body=True)
            read = self.pick(data, known)
            made = emit(body, "Inner", [read], outputs=[graph.unique_name(f"inner{index}")])  # type: ignore[list-item]
            body.set_interface(outputs=[made.output, read] if isinstance(read, Value) else [made.output])
            attributes[f"body{index}"] = body
        emit(graph, "Op", inputs, attributes, outputs=["v"] * data.draw(st.integers(1, 2)))  # type: ignore[arg-type]

    @rule(data=st.data())
    def set_inputs(self, data: st.DataObject) -> None:
        graph = self.part(data)
        if graph.ops():
            found: Op = self.pick(data, graph.ops())  # type: ignore[assignment]
            known: list[Value | None] = [*self.readable(graph, found), None]
            graph.set_inputs(found, [self.pick(data, known) for _ in range(data.draw(st.integers(0, 3)))])  # type: ignore[misc]

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        graph = self.part(data)
        nodes = [*graph.ops(), *(value for value in graph.values() if graph.producer(value) is None)]
        if nodes:
            node: Op | Value = self.pick(data, nodes)  # type: ignore[assignment]
            made = [node] if isinstance(node, Value) else [value for value in node.outputs if value is not None]
            needed = any(graph.is_used(value) or value in graph.inputs for value in made)
            if needed:
                with pytest.raises(GraphError, match="still needs it"):
                    graph.remove(node)
            else:
                graph.remove(node)

    @rule(data=st.data())
    def replace(self, data: st.DataObject) -> None:
        graph = self.part(data)
        values = list(graph.values())
        if values:
            old: Value = self.pick(data, values)  # type: ignore[assignment]
            new: Value = self.pick(data, [value for value in values if not nx.has_path(graph.nx, old, value)] or [old])  # type: ignore[assignment]
            graph.replace_all_uses(old, new)
            assert new is old or not graph.is_used(old)

    @rule(data=st.data())
    def set_outputs(self, data: st.DataObject) -> None:
        graph = self.part(data)
        known = self.readable(*(graph, None)) if graph.holder is None else list(self.reach_of_body(graph))
        if known:
            graph.set_interface(outputs=[self.pick(data, known) for _ in range(data.draw(st.integers(0, 2)))])  # type: ignore[misc]

    def reach_of_body(self, graph: Graph) -> Iterator[Value]:
        assert graph.holder is not None
        yield from graph.values()
        yield from self.readable(*graph.holder)

    @rule(data=st.data())
    def rename(self, data: st.DataObject) -> None:
        graph = self.part(data)
        values = list(graph.values())
        if values:
            graph.rename(self.pick(data, values), graph.unique_name("renamed"))  # type: ignore[arg-type]

    @invariant()
    def edges_are_those_of_the_ports(self) -> None:
        self.graph.verify()
        for graph in self.graph.graphs():
            assert set(graph.nx.edges) == set(port_edges(graph))
            assert set(graph.captured()) == set(outside(graph))

    @invariant()
    def copies_are_the_same(self) -> None:
        text = print_graph(self.graph)
        for other in (self.graph.clone(), parse_graph(text)):
            assert first_difference(self.graph, other) is None
            assert print_graph(other) == text


def port_edges(graph: Graph) -> Iterator[tuple[Op | Value, Op | Value]]:
    for found in graph.ops():
        yield from ((found, value) for value in found.outputs if value is not None)
        yield from ((value, found) for value in found.inputs if value is not None)
        yield from ((value, found) for body in found.bodies() for value in outside(body))


def outside(body: Graph) -> Iterator[Value]:
    """What a body reads of the graphs around it, by its ports alone."""
    own = set(body.values())
    read = [value for found in body.ops() for value in found.inputs if value is not None]
    read += [value for found in body.ops() for inner in found.bodies() for value in outside(inner)]
    yield from (value for value in (*read, *body.outputs) if value not in own)


TestMutations = Mutations.TestCase
TestMutations.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
