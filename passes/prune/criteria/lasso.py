"""The LASSO over gates on units."""

from __future__ import annotations

import numpy as np

from secateur.calib.solvers.lasso import LassoTerms, joined, lasso_channels, lasso_terms
from secateur.passes.prune.criteria.magnitude import magnitude
from secateur.passes.prune.problem import Layer, Problem
from secateur.passes.prune.ranking import Ranking


def lasso(problem: Problem, removed: int) -> Ranking:
    """The units go that an L1 penalty on their contributions to what reads them leaves closed.

    He, Zhang and Sun 2017, "Channel Pruning for Accelerating Very Deep Neural Networks", section 3.1, for all readers
    jointly, each weighted by the energy of its target. Inputs that belong to no unit stay, so their share is taken off
    the target first. Which units go depends on how many; the loss of one is what its own contribution is worth
    relative to the target, which is no more than an estimate for several.
    """
    terms = [found for layer in problem.layers if (found := terms_of(layer)) is not None]
    if not terms:
        return magnitude(problem, removed)
    both = joined(terms)
    kept = lasso_channels(both, problem.size - removed).kept
    contribution = both.quadratic.diagonal() / (both.energy or 1.0)
    gone = np.setdiff1d(np.arange(problem.size), kept)
    gone = gone[np.argsort(contribution[gone], kind="stable")]
    return Ranking(gone, contribution[gone])


def terms_of(layer: Layer) -> LassoTerms | None:
    """One gate for each unit; None where the layer gives nothing to choose by."""
    moments, columns = layer.about_units()
    if float(np.sum(moments.yy)) <= 0:
        return None
    inside = layer.unit[layer.unit >= 0]
    weight = layer.matrix[:, columns].reshape(len(layer.matrix), len(inside), layer.taps)
    return lasso_terms(moments.xx, moments.xy, moments.yy, moments.count, weight).tied(inside)
