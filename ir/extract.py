"""The part of a graph that leads from some named values to others, as a graph of its own that can be run or saved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from secateur.ir.build import emit
from secateur.ir.clone import clone_op
from secateur.ir.errors import GraphError
from secateur.ir.graph import Graph
from secateur.ir.node import Op, Value
from secateur.ir.types import TensorType

Key = TypeVar("Key")

_SHOWN = 8


def extract(graph: Graph, inputs: Sequence[str] | None, outputs: Sequence[str]) -> Graph:
    """What is needed to compute `outputs` from `inputs`, as a new graph; the original stays as it is.

    Only the ops on the way are kept, in their order, with copies of the bodies that they hold. Tensors are shared;
    header and functions are kept. Time is linear in the size of the graph.

    Args:
        graph: a whole model.
        inputs: names of values where the graph is cut; they become inputs of the type that the graph says they have,
            in this order, used or not. A constant among them is fed too. None for the graph's own inputs. An input of
            the graph that has a default and is not named keeps it, as a constant.
        outputs: names of the values to be computed: any, an input or a constant included.

    Raises:
        GraphError: a name is unknown or lies in the body of an op, an output depends on an input of the graph that
            `inputs` does not cover, or `graph` is itself a body.
    """
    if graph.is_body:
        raise GraphError(
            f"{graph.title} is the body of an op, of which no part can be extracted",
            hint="extract from the whole model",
        )
    entries = list(graph.inputs) if inputs is None else find_values(graph, inputs)
    exits = find_values(graph, outputs)
    ops, leaves = _needed(graph, dict.fromkeys(entries), exits)
    part = Graph(graph.name, header=graph.header)
    part.doc, part.metadata = graph.doc, dict(graph.metadata)
    part.functions = {key: body.clone() for key, body in graph.functions.items()}
    known: dict[Value, Value] = {}
    for value in entries:
        known[value] = replace(value, const=value.const if value in graph.inputs else None, node=None)
    part.set_interface(inputs=[known[value] for value in entries])
    for value in leaves:
        known[value] = part.add_value(replace(value))
    for op in ops:
        _copy(op, graph, part, known)
    part.set_interface(outputs=[known[value] for value in exits])
    return part


def extract_shapes(graph: Graph, inputs: Sequence[str] | None, values: Sequence[str]) -> Graph:
    """A graph from `inputs` whose outputs are the shapes (int64 vectors) of the named tensors, in their order.

    One run tells how much memory fetching the tensors themselves would take.

    Raises:
        GraphError: as `extract` does.
    """
    part = extract(graph, inputs, values)
    forget_sizes(part, graph)
    shapes = [emit(part, "Shape", [value], outputs=(f"{value.name}_shape",)).output for value in part.outputs]
    part.set_interface(outputs=shapes)
    return part


def forget_sizes(part: Graph, whole: Graph) -> None:
    """Leaves the inputs of an extracted part where `whole` was cut no more than element type and rank.

    For running it: what a file says of sizes inside a model is often true only of the batch that it was exported with.
    """
    own = {value.name for value in whole.inputs}
    for value in part.inputs:
        if value.name not in own and isinstance(value.type, TensorType) and value.type.shape is not None:
            value.type = TensorType(value.type.dtype, (None,) * len(value.type.shape))


def find_values(graph: Graph, names: Iterable[str]) -> list[Value]:
    """The values of these names, each once, in their order.

    Raises:
        GraphError: a name is unknown, or names a value inside the body of an op.
    """
    return [_find(graph, name) for name in dict.fromkeys(names)]


def _find(graph: Graph, name: str) -> Value:
    value = graph.get(name)
    if value is not None:
        return value
    for inner in graph.graphs():
        if inner is not graph and name in {value.name for value in inner.values()}:
            holder = inner.holder
            where = f"the body {inner.name!r} of {holder[1].title}" if holder else "a body"
            raise GraphError(
                f"{name!r} lies in {where}, out of reach from {graph.title}",
                hint="name a value of the graph itself, such as an output of that op",
            )
    return graph[name]


def _needed(graph: Graph, cut: dict[Value, None], exits: Sequence[Value]) -> tuple[list[Op], list[Value]]:
    """The ops on the way back from `exits` to `cut`, in the order of the graph, and the constants that they read."""
    pending = [value for value in exits if value not in cut]
    parent: dict[Value, Value | None] = dict.fromkeys(pending)
    needed: set[Op] = set()
    leaves: list[Value] = []
    while pending:
        value = pending.pop()
        op = graph.producer(value)
        if op is None:
            if value.const is None:
                raise _uncovered(graph, value, parent, cut)
            leaves.append(value)
        elif op not in needed:
            needed.add(op)
            for source in graph.nx.pred[op]:
                if isinstance(source, Value) and source not in cut and source not in parent:
                    parent[source] = value
                    pending.append(source)
    return [op for op in graph.ops() if op in needed], leaves


def _uncovered(graph: Graph, value: Value, parent: dict[Value, Value | None], cut: dict[Value, None]) -> GraphError:
    last: Value = value
    while (after := parent[last]) is not None:
        last = after
    reached = "" if last is value else f" ({graph.consumers(value)[0].title} reads it)"
    given = ", ".join([repr(other.name) for other in cut][:_SHOWN]) + (", …" if len(cut) > _SHOWN else "")
    return GraphError(
        f"{last.name!r} depends on the graph input {value.name!r}{reached}, which the cut at {given or 'nothing'} "
        "does not cover",
        hint=f"add {value.name!r} to the inputs, or a value between it and {last.name!r}",
    )


def _copy(op: Op, graph: Graph, part: Graph, known: dict[Value, Value]) -> None:
    """Adds a copy of `op`; an output at which the graph is cut gets another name: its readers are fed."""
    made: list[Value | None] = []
    for value in op.outputs:
        if value is not None and value in known:
            name = value.name
            while graph.get(name) or part.get(name):
                name += "_computed"
            made.append(Value(name, value.type))
        else:
            made.append(None if value is None else known.setdefault(value, replace(value)))
    copied = clone_op(op, known)
    copied.outputs = tuple(made)
    part.add_op(copied)


def grouped(sizes: Mapping[Key, int], limit: int) -> list[list[Key]]:
    """The keys, in their order, in runs whose sizes add up to no more than `limit`; what is larger stands alone."""
    groups: list[list[Key]] = []
    filled = 0
    for key, size in sizes.items():
        if not groups or filled + size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(key)
        filled += size
    return groups
