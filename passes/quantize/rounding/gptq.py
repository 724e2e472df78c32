"""GPTQ: columns are rounded one after another, and those that follow make up for it."""

from __future__ import annotations

import numpy as np

from secateur.calib.solvers import gptq as solver
from secateur.passes.layers.problem import Array
from secateur.passes.quantize.rounding import Scaled, Unrounded


def gptq(wanted: Unrounded, scaled: Scaled) -> Array:
    """Frantar et al. 2023, section 3, columns with the largest inputs first, scales as they are."""
    gram = solver.ordered(wanted.seen, damping=wanted.damping)
    found = solver.gptq(wanted.weight, gram, scaled.scale, scaled.grid, scaled.block, wanted.mask)
    return np.asarray(found, np.float64)
