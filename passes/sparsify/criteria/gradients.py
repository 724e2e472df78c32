"""How much the model's answers depend on each weight."""

from __future__ import annotations

import numpy as np

from secateur.passes.layers.problem import Array, Gradients, Problem
from secateur.passes.sparsify.criteria import Ranked


def seen(problem: Problem) -> Gradients:
    """The gradients, for those who asked for them."""
    assert problem.gradients is not None, "a criterion that needs gradients was run without"
    return problem.gradients


def _fisher(problem: Problem) -> Array:
    return 0.5 * seen(problem).square * np.square(problem.weight)


def _taylor(problem: Problem) -> Array:
    return seen(problem).absolute * np.abs(problem.weight)


fisher = Ranked(_fisher, needs_gradients=True)
"""1/2 F_ii w_i^2: about the divergence of the model's answers when one weight goes (LeCun et al. 1990; Theis et al.
2018, "Faster gaze prediction with dense networks and Fisher pruning", equation 5)."""

taylor = Ranked(_taylor, needs_gradients=True)
"""E|g_i| |w_i|: the first-order change of the loss (Molchanov et al. 2017, section 2.2), for single weights."""
