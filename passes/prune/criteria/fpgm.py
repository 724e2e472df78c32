"""Distances between filters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secateur.passes.prune.criteria.saliency import relative
from secateur.passes.prune.problem import Problem
from secateur.passes.prune.ranking import Ranking


def fpgm(problem: Problem, removed: int) -> Ranking:
    """The units whose weights are nearest to those of all others go first: the others can stand in for them.

    He, Liu, Wang, Hu and Yang 2019, "Filter Pruning via Geometric Median for Deep Neural Networks Acceleration", CVPR,
    section 3: the sum of the Euclidean distances to all filters of the layer. The authors' code removes a
    share of the filters of smallest norm before; that is not part of the method as it is written.
    Where several weights make the units, the sums of each count relative to their mean.
    """
    return relative((_distances(rows).sum(axis=1) for rows in problem.rows), problem.size)


def _distances(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """[size, size] between all pairs of rows."""
    # About their mean, so that rows far from zero lose no digits.
    rows = rows - rows.mean(axis=0)
    products = rows @ rows.T
    squares = products.diagonal()
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * products, 0.0))
    np.fill_diagonal(distances, 0.0)
    return distances
