"""Masks that are right on the mean."""

from __future__ import annotations

import numpy as np

from secateur.calib.solvers.prune_and_grow import dsnot
from secateur.passes.layers.problem import Mask, Problem
from secateur.passes.sparsify.patterns import Neighbours, Pattern


def dsnot_refined(problem: Problem, pattern: Pattern, mask: Mask) -> Mask:
    """Weights come back and others go for them, until each output is right on the mean (`calib.solvers.dsnot`).

    Zhang et al. 2024, "Dynamic Sparse No Training: Training-Free Fine-tuning for Sparse LLMs", ICLR. It asks for means
    and variances only. Behind a normalisation inputs are about zero on the mean and little is to be had (`headroom`);
    where a bias may be corrected, that reaches the same exactly.
    """
    norm = np.sqrt(problem.energies)
    group = pattern.group if isinstance(pattern, Neighbours) else None
    return dsnot(problem.weight, mask, problem.mean, problem.variance, norm, group=group)


def headroom(problem: Problem) -> float:
    """Sum |E x_j| over sum sqrt(E x_j^2), in [0, 1]: how much of what is read its mean makes up."""
    size = float(np.sqrt(problem.energies / problem.seen.fit.count).sum()) if problem.seen.fit.count else 0.0
    return float(np.abs(problem.mean).sum()) / size if size else 0.0
