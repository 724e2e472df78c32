"""OBR: what was removed is made up for, then what is rounded first, and GPTQ takes care of the rest."""

from __future__ import annotations

import numpy as np

from secateur.calib.solvers import obr as solver
from secateur.passes.layers.problem import Array
from secateur.passes.quantize.rounding import Scaled, Unrounded


def obr(wanted: Unrounded, scaled: Scaled) -> Array:
    """Optimal brain restoration (Guo et al. 2025), steps 2 and 3; step 1, for the zeros, is done in what is wanted."""
    mask = np.ones(wanted.weight.shape, np.bool_) if wanted.mask is None else wanted.mask
    how = solver.Compensation(block=scaled.block, damping=wanted.damping)
    found = solver.obr(wanted.weight, wanted.seen, scaled.scale, scaled.grid, mask, how)
    return np.asarray(found.weight, np.float64)
