"""Weights times the norms of what they read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from secateur.passes.layers.problem import Array, Mask, Problem
from secateur.passes.sparsify.criteria import Ranked
from secateur.passes.sparsify.patterns import Pattern, Share

MOST, TOLERANCE = 0.8, 1e-3
"""The greatest alpha that is tried, and how near to each other two tries may come."""


def _saliency(problem: Problem) -> Array:
    return np.abs(problem.weight) * np.sqrt(problem.energies)


wanda = Ranked(_saliency)
"""|w_ij| ||x_j||. Sun et al. 2024, "A Simple and Effective Pruning Approach for Large Language Models" (Wanda), ICLR.

They compare within each output: `scope=row`.
"""


@dataclass(frozen=True)
class Variant:
    """Wanda with a share of each output's own: weights go as long as their sum is at most alpha of the output's.

    One alpha for the layer, found by bisection, so that the layer has the share of zeros that is asked for, as the code
    of Sun et al. (2024) does with `use_variant`. Where the shares cannot meet it, the nearest that is sparse enough is
    filled up by the least salient. N:M patterns leave nothing to share out: the same as `wanda`.
    """

    needs_data: bool = True
    needs_gradients: bool = False

    def saliency(self, problem: Problem) -> Array:
        """Wanda's."""
        return _saliency(problem)

    def __call__(self, problem: Problem, pattern: Pattern) -> Mask:
        """The mask."""
        saliency = self.saliency(problem)
        if not isinstance(pattern, Share) or not saliency.any():
            return pattern.mask(saliency)
        wanted = int(saliency.size * pattern.share)
        low, high = 0.0, MOST
        while high - low > TOLERANCE:
            middle = (low + high) / 2
            if np.count_nonzero(~_kept(saliency, middle)) < wanted:
                low = middle
            else:
                high = middle
        return _exactly(saliency, _kept(saliency, high), wanted)


def _kept(saliency: Array, alpha: float) -> Mask:
    """All but the least salient of each row that together make up at most alpha of it."""
    order = np.argsort(saliency, axis=1, kind="stable")
    sums = np.cumsum(np.take_along_axis(saliency, order, axis=1), axis=1)
    kept = np.empty(saliency.shape, np.bool_)
    np.put_along_axis(kept, order, sums > alpha * sums[:, -1:], axis=1)
    return kept


def _exactly(saliency: Array, kept: Mask, zeros: int) -> Mask:
    """With so many zeros: those of most saliency come back, or those of least go as well; later ones first."""
    surplus = np.count_nonzero(~kept) - zeros
    side = np.flatnonzero(~kept if surplus > 0 else kept)
    order = np.argsort(saliency.reshape(-1)[side], kind="stable")
    moved = side[order[len(order) - surplus :]] if surplus > 0 else side[order[: -surplus or 0]]
    changed = kept.copy().reshape(-1)
    changed[moved] = surplus > 0
    return changed.reshape(kept.shape)


wanda_variant = Variant()
