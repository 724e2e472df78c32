"""Sums of absolute weights."""

from __future__ import annotations

import numpy as np

from secateur.passes.prune.criteria.saliency import relative
from secateur.passes.prune.problem import Problem
from secateur.passes.prune.ranking import Ranking


def l1(problem: Problem, removed: int) -> Ranking:
    """The units with the smallest L1 norm of what makes them go first; of what reads them where no weight makes them.

    Li, Kadav, Durdanovic, Samet and Graf 2017, "Pruning Filters for Efficient ConvNets", ICLR, section 3.1: the sum of
    a filter's absolute weights. Where several weights make them, each counts relative to its mean.
    """
    made = [np.abs(rows).sum(axis=1) for rows in problem.rows]
    return relative(made, problem.size)
