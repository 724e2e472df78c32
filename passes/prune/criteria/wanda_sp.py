"""Weights times the norms of what they are multiplied with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secateur.passes.prune.criteria.saliency import by_columns
from secateur.passes.prune.problem import Layer, Problem
from secateur.passes.prune.ranking import Ranking


def wanda_sp(problem: Problem, removed: int) -> Ranking:
    """The units with the smallest sums of |weight| * ||input|| go first.

    Sun, Liu, Bair and Kolter 2024, "A Simple and Effective Pruning Approach for Large Language Models" (Wanda), ICLR,
    section 3, made structured as An et al. 2024 (FLAP) do for comparison: the mean over the
    rows of each column, summed over the columns of a unit. They prune every layer by the same share and repair nothing.
    """

    def score(layer: Layer) -> NDArray[np.float64]:
        return np.asarray(np.abs(layer.matrix).mean(axis=0) * np.sqrt(layer.seen.fit.diagonal))

    return by_columns(problem, score)
