"""Masks that no single swap makes better."""

from __future__ import annotations

import numpy as np

from secateur.calib.solvers.mask_swaps import swap
from secateur.passes.layers.problem import Mask, Problem
from secateur.passes.sparsify.patterns import Neighbours, Pattern


def swapped(problem: Problem, pattern: Pattern, mask: Mask) -> Mask:
    """In each output the best swap of a weight that stays for one that goes, again and again, until none helps.

    What counts is the error of the outputs, `tr((W - T) H (W - T)^T)`, so that it never rises (`calib.solvers.swap`;
    Zimmer et al. 2025, "SparseSwaps"). Swaps stay within groups of N:M patterns, and within outputs.
    """
    group = pattern.group if isinstance(pattern, Neighbours) else None
    # What is never read is worth nothing, damped or not.
    ridge = problem.damping * problem.scale * np.diag(problem.gram.diagonal() > 0)
    return swap(problem.target, problem.gram + ridge, mask, group=group).mask
