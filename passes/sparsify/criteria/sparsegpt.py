"""What is cheapest to make up for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from secateur.passes.layers.problem import Array, Mask, Problem
from secateur.passes.sparsify.patterns import Pattern

BLOCK = 128
"""Columns that share a threshold, about."""


def saliency(problem: Problem) -> Array:
    """w_ij^2 / R_jj^2 of the weights as they are: what removing one costs when the columns to its right make up."""
    found: Array = np.square(problem.target / problem.factor.spread)
    return found


@dataclass(frozen=True)
class SparseGPT:
    """A sweep over the columns decides each as it comes, by w^2 / R_jj^2, and lets those behind it make up at once.

    Frantar and Alistarh 2023, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot", section 3.
    Shares are taken of each block of 128 columns, over all outputs together, whatever the scope.
    """

    needs_data: bool = True
    needs_gradients: bool = False

    def saliency(self, problem: Problem) -> Array:
        """That of the weights before the sweep, for allocations that compare layers."""
        return saliency(problem)

    def __call__(self, problem: Problem, pattern: Pattern) -> Mask:
        """The mask that the sweep leaves."""
        choice = pattern.choose()
        block = max(1, BLOCK // (choice.group or 1)) * (choice.group or 1)
        return problem.swept(choice, block).mask


sparsegpt = SparseGPT()
