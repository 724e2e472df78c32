"""The fact that most passes ask for: the type of every value."""

from __future__ import annotations

from collections.abc import Mapping

from secateur.ir import Graph, Value
from secateur.ir.rules.known import Known
from secateur.ir.types import ValueType
from secateur.passes.facets import Facet
from secateur.passes.facts import Facts, fact


@fact(reads=Facet.TOPOLOGY | Facet.SHAPE | Facet.DTYPE | Facet.WEIGHTS | Facet.ATTRIBUTES)
def shapes(graph: Graph, facts: Facts) -> Mapping[Value, ValueType]:
    """Element type and shape of every value that shape inference reaches, bodies included, and what the file states.

    Reads weights too: the target of a Reshape is one.
    """
    from secateur.ir.onnx_shapes import infer

    return infer(graph)


@fact(reads=Facet.TOPOLOGY)
def known(graph: Graph, facts: Facts) -> Known:
    """The graph with its shapes, as rules ask for it."""
    return Known(graph, facts.get(shapes))
