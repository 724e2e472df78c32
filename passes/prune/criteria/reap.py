"""Which experts matter to a mixture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secateur.passes.prune.criteria.magnitude import magnitude
from secateur.passes.prune.problem import Problem
from secateur.passes.prune.ranking import Ranking, ranked


def reap(problem: Problem, removed: int) -> Ranking:
    """The experts that let least through where they are chosen go first: the mean of share * ||output||.

    Lasby et al. 2025, "REAP the Experts: Why Pruning Prevails for One-Shot MoE Compression", section 4 (router-weighted
    expert activation pruning). The share is what the model multiplies with, renormalised where it renormalises; an
    expert that is never chosen scores zero. Groups that are no experts, and experts inside fused ops, go by magnitude.
    """
    if problem.routing is None:
        return magnitude(problem, removed)
    return ranked(_mean(problem.routing.weighted, problem.routing.count))


def frequency(problem: Problem, removed: int) -> Ranking:
    """The experts that are chosen least often go first."""
    return magnitude(problem, removed) if problem.routing is None else ranked(problem.routing.count)


def expert_norm(problem: Problem, removed: int) -> Ranking:
    """The experts go first whose outputs, summed over the tokens that they are chosen for, are smallest (EAN).

    Jaiswal et al. 2025, "Finding Fantastic Experts in MoEs: A Unified Study for Expert Dropping Strategies and
    Observations", section 3, expert activation norm.
    """
    return magnitude(problem, removed) if problem.routing is None else ranked(problem.routing.plain)


def expert_norm_mean(problem: Problem, removed: int) -> Ranking:
    """`expert_norm`, the mean over those tokens for the sum."""
    if problem.routing is None:
        return magnitude(problem, removed)
    return ranked(_mean(problem.routing.plain, problem.routing.count))


def _mean(total: NDArray[np.float64], count: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(total, count, out=np.zeros_like(total), where=count > 0)
