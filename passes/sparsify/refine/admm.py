"""Masks for which least squares leave less."""

from __future__ import annotations

import numpy as np

from secateur.calib.solvers.admm_masks import admm_mask
from secateur.calib.solvers.masked_least_squares import masked_least_squares
from secateur.passes.layers.problem import Mask, Problem
from secateur.passes.sparsify.patterns import Pattern

TRIED = 48
"""So many outputs at the most, evenly spread, say whether the new mask is better."""


def admm_refined(problem: Problem, pattern: Pattern, mask: Mask) -> Mask:
    """Where the alternating method leads from a mask, if exact least squares then leave a smaller error than before."""
    found = admm_mask(problem.gram, problem.target, pattern.mask, start=mask, ridge=problem.damping)
    rows = np.unique(np.linspace(0, len(mask) - 1, min(TRIED, len(mask))).astype(np.intp))
    return found if _loss(problem, found, rows) < _loss(problem, mask, rows) else mask


def _loss(problem: Problem, mask: Mask, rows: np.ndarray[tuple[int], np.dtype[np.intp]]) -> float:
    target, gram = problem.target[rows], problem.damped(problem.damping)
    off = masked_least_squares(gram, target, mask[rows], ridge=0.0) - target
    return float(np.einsum("rc,rc->", off @ gram, off))
