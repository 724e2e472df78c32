"""What errors of layers do to a model's answers, found out by trying: each group once, by itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from secateur.calib.gram import Gram
from secateur.calib.output_error import Answers, meanings
from secateur.ir.dims.analysis import Dimensions
from secateur.ir.graph import Graph
from secateur.ir.runner import Meaning
from secateur.passes.context import Context
from secateur.passes.layers.answers import answers_of, enough
from secateur.passes.layers.matrix import same_use, write_layer
from secateur.passes.prune.problem import Layer, Problem
from secateur.passes.prune.ranking import Ranking
from secateur.passes.prune.repair import Repaired
from secateur.passes.prune.repair.least_squares import refit
from secateur.passes.prune.units import Units

REMOVED = 0.5
"""The share of a group that goes for a try."""

_MOST = 1e6
"""An error of answers that are no numbers any more."""


class Probe:
    """Turns losses that are shares of what layers give into errors of what the model gives.

    A share of one layer is not worth that of another: the errors of some are averaged out by what follows, those of
    others grow. Half of each group goes once, the layers are refitted, and the model answers. What that error is to the
    error of the layers on the same samples is taken for the worth of all errors there. Gradients say less: the Fisher
    metric, as far as it can be had (`weighting`), takes errors at different positions to be independent.

    Answers are compared by squared error, logits too: beliefs of a model that is sure of its samples, as it is of those
    that it was trained on, hardly move whatever becomes of its logits.
    """

    def __init__(self, graph: Graph, answers: Answers) -> None:
        """Takes the model and what it answers as it is."""
        self._graph, self._answers = graph, answers

    def worth(self, units: Units, problem: Problem, ranking: Ranking) -> float | None:
        """What an error of these layers, as a share of their targets, is as one of the model's answers.

        None where trying tells nothing: no layer's output changes.
        """
        removed = min(max(1, round(REMOVED * problem.size)), len(ranking.order))
        kept = ranking.kept(problem.size, problem.size - removed)
        graph = self._graph.clone()
        shares = []
        for reader, layer in zip(units.readers, problem.layers, strict=True):
            use = same_use(graph, reader.use)
            repaired = refit(problem, layer, kept)
            write_layer(graph, use, repaired.matrix, repaired.bias)
            shares.append(_share(layer, repaired))
        share = float(np.mean(shares))
        return min(self._answers.error(graph), _MOST) / share if share > 0 else None


def probe_of(found: Dimensions, context: Context) -> Probe | None:
    """A probe of a model; None where it has no output of real numbers.

    Raises:
        BackendError: there is no runtime.
        DataError: there is no data, or an answer is NaN or infinite.
    """
    graph, outputs = found.known.graph, meanings(found.known)
    if not outputs:
        return None
    numbers: dict[str, Meaning] = dict.fromkeys(outputs, "numbers")
    who = "an allocation by loss"
    samples = enough(graph, numbers, context, who)
    return Probe(graph, answers_of(graph.clone(), numbers, samples, context, who))


def _share(layer: Layer, repaired: Repaired) -> float:
    """The error of a layer on all samples, those that were fitted on among them, as a share of its target."""
    seen = layer.seen
    everything = replace(seen, fit=seen.together(), held_out=Gram(seen.fit.width, seen.fit.target_width))
    return everything.error(repaired.matrix.T, repaired.bias)


def in_answers(rankings: Iterable[tuple[Ranking, float | None]]) -> list[Ranking]:
    """Rankings with their losses times what each is worth; those of which nothing is known count as the median."""
    given = list(rankings)
    usual = float(np.median([worth for _, worth in given if worth is not None] or [1.0]))
    return [replace(one, loss=one.loss * (usual if worth is None else worth)) for one, worth in given]
