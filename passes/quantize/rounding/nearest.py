"""Each weight to the code that is nearest."""

from __future__ import annotations

import numpy as np

from secateur.calib.solvers import grids
from secateur.passes.layers.problem import Array
from secateur.passes.quantize.rounding import Scaled, Unrounded


def nearest(wanted: Unrounded, scaled: Scaled) -> Array:
    """Round to nearest, half to even: the least error of the weights, not of what they give."""
    found = grids.nearest(wanted.weight, scaled.scale, scaled.grid, scaled.block, wanted.mask)
    return np.asarray(found, np.float64)
