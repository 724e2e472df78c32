"""Least squares on what is left, each output on the inputs that it keeps."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from secateur.calib.solvers.masked_least_squares import masked_least_squares
from secateur.calib.solvers.ridge import strongest_pull
from secateur.passes.layers.problem import Array, Indices, Mask, Problem
from secateur.passes.sparsify.repair import Repaired, judged, masked

STRENGTHS = (1.0, 10.0, 100.0)
"""Pulls towards the old weights that are tried, times the damping."""

TRIED = 48
"""On so many outputs at the most, evenly spread."""

UNJUDGED = 10.0
"""The pull where no samples were held out."""


def refit(problem: Problem, mask: Mask) -> Repaired:
    """The weights inside the mask that come nearest to what the dense model gives, with intercept.

    Exact, where the sweep of SparseGPT is greedy. Pulled towards the weights that were there, as strongly as the
    held-out samples allow, which some of the outputs decide for all. Where it is worse on these samples than the old
    weights, with or without a corrected bias, those stay. What was held out has judged by then, and is fitted on, too.
    """
    strength = _strength(problem, mask)
    matrix, old = _fitted(problem, mask, strength), masked(problem, mask)
    found = judged(problem, mask, [(one, problem.compensated(one)) for one in (matrix, old)])
    if not problem.seen.held_out.count or not (found.matrix is matrix or found.matrix is old):
        return found
    everything = problem.on_everything()
    final = _fitted(everything, mask, strength, start=matrix) if found.matrix is matrix else old
    return replace(found, matrix=final, bias=everything.compensated(final))


def _strength(problem: Problem, mask: Mask) -> float:
    """The strongest pull among those that the held-out samples cannot tell from the best."""
    if not problem.seen.held_out.count:
        return UNJUDGED * problem.damping
    rows = np.unique(np.linspace(0, len(mask) - 1, min(TRIED, len(mask))).astype(np.intp))
    strengths = [factor * problem.damping for factor in STRENGTHS]
    errors = []
    for strength in strengths:
        fit = _fitted(problem, mask, strength, rows)
        shift = None
        if problem.bias is not None:
            shift = problem.target_mean[rows] - fit @ problem.mean
        errors.append(float(np.sum(problem.errors(fit, shift, rows))))
    # A mean of squares over n rows varies by about 1 / sqrt(n) of itself; two over the same rows differ less.
    return strongest_pull(strengths, np.array(errors), 0.5 / math.sqrt(problem.seen.held_out.rows))


def _fitted(
    problem: Problem, mask: Mask, strength: float, rows: Indices | None = None, start: Array | None = None
) -> Array:
    """The exact minimum of tr((M - T) (H + ridge) (M - T)^T) over the mask: the ridge pulls to the dense weights."""
    target = problem.target_at(strength)
    if rows is not None:
        target, mask = target[rows], mask[rows]
    return masked_least_squares(problem.damped(strength), target, mask, start, ridge=0.0)
