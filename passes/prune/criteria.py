"""The criterion axis: which units to keep, given how many. A criterion is a function of a `Problem` and that number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.calib.gram import Moments
from secateur.calib.solvers.lasso import LassoTerms, joined, lasso_channels, lasso_terms
from secateur.passes.prune.problem import Layer, Problem, spread

Kept: TypeAlias = NDArray[np.int64]
Criterion: TypeAlias = Callable[[Problem, int], Kept]
"""(problem, how many to keep) to the sorted indices of the units that stay."""


def magnitude(problem: Problem, keep: int) -> Kept:
    """The units with the largest L2 norm of what makes them.

    Li et al. 2017, "Pruning Filters for Efficient ConvNets", section 3.1, with L2 for L1. Where several weights make
    them, each counts relative to its mean, so that no layer outshouts another. Of equals the earlier one stays.
    """
    energies = problem.makers or tuple(_read(layer, problem.size) for layer in problem.layers)
    saliency = sum((energy / (energy.mean() or 1.0) for energy in energies), np.zeros(problem.size))
    return np.sort(np.argsort(-saliency, kind="stable")[:keep])


def lasso(problem: Problem, keep: int) -> Kept:
    """The units that an L1 penalty on their contributions to what reads them leaves open.

    He et al. 2017, "Channel Pruning for Accelerating Very Deep Neural Networks", section 3.1, for all readers jointly,
    each weighted by the energy of its target. Inputs that belong to no unit stay, so their share is taken off first.
    """
    terms = [found for layer in problem.layers if (found := _terms(layer)) is not None]
    if not terms:
        return magnitude(problem, keep)
    return np.asarray(lasso_channels(joined(terms), keep).kept, dtype=np.int64)


def random(problem: Problem, keep: int) -> Kept:
    """Any units, each as likely as another: what a criterion must beat to be worth anything."""
    return np.sort(problem.random.permutation(problem.size)[:keep])


def _terms(layer: Layer) -> LassoTerms | None:
    """One gate for each unit; None where the layer gives nothing to choose by."""
    assert layer.evidence is not None
    moments = layer.evidence.moments(with_bias=layer.bias is not None)
    inside = np.flatnonzero(layer.unit >= 0)
    columns = spread(inside, layer.taps)
    if len(inside) < len(layer.unit):
        moments = _without(moments, layer, columns)
    if float(np.sum(moments.yy)) <= 0:
        return None
    weight = layer.matrix[:, columns].reshape(len(layer.matrix), len(inside), layer.taps)
    return lasso_terms(moments.xx, moments.xy, moments.yy, moments.count, weight).tied(layer.unit[inside])


def _without(moments: Moments, layer: Layer, columns: NDArray[np.int64]) -> Moments:
    """Moments of some columns, with the target less what the other columns contribute."""
    others = np.setdiff1d(np.arange(layer.matrix.shape[1]), columns)
    fixed = layer.matrix[:, others].T
    xx, xy = moments.xx[np.ix_(columns, columns)], moments.xy[columns]
    crossed = moments.xx[np.ix_(others, others)] @ fixed
    yy = moments.yy + np.einsum("dn,dn->n", fixed, crossed - 2 * moments.xy[others])
    return Moments(moments.count, xx, xy - moments.xx[np.ix_(columns, others)] @ fixed, np.maximum(yy, 0.0))


def _read(layer: Layer, size: int) -> NDArray[np.float64]:
    """[size] sum of squares of what a layer reads each unit with."""
    energy = np.square(layer.matrix).sum(axis=0).reshape(len(layer.unit), -1).sum(axis=1)
    inside = layer.unit >= 0
    return np.bincount(layer.unit[inside], energy[inside], size).astype(np.float64)


CRITERIA: Mapping[str, Criterion] = MappingProxyType({"magnitude": magnitude, "lasso": lasso, "random": random})
