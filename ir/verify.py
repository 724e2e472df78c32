"""The structural verifier: every invariant of a graph, checked in O(n); it runs after every pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NoReturn, TypeAlias

import networkx as nx

from secateur.ir.attribute_kinds import INT64, mismatch
from secateur.ir.errors import GraphError
from secateur.ir.graph import Graph
from secateur.ir.model import FunctionKey
from secateur.ir.node import Attribute, AttributeKind, Op, Value
from secateur.ir.schemes import is_quantizer, scheme_fault
from secateur.ir.text_print import excerpt
from secateur.ir.text_types import type_text
from secateur.ir.types import TensorType

_Neighbours: TypeAlias = Mapping[Op | Value, Mapping[Op | Value, object]]

_MUTATE = "change the structure through the graph's mutators only"
_GRAPHS = (AttributeKind.GRAPH, AttributeKind.GRAPHS)
_FAST = {AttributeKind.INT: int, AttributeKind.FLOAT: float, AttributeKind.STRING: str}


def verify(graph: Graph) -> None:
    """Checks a model with its functions, one function, or one body; what is wrong is an error, not a return value.

    Names: every value has one of its own; a captured one means the same inside as outside. Interface: inputs are made
    by nobody, outputs exist. Values: made by one op, or constant (with the type of its tensor), or an input. Edges:
    those of the ports and captures, both ways, no others; no cycle. Attributes hold what their kind says, references
    name a parameter. Scales of quantized values fit. Bodies and their ops know each other. Every domain is imported,
    calls fit their functions, which call each other in no circle.

    Raises:
        GraphError: what is wrong and what to do, with ten lines of text around the op at fault.
    """
    functions = graph.functions or graph.root.functions
    owner: dict[Value, Graph] = {}
    _Verifier(graph.root, functions, owner).graph(graph)
    for key, function in graph.functions.items():
        if function.is_body or function.functions:
            raise GraphError(
                f"the function {key.domain}::{key.name} is the body of an op, or has functions of its own",
                hint="all functions belong to the model",
            )
        _Verifier(function, functions, owner).graph(function)
    if functions:
        _check_calls_end(functions)


class _Verifier:
    """Checks one model or one function, whose header says what is imported."""

    def __init__(self, root: Graph, functions: Mapping[FunctionKey, Graph], owner: dict[Value, Graph]) -> None:
        self.root = root
        self.functions = functions
        self.parameters = {name for name, _ in root.header.parameters}
        self.owner = owner
        self.imported: set[str] = set()

    def graph(self, graph: Graph) -> None:
        """Checks one graph and the bodies inside it."""
        succ: _Neighbours = dict(graph.nx.adjacency())
        pred: _Neighbours = dict(graph.nx.reverse(copy=False).adjacency())
        self.check_interface(graph, pred)
        self.check_values(graph, succ, pred)
        captured = self.check_captured(graph, succ)
        self.check_ops(graph, succ, pred, captured)

    # ---- values ----------------------------------------------------------------------------------------------------

    def check_interface(self, graph: Graph, pred: _Neighbours) -> None:
        if len(set(graph.inputs)) != len(graph.inputs):
            self.fault(graph, None, f"{graph.title} lists an input twice")
        for value in graph.inputs:
            if graph.get(value.name) is not value:
                self.fault(graph, value, f"the input {value!r} does not belong to {graph.title}", _MUTATE)
            if pred.get(value):
                self.fault(graph, value, f"the input {value!r} of {graph.title} is made by {_first(pred[value])}")
        for value in graph.outputs:
            if value not in pred:
                self.fault(graph, value, f"the output {value!r} of {graph.title} is not in it", _MUTATE)

    def check_values(self, graph: Graph, succ: _Neighbours, pred: _Neighbours) -> None:
        inputs, owner = set(graph.inputs), self.owner
        for name, value in graph._names.items():
            if value.name != name or not name:
                self.fault(graph, value, f"{value!r} is known to {graph.title} as {name!r}", "rename with graph.rename")
            if value not in succ:
                self.fault(graph, value, f"{value!r} of {graph.title} is not in its networkx graph", _MUTATE)
            if owner.setdefault(value, graph) is not graph:
                self.fault(graph, value, f"{value!r} belongs to {owner[value].title} and to {graph.title}")
            if value.const is not None:
                self.check_constant(graph, value, pred[value])
            elif not pred[value] and value not in inputs:
                self.fault(
                    graph,
                    value,
                    f"nothing makes {value!r} of {graph.title}: no op, and it is neither constant nor input",
                    "add the op that makes it, name it as an input, or remove it",
                )

    def check_constant(self, graph: Graph, value: Value, makers: Mapping[Op | Value, object]) -> None:
        if makers:
            self.fault(
                graph, value, f"the constant {value!r} is made by {_first(makers)} too", "give that op a new value"
            )
        kind, tensor = value.type, value.const
        assert tensor is not None
        if type(kind) is TensorType and kind.dtype is tensor.dtype:
            if kind.shape is None or kind.shape == tensor.shape:
                return
            sizes = zip(kind.shape, tensor.shape, strict=False)
            if len(kind.shape) == len(tensor.shape) and all(not isinstance(a, int) or a == b for a, b in sizes):
                return
        self.fault(
            graph,
            value,
            f"the constant {value!r} is {tensor!r}, but its type says {type_text(kind)}",
            "change constants with Value.set_const",
        )

    def check_captured(self, graph: Graph, succ: _Neighbours) -> set[Value]:
        """What the graph reads of those around it; nothing where it is a model or a function."""
        captured = {node for node in succ if type(node) is Value and graph.get(node.name) is not node}
        for value in captured:
            if graph.root.is_body:
                continue
            around: Graph | None = graph
            while around is not None and around.get(value.name) is None:
                around = around.holder[0] if around.holder else None
            if around is None or around.get(value.name) is not value:
                meant = "which belongs to no graph around it" if around is None else f"but there {value!r} is another"
                reader = _first(succ[value]) if succ[value] else "the interface"
                self.fault(
                    graph,
                    value,
                    f"{reader} of {graph.title} reads {value!r}, {meant}",
                    "add it to the graph, or give it a name that no graph inside uses",
                )
            if not succ[value] and value not in graph.outputs:
                self.fault(graph, value, f"{graph.title} holds {value!r} of a graph around it, but reads it no more")
        return captured

    # ---- ops -------------------------------------------------------------------------------------------------------

    def check_ops(self, graph: Graph, succ: _Neighbours, pred: _Neighbours, captured: set[Value]) -> None:
        order = self.order(graph, succ, captured)
        ready = {value for value in graph._names.values() if not pred[value]} | captured
        for op in order:
            if op not in pred:
                self.fault(graph, op, f"{op.title} is not in the networkx graph of {graph.title}", _MUTATE)
            reads: set[Value | None] = {*op.inputs}
            reads.discard(None)
            if op.attributes and self.check_attributes(graph, op):
                reads.update(self.check_bodies(graph, op))
            if pred[op].keys() != reads:
                self.fault_edges(graph, op, reads, pred[op])
            self.check_outputs(graph, op, succ[op], pred)
            if not pred[op].keys() <= ready:
                late = next(value for value in pred[op] if value not in ready)
                self.fault(
                    graph, op, f"{op.title} comes before what makes {late!r}: the order of ops is stale", _MUTATE
                )
            ready.update(succ[op])  # type: ignore[arg-type]  # an op's successors are values
            if op.domain not in self.imported:
                self.check_import(graph, op)
            if is_quantizer(op) and (message := scheme_fault(graph, op)) is not None:
                self.fault(graph, op, f"{op.title} {message}", "give it scales that fit")
            if self.functions:
                self.check_call(graph, op)
        if len(graph._hold_bodies) != sum(1 for op in graph._hold_bodies if op in pred and op.bodies()):
            self.fault(graph, None, f"{graph.title} counts an op among those with bodies that has none", _MUTATE)

    def order(self, graph: Graph, succ: _Neighbours, captured: set[Value]) -> list[Op]:
        try:
            order = graph.ops()
        except GraphError as error:
            ops = (node for edge in nx.find_cycle(graph.nx) for node in edge if isinstance(node, Op))
            self.fault(graph, next(ops), error.message, "let each op read only what is made without it")
        if len(order) + len(graph._names) + len(captured) != len(succ):
            known = {*order, *graph.values(), *captured}
            stranger = next((node for node in succ if node not in known), None)
            self.fault(graph, stranger, f"{graph.title} does not know {stranger!r} of its networkx graph", _MUTATE)
        return order

    def check_outputs(self, graph: Graph, op: Op, made: Mapping[Op | Value, object], pred: _Neighbours) -> None:
        outputs = [value for value in op.outputs if value is not None]
        if len(outputs) != len(made) or made.keys() != set(outputs):
            if len(set(outputs)) != len(outputs):
                self.fault(graph, op, f"{op.title} names an output twice: {outputs}")
            self.fault_edges(graph, op, set(outputs), made)
        for value in outputs:
            makers = pred[value]
            if len(makers) != 1:
                self.fault(graph, op, f"{value!r} of {graph.title} is made by {' and '.join(map(str, makers))}")
            if graph.get(value.name) is not value:
                self.fault(graph, op, f"{op.title} makes {value!r}, which does not belong to {graph.title}", _MUTATE)

    def check_attributes(self, graph: Graph, op: Op) -> bool:
        """Whether there are bodies among the attributes."""
        has_bodies = False
        for name, attribute in op.attributes.items():
            kind, value = attribute.kind, attribute.value
            if type(value) is not _FAST.get(kind) or (type(value) is int and value not in INT64):
                self.check_attribute(graph, op, name, attribute)
                has_bodies = has_bodies or (kind in _GRAPHS and value is not None and value != ())
            elif attribute.reference:
                self.check_attribute(graph, op, name, attribute)
        return has_bodies

    def check_attribute(self, graph: Graph, op: Op, name: str, attribute: Attribute) -> None:
        fault = mismatch(attribute)
        if fault is not None:
            self.fault(graph, op, f"attribute {name!r} of {op.title} {fault}", "make attributes with Attribute.of")
        if attribute.reference and attribute.reference not in self.parameters:
            self.fault(
                graph,
                op,
                f"attribute {name!r} of {op.title} refers to ${attribute.reference}, which is no parameter here",
                "only a function has parameters: those in its header",
            )

    def check_bodies(self, graph: Graph, op: Op) -> Iterator[Value]:
        """Checks what the op holds, and says what that reads of this graph or those around it."""
        if op not in graph._hold_bodies:
            self.fault(graph, op, f"{op.title} has bodies that {graph.title} doesn't know of", _MUTATE)
        bodies = op.bodies()
        if len(set(bodies)) != len(bodies):
            self.fault(graph, op, f"{op.title} holds the same body twice", "clone it for each attribute")
        for body in bodies:
            holder = body.holder
            if not body.is_body:
                self.fault(graph, op, f"the body {body.name!r} of {op.title} is not made as one", "Graph(body=True)")
            if holder is None or holder[0] is not graph or holder[1] is not op:
                where = f"to {holder[1].title}" if holder else "to no op"
                self.fault(graph, op, f"the body {body.name!r} of {op.title} belongs {where}", "clone it for each op")
            if body.functions:
                self.fault(graph, op, f"the body {body.name!r} of {op.title} has functions: they belong to the model")
            self.graph(body)
            yield from body.captured()

    def check_import(self, graph: Graph, op: Op) -> None:
        if self.root.header.opset(op.domain) is None and not self.root.is_body:
            self.fault(
                graph,
                op,
                f"{op.title} is of domain {op.domain!r}, which {self.root.title} doesn't import",
                "set graph.header = graph.header.with_opset(domain, version)",
            )
        self.imported.add(op.domain)

    def check_call(self, graph: Graph, op: Op) -> None:
        called = self.functions.get(FunctionKey(op.domain, op.op_type, op.overload))
        if called is None:
            return
        for what, given, most in (("inputs", op.inputs, called.inputs), ("outputs", op.outputs, called.outputs)):
            if len(given) > len(most):
                self.fault(graph, op, f"{op.title} has {len(given)} {what}, but its function has {len(most)}")

    # ---- telling ---------------------------------------------------------------------------------------------------

    def fault_edges(
        self, graph: Graph, op: Op, ports: set[Value | None] | set[Value], edges: Mapping[Op | Value, object]
    ) -> NoReturn:
        lacking = [value for value in ports if value is not None and value not in edges]
        surplus = [value for value in edges if value not in ports]
        said = f"lacks an edge for {lacking[0]!r}" if lacking else f"has an edge for {surplus[0]!r} but no port"
        self.fault(graph, op, f"{op.title} of {graph.title} {said}", "change ports with add_op and set_inputs")

    def fault(self, graph: Graph, at: Op | Value | None, message: str, hint: str = _MUTATE) -> NoReturn:
        raise GraphError(f"{message}\n{excerpt(graph, at)}", hint=hint)


def _first(nodes: object) -> Op | Value:
    return next(iter(nodes))  # type: ignore[call-overload, no-any-return]


def _check_calls_end(functions: Mapping[FunctionKey, Graph]) -> None:
    calls: nx.DiGraph[FunctionKey] = nx.DiGraph()
    for key, function in functions.items():
        for graph in function.graphs():
            for op in graph.ops():
                calls.add_edge(key, FunctionKey(op.domain, op.op_type, op.overload))
    if not nx.is_directed_acyclic_graph(calls):
        key = nx.find_cycle(calls)[0][0]
        raise GraphError(f"the function {key.domain}::{key.name} ends up calling itself", hint="ONNX has no recursion")
