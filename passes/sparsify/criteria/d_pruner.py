"""General and special importance in one score."""

from __future__ import annotations

from functools import partial

import numpy as np

from secateur.passes.layers.problem import Array, Problem
from secateur.passes.sparsify.criteria import Ranked
from secateur.passes.sparsify.criteria.gradients import seen
from secateur.passes.sparsify.criteria.sparsegpt import saliency

PULL, RATE = 0.1, 0.03
"""Lambda, and the learning rate that the regulariser is about, as published."""


def _dual(problem: Problem, pull: float) -> Array:
    """|g w + 1/2 F w^2| with g = E g + 2 lambda rate^2 G F, where G is what a weight is worth in general."""
    found, general = seen(problem), saliency(problem)
    gradient = found.mean + 2 * pull * RATE**2 * general * found.square
    score: Array = np.abs(gradient * problem.weight + 0.5 * found.square * np.square(problem.weight))
    return score


def weighed(text: str) -> Ranked:
    """The criterion with another lambda: `d-pruner:0`, which is a plain Taylor expansion to the second order.

    Raises:
        ValueError: it is no number from 0 on.
    """
    try:
        pull = float(text)
    except ValueError:
        pull = -1.0
    if not 0 <= pull < np.inf:
        raise ValueError(f"behind d-pruner: a lambda from 0 on is expected, got {text!r}")
    return Ranked(partial(_dual, pull=pull), needs_gradients=True)


d_pruner = weighed(str(PULL))
"""Zhang et al. 2024, "Pruning as a Domain-specific LLM Extractor" (D-Pruner), NAACL.

They take gradients on labelled data of the domain, fine-tuning as they go. Here answers are the model's own, and the
data says both what is general (the Gram matrix) and what is special (the scores).
"""
