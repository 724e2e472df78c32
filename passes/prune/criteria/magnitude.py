"""Norms of weights."""

from __future__ import annotations

import numpy as np

from secateur.passes.prune.problem import Problem
from secateur.passes.prune.ranking import Ranking, ranked


def magnitude(problem: Problem, removed: int) -> Ranking:
    """The units with the smallest L2 norm of what makes them go first; of what reads them where no weight makes them.

    Li et al. 2017, "Pruning Filters for Efficient ConvNets", section 3.1, with L2 for L1. Where several weights make
    them, each counts relative to its mean, so that no layer outshouts another.
    """
    energies = [maker.energy for maker in problem.makers] or [layer.energy(problem.size) for layer in problem.layers]
    return ranked(sum((energy / (energy.mean() or 1.0) for energy in energies), np.zeros(problem.size)))
