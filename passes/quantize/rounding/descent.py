"""QuantEase: what GPTQ found, made better one column at a time."""

from __future__ import annotations

import numpy as np

from secateur.calib.solvers import descent as solver
from secateur.passes.layers.problem import Array
from secateur.passes.quantize.rounding import Scaled, Unrounded
from secateur.passes.quantize.rounding.gptq import gptq


def descent(wanted: Unrounded, scaled: Scaled) -> Array:
    """Behdin et al. 2023, section 3: coordinate descent on the grid, from GPTQ's weights on."""
    start = gptq(wanted, scaled)
    how = solver.Descent(block=scaled.block)
    found = solver.descended(wanted.weight, wanted.seen, (start, scaled.scale), scaled.grid, wanted.mask, how)
    return np.asarray(found, np.float64)
