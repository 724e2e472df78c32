"""How large the units themselves are."""

from __future__ import annotations

from secateur.passes.prune.criteria.saliency import by_columns
from secateur.passes.prune.problem import Problem
from secateur.passes.prune.ranking import Ranking


def activation(problem: Problem, removed: int) -> Ranking:
    """The units with the smallest mean absolute values, as what reads them sees them, go first.

    Molchanov, Tyree, Karras, Aila and Kautz 2017, "Pruning Convolutional Neural Networks for Resource Efficient
    Inference", ICLR, section 2.2, "Activation".
    """
    return by_columns(problem, lambda layer: layer.seen.fit.absmean)
