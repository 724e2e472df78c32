"""Breeding a criterion on the layers of a model."""

from __future__ import annotations

from secateur.ir.graph import Graph
from secateur.passes.cleanup.shapes import known as known_fact
from secateur.passes.context import Context
from secateur.passes.sparsify.allocation import Wishes
from secateur.passes.sparsify.gradients import measure
from secateur.passes.sparsify.methods import Methods
from secateur.passes.sparsify.patterns import Pattern
from secateur.passes.sparsify.search import CriterionSearch, FoundCriterion, layer_error_of, search
from secateur.passes.sparsify.spots import Demands, spots_of
from secateur.passes.sparsify.work import Work


def search_layers(
    graph: Graph, context: Context, pattern: Pattern, how: CriterionSearch, positions: int = 64
) -> FoundCriterion:
    """The formula whose masks make the layers of a model err least, each by itself and not repaired.

    What all layers read is gathered once and kept: a matrix as wide as its inputs for each. A formula that is good for
    layers by themselves need not be best for the model; measure it before believing it.

    Args:
        graph: the model, which stays as it is.
        context: data and runner; where formulas are about G, what differentiates as well.
        pattern: of the masks.
        how: budget and seed.
        positions: output positions sampled of each image; 0 takes all.

    Raises:
        DataError: there is no data.
        BackendError: there is nothing that runs, or differentiates, the model.
        ValueError: no layer can have the pattern.
    """
    context.needed_source("searching for a criterion")
    known = known_fact(graph)
    spots = spots_of(known, Demands(pattern), context)
    methods = Methods("magnitude", "none", "none", 0.01, positions)
    work = Work(graph, spots, methods, Wishes(pattern), "uniform", context, sees=True)
    if "G" in how.symbols:
        work.gradients = measure(known, [spot.weight for spot in spots], context, "a search about G")
    return search(layer_error_of(work.problems(), pattern), how)
