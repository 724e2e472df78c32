"""Chance, which every criterion has to beat."""

from __future__ import annotations

from secateur.passes.sparsify.criteria import Ranked
from secateur.passes.sparsify.problem import Array, Problem


def _saliency(problem: Problem) -> Array:
    return problem.random.random(problem.weight.shape)


random = Ranked(_saliency, needs_data=False)
"""Any weight as likely as another; the same with the same seed."""
