"""SQuant: codes next to each weight, chosen so that errors cancel within kernels and rows."""

from __future__ import annotations

import numpy as np

from secateur.calib.solvers.balanced import balanced
from secateur.passes.layers.problem import Array
from secateur.passes.quantize.rounding import Scaled, Unrounded
from secateur.passes.quantize.rounding.nearest import nearest


def squant(wanted: Unrounded, scaled: Scaled) -> Array:
    """Guo et al. 2022, sections 3 and 4, without data; on grids of floating point, whose steps differ, the nearest."""
    if scaled.grid.mantissa is not None:
        return nearest(wanted, scaled)
    found = balanced(wanted.weight, scaled.scale, scaled.grid, scaled.block, wanted.taps, wanted.mask)
    return np.asarray(found, np.float64)
