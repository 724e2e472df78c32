"""Least squares on what is left."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secateur.calib.solvers.least_squares import least_squares
from secateur.passes.prune.problem import Layer
from secateur.passes.prune.repair import Repaired, filled


def refit(layer: Layer, kept: NDArray[np.int64], damping: float) -> Repaired:
    """Least squares from what is left to what the dense model gives, with intercept (He et al. 2017, section 3.1).

    Pulled towards the weights that were there, so that what the data does not show stays as it was. Where the fit is
    worse on the held-out samples than the old weights, with or without a corrected bias, those stay.
    """
    evidence = layer.seen
    columns, with_bias = layer.columns(kept), layer.bias is not None
    sliced, moments = layer.matrix[:, columns].T, evidence.moments(with_bias)
    solved = least_squares(moments.xx, moments.xy, columns, damping=damping, prior=sliced)
    candidates = [(one, evidence.bias(one, columns) if with_bias else None) for one in (solved, sliced)]
    candidates.append((sliced, layer.bias))
    coefficients, bias, error = evidence.best(candidates, columns)
    return Repaired(filled(layer, columns, coefficients), bias, error, evidence.error(sliced, layer.bias, columns))
