"""OBS with an eye on what a unit contributes to the whole output."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from secateur.calib.solvers.obs_greedy import Surgeon
from secateur.passes.prune.criteria.obs import are_narrow, operate
from secateur.passes.prune.problem import Problem
from secateur.passes.prune.ranking import Ranking


def tyr(problem: Problem, removed: int) -> Ranking:
    """The score of a unit is half its OBS cost plus how much its contribution aligns with the whole output.

    Li et al. 2025, "Týr-the-Pruner: Structural Pruning LLMs via Global Sparsity Distribution
    Optimization", NeurIPS, on local pruning: |<G_p, B_p>| + ||B_p||^2 / (2 (H^-1)_pp), with G = H B of the weights that
    enter the layer, B the weights by then. As the paper says, one head or 16 neurons go at a time. Losses are exact.
    """
    return operate(problem, removed, _absolute, _steps, aligned=True)


def tyr_code(problem: Problem, removed: int) -> Ranking:
    """`tyr` as the authors' code has it: alignment with its sign, heads all at once, neurons in 16 rounds."""
    return operate(problem, removed, _signed, _rounds, aligned=True)


def _absolute(surgeon: Surgeon) -> NDArray[np.float64]:
    return np.abs(surgeon.alignment()) + surgeon.costs() / 2


def _signed(surgeon: Surgeon) -> NDArray[np.float64]:
    return surgeon.alignment() + surgeon.costs() / 2


def _steps(problem: Problem, removed: int) -> Iterator[int]:
    return repeat(16 if are_narrow(problem) else 1)


def _rounds(problem: Problem, removed: int) -> Iterator[int]:
    return repeat(-(-removed // 16) if are_narrow(problem) else max(1, removed))
