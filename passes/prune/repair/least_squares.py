"""Least squares on what is left."""

from __future__ import annotations

import math

import numpy as np

from secateur.calib.gram import Moments
from secateur.calib.solvers.least_squares import intercept, least_squares
from secateur.calib.solvers.ridge import UNSURE, RidgePath, strongest_pull
from secateur.passes.layers.evidence import Evidence
from secateur.passes.prune.problem import Array, Indices, Layer, Problem
from secateur.passes.prune.repair import Repaired, filled

STRENGTHS = (1e-3, 1e-2, 0.1, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
"""Pulls towards the old weights that are tried, times the damping."""

UNJUDGED = 30.0
"""The pull where no samples were held out: what real networks chose, calibrated on a few hundred samples."""


def refit(problem: Problem, layer: Layer, kept: Indices, on_everything: bool = True) -> Repaired:
    """Least squares from what is left to what the dense model gives, with intercept (He et al. 2017, section 3.1).

    Pulled towards the weights that were there, so that what the data does not show stays as it was: as strongly as the
    held-out samples allow, and more so where it makes up for layers before than for its own inputs. Where the fit is
    worse on these samples than the old weights, with or without a corrected bias, those stay. What was held out has
    judged by then, and is fitted on as well (unless `on_everything` is false).
    """
    evidence, with_bias = layer.seen, layer.bias is not None
    columns, damping = layer.columns(kept), problem.damping
    sliced = layer.matrix[:, columns].T
    moments = evidence.moments(with_bias)
    own, drift = _targets(layer, moments)
    path = RidgePath.of(moments.xx[np.ix_(columns, columns)], own[columns], sliced, drift[columns])
    strength = damping * _factor(path, evidence, columns, damping, with_bias)
    candidates = [(one, evidence.bias(one, columns) if with_bias else None) for one in (path.at(strength), sliced)]
    candidates.append((sliced, layer.bias))
    which, error = evidence.judge(candidates, columns)
    unrepaired = evidence.error(sliced, layer.bias, columns)
    coefficients, bias = candidates[which]
    if on_everything and which < 2 and evidence.held_out.count:
        coefficients, bias = _on_everything(layer, columns, strength if which == 0 else None)
    return Repaired(filled(layer, columns, coefficients), bias, error, unrepaired)


def _targets(layer: Layer, moments: Moments) -> tuple[Array, Array]:
    """Inputs with what the layer itself gives of them [columns, outputs], and with what the target adds to that.

    What was lost with the removed inputs is there to be seen in these data and others. What layers before did to the
    inputs differs more from data to data.
    """
    own: Array = moments.xx @ layer.matrix.T
    return own, moments.xy - own


def _factor(path: RidgePath, evidence: Evidence, columns: Indices, damping: float, with_bias: bool) -> float:
    """Which of the strengths: the greatest among those that the held-out samples cannot tell from the best."""
    judge = evidence.held_out
    if not judge.count:
        return UNJUDGED
    moments = judge.centered() if with_bias else judge.raw()
    strengths = [damping * factor for factor in STRENGTHS]
    inside = moments.xx[np.ix_(columns, columns)]
    errors = path.residuals(strengths, inside, moments.xy[columns], moments.yy)
    # A mean of squares over n rows varies by about 1 / sqrt(n) of itself; two of them over the same rows differ less.
    return strongest_pull(STRENGTHS, errors, 0.5 / math.sqrt(judge.rows))


def _on_everything(layer: Layer, columns: Indices, strength: float | None) -> tuple[Array, Array | None]:
    """The fit (None: the old weights) and the bias from all samples, those that were held out among them."""
    together, with_bias = layer.seen.together(), layer.bias is not None
    coefficients = layer.matrix[:, columns].T
    if strength is not None:
        moments = together.centered() if with_bias else together.raw()
        own, drift = _targets(layer, moments)
        coefficients = least_squares(moments.xx, own, columns, damping=strength, prior=coefficients)
        coefficients = coefficients + least_squares(moments.xx, drift, columns, damping=UNSURE * strength)
    bias = intercept(coefficients, together.mean, together.target_mean, columns) if with_bias else None
    return coefficients, bias
