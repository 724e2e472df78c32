"""What the output of a layer loses with units: the matrix of inner products of their contributions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from secateur.calib.solvers.lasso import lasso_terms
from secateur.passes.prune.criteria.magnitude import magnitude
from secateur.passes.prune.criteria.obs import LEAST_DAMPING
from secateur.passes.prune.criteria.saliency import by_error, informed, target_energy
from secateur.passes.prune.problem import Layer, Problem
from secateur.passes.prune.ranking import Ranking

Array = NDArray[np.float64]


def second_moment(problem: Problem, removed: int) -> Ranking:
    """The units that contribute least to the outputs go first: the sum of squares of what each adds by itself.

    Li, Dong and Lei 2025, "Greedy Output Approximation: Towards Efficient Structured Pruning for LLMs Without
    Retraining", CPAL, the second-moment criterion of depth-2 modules: E[h_j^2] ||b_j||^2. About the means where a bias
    takes those up.
    """

    def error(layer: Layer) -> Array:
        return cross_products(layer, problem.size).diagonal()

    return by_error(problem, error)


def similarity(problem: Problem, removed: int) -> Ranking:
    """Greedily the unit goes that, with all that went before it, changes the outputs least when nothing is repaired.

    The similarity criterion of Greedy Output Approximation (see `second_moment`), after what is public of it: with M
    the inner products of what units contribute, removing the set S changes the outputs by 1^T M_SS 1. Contributions
    that cancel each other may go together.
    """
    found = _shares(problem)
    if found is None:
        return magnitude(problem, removed)
    order, loss = np.empty(removed, dtype=np.int64), np.empty(removed)
    live, crossed = np.ones(problem.size, dtype=bool), np.zeros(problem.size)
    for step in range(removed):
        added = found.diagonal() + 2 * crossed
        order[step] = unit = _lowest(added, live)
        loss[step], live[unit] = added[unit], False
        crossed += found[unit]
    return Ranking(order, np.maximum(loss, 0.0))


def similarity_recovered(problem: Problem, removed: int) -> Ranking:
    """Greedily the unit goes whose contribution those of the units left give best: its Schur complement is smallest.

    `similarity` for when what is left is scaled to make up for what goes, one factor for each pair of units: a unit
    that is a combination of others costs nothing.
    """
    found = _shares(problem)
    if found is None:
        return magnitude(problem, removed)
    ridge = max(problem.damping, LEAST_DAMPING) * float(found.diagonal().mean())
    inverse = cho_solve(cho_factor(found + ridge * np.eye(problem.size)), np.eye(problem.size))
    order, loss = np.empty(removed, dtype=np.int64), np.empty(removed)
    live = np.ones(problem.size, dtype=bool)
    for step in range(removed):
        cost = np.where(live, 1.0 / np.where(live, inverse.diagonal(), 1.0), np.inf)
        order[step] = unit = _lowest(cost, live)
        loss[step], live[unit] = cost[unit], False
        inverse -= np.outer(inverse[unit], inverse[unit]) / inverse[unit, unit]
    return Ranking(order, loss)


def cross_products(layer: Layer, size: int) -> Array:
    """[size, size] inner products, over all samples, of what units contribute to the layer's outputs."""
    moments, columns = layer.about_units()
    inside = layer.unit[layer.unit >= 0]
    weight = layer.matrix[:, columns].reshape(len(layer.matrix), len(inside), layer.taps)
    found = np.zeros((size, size))
    tied = lasso_terms(moments.xx, moments.xy, moments.yy, moments.count, weight).tied(inside).quadratic
    found[: len(tied), : len(tied)] = tied
    return found


def _shares(problem: Problem) -> Array | None:
    """[size, size] as shares of the targets' energies, the mean of all layers; None where the data shows nothing."""
    layers = informed(problem)
    if not layers:
        return None
    shares = [cross_products(layer, problem.size) / target_energy(layer) for layer in layers]
    return np.asarray(np.mean(shares, axis=0))


def _lowest(scores: Array, live: NDArray[np.bool_]) -> int:
    """The unit with the lowest score, of equals the later one."""
    return len(scores) - 1 - int(np.argmin(np.where(live, scores, np.inf)[::-1]))
