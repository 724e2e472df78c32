"""Masks that are found together with the values that they leave."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.calib.solvers.admm_masks import admm_mask
from secateur.passes.layers.problem import Array, Mask, Problem
from secateur.passes.sparsify.criteria.wanda import wanda
from secateur.passes.sparsify.patterns import Pattern


@dataclass(frozen=True)
class Admm:
    """Weights and a copy that fits the pattern, pulled together round by round (`calib.solvers.admm_masks`).

    Meng et al. 2024, "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large Language Models",
    section 3.2. Made for `repair=least-squares`.
    """

    needs_data: bool = True
    needs_gradients: bool = False

    def saliency(self, problem: Problem) -> Array:
        """Wanda's, which it begins with."""
        return wanda.saliency(problem)

    def __call__(self, problem: Problem, pattern: Pattern) -> Mask:
        """The mask that the copy ends with."""
        return admm_mask(problem.gram, problem.target, pattern.mask, ridge=problem.damping)


admm = Admm()
