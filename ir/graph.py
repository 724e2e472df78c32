"""Graph: ops and values as nodes of one networkx graph, with five mutators that keep both in step.

networkx owns adjacency, `Op.inputs` and `Op.outputs` own port order, and nothing is stored twice. Everything that
changes the structure goes through `add_value`, `add_op`, `remove`, `set_inputs` and `set_interface`. Weights, types,
names of ops and attributes that hold no graph are plain fields.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from secateur.ir.adjacency import Adjacency
from secateur.ir.errors import GraphError
from secateur.ir.model import FunctionKey, Header
from secateur.ir.node import Attribute, Op, Value
from secateur.ir.tensor import Tensor


class Graph:
    """A model, the body of an If/Loop/Scan, or the body of a local function.

    Bipartite and in SSA form: an edge leads from every value to the ops that read it and from every op to the values
    that it makes. A body reads values of the graphs around it directly; those are nodes here too while they are used,
    and an edge leads from them to the op that holds the body (`captures`).
    """

    def __init__(self, name: str = "", *, header: Header | None = None, body: bool = False) -> None:
        """An empty graph.

        Args:
            name: as the file has it.
            header: what a whole model (or function) says beside its graph; bodies have none of their own.
            body: true for the body of an op; until the op is added, it may read values of graphs that it can't see yet.
        """
        self.name = name
        self.doc = ""
        self.metadata: dict[str, str] = {}
        self.header = header or Header()
        self.functions: dict[FunctionKey, Graph] = {}
        self.nx: Adjacency = Adjacency()
        """Read it with any networkx algorithm; change it only through the five mutators."""
        self._inputs: tuple[Value, ...] = ()
        self._outputs: tuple[Value, ...] = ()
        self._names: dict[str, Value] = {}
        self._holder: tuple[Graph, Op] | None = None
        self._is_body = body
        self._hold_bodies: dict[Op, None] = {}
        self._counters: dict[str, int] = {}
        self._order: list[Op] | None = None

    # ---- reading ---------------------------------------------------------------------------------------------------

    @property
    def inputs(self) -> tuple[Value, ...]:
        """What the graph is given, in order. A constant among them is a default that a caller may override."""
        return self._inputs

    @property
    def outputs(self) -> tuple[Value, ...]:
        """What the graph gives back, in order."""
        return self._outputs

    @property
    def holder(self) -> tuple[Graph, Op] | None:
        """The graph and the op that this body belongs to; None for a model or a function."""
        return self._holder

    def __contains__(self, node: object) -> bool:
        if isinstance(node, Value):
            return self._names.get(node.name) is node
        return node in self.nx

    def __getitem__(self, name: str) -> Value:
        """The value of this name in this graph (not in those around it).

        Raises:
            GraphError: there is none.
        """
        value = self._names.get(name)
        if value is None:
            raise GraphError(f"no value {name!r} in {self.title}", hint="`secateur print` shows the names")
        return value

    def get(self, name: str) -> Value | None:
        """The value of this name in this graph, or None."""
        return self._names.get(name)

    @property
    def is_body(self) -> bool:
        """True for the body of an op, attached to it or not yet."""
        return self._is_body

    @property
    def title(self) -> str:
        """How errors name this graph."""
        return f"graph {self.name!r}" if self.name else "the graph"

    def values(self) -> Iterator[Value]:
        """Every value that belongs to this graph, in the order in which they were added."""
        return iter(self._names.values())

    def constants(self) -> Iterator[Value]:
        """The values that are constants (weights, shape constants, overridable defaults)."""
        return (value for value in self._names.values() if value.const is not None)

    def ops(self) -> list[Op]:
        """All ops, producers first. Stable: insertion order wherever data flow allows it, so files keep their order.

        Raises:
            GraphError: the ops form a cycle.
        """
        if self._order is None:
            self._order = self._sorted()
        return list(self._order)

    def producer(self, value: Value) -> Op | None:
        """The op that makes this value here; None for inputs, constants and captured values."""
        for op in self.nx.pred[value] if value in self.nx else ():
            return op  # type: ignore[return-value]
        return None

    def consumers(self, value: Value) -> list[Op]:
        """The ops that read this value, directly or in their bodies; each once, in the order in which they came."""
        return list(self.nx.succ[value]) if value in self.nx else []  # type: ignore[arg-type]

    def uses(self, value: Value) -> list[tuple[Op, int]]:
        """Every (op, input position) that reads this value directly."""
        return [(op, port) for op in self.consumers(value) for port, used in enumerate(op.inputs) if used is value]

    def is_used(self, value: Value) -> bool:
        """True where an op, a body or the interface needs this value."""
        return bool(value in self.nx and self.nx.succ[value]) or value in self._outputs

    def is_constant(self, value: Value) -> bool:
        """True for a constant that no caller can override."""
        return value.const is not None and value not in self._inputs

    def constant(self, value: Value | None) -> Tensor | None:
        """The tensor behind a value that nobody can override, here or in the graphs around; None for anything else."""
        if value is None or value.const is None:
            return None
        owner = self.owner(value)
        return value.const if owner is None or value not in owner.inputs else None

    def owner(self, value: Value) -> Graph | None:
        """The graph that a value belongs to: this one or one around it; None for a stranger."""
        graph: Graph | None = self
        while graph is not None and value not in graph:
            graph = graph._holder[0] if graph._holder else None
        return graph

    def captures(self, op: Op) -> list[Value]:
        """The values of this graph, or of those around it, that the bodies of `op` read."""
        return list({value: None for body in op.bodies() for value in body.captured()})

    def captured(self) -> list[Value]:
        """The outer values that this body reads."""
        found = {node: None for node in self.nx if isinstance(node, Value) and node not in self}
        found.update((value, None) for value in self._outputs if value not in self)
        return list(found)

    def graphs(self) -> Iterator[Graph]:
        """This graph and every body inside it, outermost first (functions not included)."""
        yield self
        for op in self.ops():
            for body in op.bodies():
                yield from body.graphs()

    @property
    def root(self) -> Graph:
        """The model (or function) that this body lies in; itself where it is one."""
        graph = self
        while graph._holder is not None:
            graph = graph._holder[0]
        return graph

    def unique_name(self, hint: str) -> str:
        """`hint`, or `hint_1`, `hint_2`, ...: the first that no value of this model has, inside or outside."""
        if not self._is_taken(hint):
            return hint
        counters = self.root._counters
        while True:
            counters[hint] = counters.get(hint, 0) + 1
            name = f"{hint}_{counters[hint]}"
            if not self._is_taken(name):
                return name

    def _is_taken(self, name: str) -> bool:
        around: Graph | None = self._holder[0] if self._holder else None
        while around is not None:
            if name in around._names:
                return True
            around = around._holder[0] if around._holder else None
        return self._is_taken_inside(name)

    def _is_taken_inside(self, name: str) -> bool:
        return name in self._names or any(
            body._is_taken_inside(name) for op in self._hold_bodies for body in op.bodies()
        )

    # ---- the five mutators -----------------------------------------------------------------------------------------

    def add_value(self, value: Value) -> Value:
        """Brings a constant, or an input that is still to be named in the interface, into the graph.

        Raises:
            GraphError: another value already has this name.
        """
        if not value.name:
            raise GraphError(f"a value without a name cannot be added to {self.title}")
        if value in self.nx and value not in self:
            raise GraphError(f"{value.name!r} cannot be added to {self.title}: it belongs to a graph around it")
        present = self._names.setdefault(value.name, value)
        if present is not value:
            raise GraphError(f"{self.title} already has a value {value.name!r}", hint="ask `unique_name` for a name")
        self.nx.add_node(value)
        return value

    def add_op(self, op: Op) -> Op:
        """Adds an op; its inputs belong to this graph or one around it, its outputs are new.

        Raises:
            GraphError: an input is a stranger; an output has another producer or a name that is taken, or is a constant
                or an input of the graph; a body belongs to another op. The graph stays as it was.
        """
        self._check_new(op)
        for value in op.outputs:
            if value is not None and value not in self:
                self.add_value(value)
        self.nx.add_node(op)
        self.nx.add_edges_from((op, value) for value in op.outputs if value is not None)
        self._connect(op, op.inputs)
        for body in op.bodies():
            self._adopt(op, body)
            self._hold_bodies[op] = None
        self._order = None
        return op

    def remove(self, *nodes: Op | Value) -> None:
        """Removes ops together with their outputs, and constants; give them consumers first.

        Raises:
            GraphError: something still reads one of the values; the message names who.
        """
        for node in nodes:
            if node not in self:
                raise GraphError(f"cannot remove {node} from {self.title}: it does not belong to it")
            outputs = [node] if isinstance(node, Value) else [value for value in node.outputs if value is not None]
            for value in outputs:
                if self.is_used(value) or value in self._inputs:
                    user = next((str(op) for op in self.consumers(value)), "the graph's interface")
                    raise GraphError(f"cannot remove {value.name!r} from {self.title}: {user} still needs it")
            if isinstance(node, Op):
                self._disconnect(node, [*node.inputs, *self.captures(node)])
                for body in node.bodies():
                    body._holder = None
                self._hold_bodies.pop(node, None)
                self.nx.remove_node(node)
            elif self.producer(node) is not None:
                raise GraphError(f"cannot remove {node.name!r}: remove the op that makes it")
            self.nx.remove_nodes_from(outputs)
            for value in outputs:
                del self._names[value.name]
        self._order = None

    def set_inputs(self, op: Op, inputs: Sequence[Value | None]) -> None:
        """Replaces what an op of this graph reads; None is an optional input left out."""
        if op not in self.nx:
            raise GraphError(f"{op.title} is not in {self.title}", hint="add it with add_op")
        for value in inputs:
            self._check_reachable(value, op)
        before = op.inputs
        op.inputs = tuple(inputs)
        self._connect(op, op.inputs)
        kept = {*op.inputs, *self.captures(op)} if op.bodies() else set(op.inputs)
        self._disconnect(op, [value for value in before if value not in kept])
        self._order = None

    def set_interface(self, inputs: Iterable[Value] | None = None, outputs: Iterable[Value] | None = None) -> None:
        """Says what the graph is given and what it gives back; what is None stays as it is."""
        if inputs is not None:
            inputs = tuple(inputs)
            for value in inputs:
                if self.producer(value) is not None:
                    raise GraphError(f"{value.name!r} cannot be an input: {self.producer(value)} makes it")
                if value not in self:
                    self.add_value(value)
            self._inputs = inputs
        if outputs is not None:
            outputs = tuple(outputs)
            for value in outputs:
                self._check_reachable(value, None)
            before, self._outputs = self._outputs, outputs
            for value in outputs:
                if value not in self:
                    self.nx.add_node(value)
                    self._announce(value)
            for value in before:
                self._forget(value)

    # ---- composed of them ------------------------------------------------------------------------------------------

    def replace_all_uses(self, old: Value, new: Value) -> None:
        """Everything that read `old` reads `new`: ops, bodies, and the outputs of this graph."""
        for op in self.consumers(old):
            if old in op.inputs:
                self.set_inputs(op, [new if value is old else value for value in op.inputs])
            for body in op.bodies():
                if old in body.nx:
                    body.replace_all_uses(old, new)
        if old in self._outputs:
            self.set_interface(outputs=[new if value is old else value for value in self._outputs])

    def rename(self, value: Value, name: str) -> None:
        """Gives a value of this graph another name.

        Raises:
            GraphError: the name is taken or empty, or the value is not of this graph.
        """
        if not name or value not in self:
            raise GraphError(f"cannot rename {value.name!r} of {self.title} to {name!r}")
        if self._names.get(name, value) is not value:
            raise GraphError(f"{self.title} already has a value {name!r}", hint="ask `unique_name` for a name")
        del self._names[value.name]
        self._names[name] = value
        value.name = name

    def add_constant(self, name: str, tensor: Tensor) -> Value:
        """A new constant under `name`, or the next free name after it."""
        return self.add_value(Value(self.unique_name(name), const=tensor))

    def set_attribute(self, op: Op, name: str, value: Any) -> None:
        """Sets (or with None removes) an attribute that holds no graph.

        Raises:
            GraphError: it holds one, now or then: bodies come and go with their op.
        """
        made = value if value is None or isinstance(value, Attribute) else Attribute.of(value)
        before = op.attributes.get(name)
        if any(attribute is not None and attribute.graphs() for attribute in (before, made)):
            raise GraphError(f"attribute {name!r} of {op.title} holds a body", hint="add a new op, and remove this one")
        if made is None:
            op.attributes.pop(name, None)
        else:
            op.attributes[name] = made

    def clone(self) -> Graph:
        """A copy that shares nothing but the (immutable) tensors."""
        from secateur.ir.clone import clone

        return clone(self)

    def verify(self) -> None:
        """Checks the structure in O(n); see `secateur.ir.verify`.

        Raises:
            GraphError: says which op or value is at fault, with the ops around it.
        """
        from secateur.ir.verify import verify

        verify(self)

    def save(self, path: str | os.PathLike[str], *, external_data: bool | None = None) -> None:
        """Writes ONNX; see `secateur.ir.onnx_write.save`."""
        from secateur.ir.onnx_write import save

        save(self, path, external_data=external_data)

    def __str__(self) -> str:
        from secateur.ir.text_print import print_graph

        return print_graph(self)

    def __repr__(self) -> str:
        return f"<Graph {self.name!r}: {sum(isinstance(node, Op) for node in self.nx)} ops>"

    # ---- keeping networkx in step ----------------------------------------------------------------------------------

    def _check_reachable(self, value: Value | None, op: Op | None) -> None:
        if value is not None and self.owner(value) is None and not self.root._is_body:
            reader = op.title if op is not None else "the interface"
            raise GraphError(
                f"{reader} of {self.title} reads {value.name!r}, which belongs to no graph around it",
                hint="add the constant with add_value, or the op that makes it with add_op, first",
            )

    def _check_new(self, op: Op) -> None:
        """Refuses an op that cannot be added, before anything has been changed."""
        if op in self.nx:
            raise GraphError(f"{op.title} is already in {self.title}")
        for body in op.bodies():
            if body._holder is not None:
                raise GraphError(f"the body {body.name!r} of {op.title} already belongs to {body._holder[1]}")
        for value in (*op.inputs, *(value for body in op.bodies() for value in body.captured())):
            self._check_reachable(value, op)
        outputs = [value for value in op.outputs if value is not None]
        if len({value.name for value in outputs}) != len(outputs):
            raise GraphError(f"{op.title} cannot make two values of one name: {outputs}")
        for value in outputs:
            if not value.name or self._names.get(value.name, value) is not value:
                taken = f"{self.title} already has a value of that name" if value.name else "it has no name"
                raise GraphError(f"{op.title} cannot make {value.name!r}: {taken}", hint="ask `unique_name` for a name")
            if value in self.nx and value not in self:
                raise GraphError(f"{op.title} cannot make {value.name!r}: it belongs to a graph around {self.title}")
            maker = self.producer(value)
            if maker is not None or value.const is not None or value in self._inputs:
                made = f"{maker} makes it already" if maker else "it is a constant or an input"
                raise GraphError(f"{op.title} cannot make {value.name!r}: {made}")

    def _connect(self, op: Op, values: Iterable[Value | None]) -> None:
        for value in values:
            if value is not None and not self.nx.has_edge(value, op):
                self.nx.add_edge(value, op)
                self._order = None
                self._announce(value)

    def _disconnect(self, op: Op, values: Iterable[Value | None]) -> None:
        for value in values:
            if value is not None and self.nx.has_edge(value, op):
                self.nx.remove_edge(value, op)
                self._forget(value)

    def _announce(self, value: Value) -> None:
        """Tells the graph around that this body reads one of its values."""
        if self._holder is not None and value not in self:
            outer, op = self._holder
            outer._connect(op, [value])

    def _forget(self, value: Value) -> None:
        """Drops a captured value that this body no longer reads, and the edge outside if no other use is left."""
        if value in self or value not in self.nx or self.nx.succ[value] or value in self._outputs:
            return
        self.nx.remove_node(value)
        if self._holder is not None:
            outer, op = self._holder
            if value not in op.inputs and not any(value in body.nx for body in op.bodies()):
                outer._disconnect(op, [value])

    def _adopt(self, op: Op, body: Graph) -> None:
        body._holder = (self, op)
        body._is_body = True
        self._connect(op, body.captured())

    def _sorted(self) -> list[Op]:
        """Depth-first over the ops in insertion order: one that was inserted later comes right before its first use."""
        done: dict[Op, bool] = {}
        order: list[Op] = []
        pred = self.nx.pred
        for first in self.nx:
            if type(first) is not Op or first in done:
                continue
            stack: list[Op] = [first]
            while stack:
                op = stack[-1]
                if op in done:
                    stack.pop()
                    if not done[op]:
                        done[op] = True
                        order.append(op)
                    continue
                done[op] = False
                waiting = [maker for value in pred[op] for maker in pred[value] if not done.get(maker, False)]  # type: ignore[arg-type]
                for maker in reversed(waiting):
                    if maker in done:
                        raise GraphError(f"the ops of {self.title} form a cycle through {maker} and {op}")
                    stack.append(maker)  # type: ignore[arg-type]
        return order


def attributes_of(values: Mapping[str, Any]) -> dict[str, Attribute]:
    """Attributes from plain Python values, their kinds inferred (`Attribute.of`)."""
    return {name: value if isinstance(value, Attribute) else Attribute.of(value) for name, value in values.items()}
