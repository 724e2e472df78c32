"""The criterion axis: which channels to keep, given how many. A criterion is a function on a `ChannelProblem`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.calib.solvers.lasso import joined, lasso_channels, lasso_terms
from secateur.passes.prune.problem import ChannelProblem

Kept: TypeAlias = NDArray[np.int64]
Criterion: TypeAlias = Callable[[ChannelProblem, int], Kept]
"""(problem, how many to keep) to the sorted indices of the channels that stay."""


def magnitude(problem: ChannelProblem, keep: int) -> Kept:
    """The channels whose producing filters have the largest L2 norm (Li et al. 2017, "Pruning Filters for Efficient
    ConvNets", section 3.1, with L2 for L1). Needs no data. Of equals the earlier one stays."""
    saliency = np.linalg.norm(problem.producer.astype(np.float64), axis=1)
    return np.sort(np.argsort(-saliency, kind="stable")[:keep])


def lasso(problem: ChannelProblem, keep: int) -> Kept:
    """The channels that an L1 penalty on their contributions to what reads them leaves open (He et al. 2017, section
    3.1), for all readers jointly, each weighted by the energy of its target."""
    terms = []
    for layer in problem.layers:
        assert layer.evidence is not None
        moments = layer.evidence.moments(with_bias=layer.bias is not None)
        if float(np.sum(moments.yy)) > 0:
            terms.append(lasso_terms(moments.xx, moments.xy, moments.yy, moments.count, layer.weight))
    if not terms:
        return magnitude(problem, keep)
    return np.asarray(lasso_channels(joined(terms), keep).kept, dtype=np.int64)


CRITERIA: Mapping[str, Criterion] = MappingProxyType({"magnitude": magnitude, "lasso": lasso})
