"""Weights drawn by chance, the likelier the more they are worth."""

from __future__ import annotations

from secateur.calib.solvers.sketch import randomized
from secateur.passes.layers.problem import Array, Problem
from secateur.passes.sparsify.criteria import Ranked
from secateur.passes.sparsify.criteria.wanda import wanda


def _saliency(problem: Problem) -> Array:
    return randomized(wanda.saliency(problem), int(problem.random.integers(1 << 62)))


sketch = Ranked(_saliency)
"""What sampling by importance keeps: any criterion that takes the best must do better (`calib.solvers.sketch`)."""
