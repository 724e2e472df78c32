"""Repairs towards what the layer itself gave, from the inputs that it reads now: no target but its own output."""

from __future__ import annotations

from secateur.calib.gram import Moments
from secateur.calib.solvers.least_squares import least_squares
from secateur.passes.prune.problem import Array, Indices, Layer, Problem
from secateur.passes.prune.repair import Repaired, judged


def obs(problem: Problem, layer: Layer, kept: Indices) -> Repaired:
    """What Optimal Brain Surgeon leaves: W - W_S [(H^-1)_SS]^-1 (H^-1)_S:, with H the damped Gram matrix.

    Hassibi and Stork 1993, "Second order derivatives for network pruning", in blocks. The columns that stay are those
    of the damped refit of the layer's own output, whatever the order of removal: no inverse of the whole is needed.
    """
    columns = layer.columns(kept)
    return judged(layer, columns, [(_folded(layer, layer.seen.fit.raw(), columns, problem.damping), layer.bias)])


def fold(problem: Problem, layer: Layer, kept: Indices) -> Repaired:
    """Removed inputs as linear combinations of those that stay, T, folded into the weights of these: W_K + W_S T^T.

    The two steps of greedy output approximation (PMLR v280): recovery before pruning, with ridge, and then the means
    into the bias, b + W_S mean(x_S - x_K T).
    """
    columns, gone, evidence = layer.columns(kept), layer.gone(kept), layer.seen
    coefficients = _folded(layer, evidence.moments(layer.bias is not None), columns, problem.damping)
    bias = layer.bias
    if bias is not None:
        moved = coefficients - layer.matrix[:, columns].T
        bias = bias + evidence.fit.mean[gone] @ layer.matrix[:, gone].T - evidence.fit.mean[columns] @ moved
    return judged(layer, columns, [(coefficients, bias)])


def _folded(layer: Layer, moments: Moments, columns: Indices, damping: float) -> Array:
    """(G_KK + ridge)^-1 (G_KK + ridge, G_KS) W^T: the ridge pulls to the weights that were there."""
    own = moments.xx @ layer.matrix.T
    return least_squares(moments.xx, own, columns, damping=damping, prior=layer.matrix[:, columns].T)
