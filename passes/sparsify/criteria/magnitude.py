"""Magnitudes."""

from __future__ import annotations

import numpy as np

from secateur.passes.layers.problem import Array, Problem
from secateur.passes.sparsify.criteria import Ranked


def _saliency(problem: Problem) -> Array:
    magnitudes: Array = np.abs(problem.weight)
    return magnitudes


magnitude = Ranked(_saliency, needs_data=False)
"""|w|. Han et al. 2015, "Learning both Weights and Connections for Efficient Neural Networks", section 3."""
