"""AdaRound: up or down, learned for each weight."""

from __future__ import annotations

import numpy as np

from secateur.calib.solvers import adaround as solver
from secateur.passes.layers.problem import Array
from secateur.passes.quantize.rounding import Scaled, Unrounded


def adaround(wanted: Unrounded, scaled: Scaled) -> Array:
    """Nagel et al. 2020, on the Gram matrix in place of batches; no row is worse than the nearest codes."""
    how = solver.Learning(block=scaled.block)
    found = solver.adaround(wanted.weight, wanted.seen, scaled.scale, scaled.grid, wanted.mask, how)
    return np.asarray(found, np.float64)
