"""The facts that pruning asks for."""

from __future__ import annotations

from secateur.ir import Graph
from secateur.ir.dims.analysis import Dimensions, dimensions
from secateur.passes.cleanup.shapes import known
from secateur.passes.facets import Facet
from secateur.passes.facts import Facts, fact


@fact(reads=Facet.TOPOLOGY | Facet.SHAPE | Facet.WEIGHTS | Facet.ATTRIBUTES)
def dims(graph: Graph, facts: Facts) -> Dimensions:
    """Every axis of every value as products and sums of dimensions. Weights are read: some spell shapes."""
    return dimensions(facts.get(known))
