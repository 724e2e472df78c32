"""Chance, which every criterion has to beat."""

from __future__ import annotations

from secateur.passes.layers.problem import Array, Problem
from secateur.passes.sparsify.criteria import Ranked


def _saliency(problem: Problem) -> Array:
    return problem.random.random(problem.weight.shape)


random = Ranked(_saliency, needs_data=False)
"""Any weight as likely as another; the same with the same seed."""
