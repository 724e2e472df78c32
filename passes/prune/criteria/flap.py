"""How much the inputs of a layer fluctuate, and how much it makes of that."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secateur.passes.prune.criteria.saliency import by_columns, by_error
from secateur.passes.prune.problem import Layer, Problem
from secateur.passes.prune.ranking import Ranking

Array = NDArray[np.float64]


def flap(problem: Problem, removed: int) -> Ranking:
    """The units go first whose replacement by their mean changes the outputs least: WIFV.

    An, Zhao, Yu, Tang and Wang 2024, "Fluctuation-based Adaptive Structured Pruning for Large Language Models", AAAI,
    "Weighted Input Feature Variance": the variance of an input times the squared norm of the weights that read
    it. With the mean moved into the bias that is the exact squared error of removing one column alone; a repair does
    that and more. A unit's score is the sum over its columns, and its loss a share of the target's energy.

    The paper makes scores of different layers comparable by standardising them; here they are shares of energies.
    """
    return by_error(problem, lambda layer: layer.by_unit(layer.seen.fit.count * _wifv(layer), problem.size))


def flap_code(problem: Problem, removed: int) -> Ranking:
    """`flap`, as the authors' code does with heads: the scores of columns are squared before they are summed."""
    return by_columns(problem, lambda layer: _wifv(layer) ** 2)


def flap_ifv(problem: Problem, removed: int) -> Ranking:
    """`flap` with the variance of the inputs alone (IFV)."""
    return by_columns(problem, lambda layer: layer.seen.fit.variance)


def flap_wifn(problem: Problem, removed: int) -> Ranking:
    """`flap` with norms for variances (WIFN): the mean absolute weight of a column times the norm of its input."""

    def score(layer: Layer) -> Array:
        norms = np.sqrt(layer.seen.fit.diagonal)
        return np.asarray(np.abs(layer.matrix).mean(axis=0) * norms)

    return by_columns(problem, score)


def _wifv(layer: Layer) -> Array:
    """[columns] variance of each input times the squared norm of its weights."""
    return np.asarray(layer.seen.fit.variance * np.einsum("nd,nd->d", layer.matrix, layer.matrix))
