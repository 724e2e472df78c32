"""Blank tensors that several ops read: one for each, so that what they are filled with may shrink apart."""

from __future__ import annotations

from secateur.ir.build import emit
from secateur.ir.graph import Graph
from secateur.ir.node import Op, Value


def untie(graph: Graph) -> int:
    """Gives every reader of a ConstantOfShape one of its own, behind its own Concat of the shape; returns how many.

    Exporters make zeros of one shape once, for all mixtures that scatter their routing into them. Then the experts of
    all mixtures seem to be one dimension, though nothing but the size of these zeros ties them. Exact, and as good as
    free: a fill costs no arithmetic. Ops inside bodies go on reading the first.
    """
    made = 0
    for op in list(graph.ops()):
        if op.key != ("", "ConstantOfShape") or op.output in graph.outputs:
            continue
        readers = [reader for reader in graph.consumers(op.output) if not reader.bodies()]
        for reader in readers[1:]:
            own = emit(graph, "ConstantOfShape", [_shape(graph, op)], op.attributes, like=op).output
            own.type = op.output.type
            graph.set_inputs(reader, [own if value is op.output else value for value in reader.inputs])
            made += 1
    return made


def _shape(graph: Graph, op: Op) -> Value | None:
    """The shape that a fill reads, joined anew where it is joined from parts: one of these is the size in question."""
    shape = op.input(0)
    maker = None if shape is None else graph.producer(shape)
    if maker is None or maker.key != ("", "Concat"):
        return shape
    own = emit(graph, "Concat", maker.inputs, maker.attributes, like=maker).output
    own.type = maker.output.type
    return own
