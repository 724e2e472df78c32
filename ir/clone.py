"""Copying a graph: new ops and values, the same tensors."""

from __future__ import annotations

from dataclasses import replace

from secateur.ir.graph import Graph
from secateur.ir.node import Attribute, AttributeKind, Op, Value


def clone(graph: Graph) -> Graph:
    """A structurally equal graph that shares only tensors and other immutable parts with the original.

    A body is cloned on its own too; the outer values that it reads are then still those of the original.
    """
    copied = _clone(graph, {})
    copied.functions = {key: _clone(body, {}) for key, body in graph.functions.items()}
    return copied


def _clone(graph: Graph, known: dict[Value, Value]) -> Graph:
    copy = Graph(graph.name, header=graph.header, body=graph.is_body)
    copy.doc, copy.metadata = graph.doc, dict(graph.metadata)
    for value in graph.values():
        known[value] = replace(value)
    for value in graph.values():
        if graph.producer(value) is None:
            copy.add_value(known[value])
    copy.set_interface(inputs=[known[value] for value in graph.inputs])
    for op in graph.ops():
        copy.add_op(clone_op(op, known))
    copy.set_interface(outputs=[known.get(value, value) for value in graph.outputs])
    return copy


def clone_op(op: Op, known: dict[Value, Value]) -> Op:
    """A copy that belongs to no graph yet: values as `known` maps them (itself where it doesn't), bodies cloned."""

    def mapped(values: tuple[Value | None, ...]) -> tuple[Value | None, ...]:
        return tuple(None if value is None else known.get(value, value) for value in values)

    attributes = dict(op.attributes)
    if op.bodies():
        attributes = {name: _clone_attribute(attribute, known) for name, attribute in attributes.items()}
    return replace(op, inputs=mapped(op.inputs), outputs=mapped(op.outputs), attributes=attributes)


def _clone_attribute(attribute: Attribute, known: dict[Value, Value]) -> Attribute:
    if not attribute.graphs():
        return attribute
    bodies = tuple(_clone(body, known) for body in attribute.graphs())
    return replace(attribute, value=bodies[0] if attribute.kind is AttributeKind.GRAPH else bodies)
