"""Masks that get better by swaps, from means and variances of the inputs alone: DSnoT.

Zhang et al. 2024, "Dynamic Sparse No Training", sections 3.2 and 3.3: what a pruned row gives is off by
eps_i = sum over its pruned j of W_ij E[x_j] on the mean; growing one of those and pruning another in turn brings that
towards zero. Where a bias may be corrected, or there is a Gram, that or `mask_swaps` does better.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from secateur.calib.solvers.element_masks import check_pattern

Array: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]
Indices: TypeAlias = npt.NDArray[np.intp]


def dsnot(  # noqa: PLR0913  the method has as many knobs
    weight: Array,
    mask: Mask,
    mean: Array,
    variance: Array,
    norm: Array,
    *,
    group: int | None = None,
    cycles: int = 50,
    tolerance: float = 1e-3,
    power: float = 1.0,
    guard: bool | None = None,
) -> Mask:
    """Swaps kept and pruned entries of each row until what it gives is right on the mean.

    Of the pruned entries the one grows whose mean contribution W_ij mean_j / variance_j^power does most against eps_i;
    of the kept ones that work the same way, the one with least |W_ij| norm_j is pruned. An entry moves at most once.

    Args:
        weight: [r, c] dense weights.
        mask: [r, c] True where an entry stays now.
        mean: [c] mean of each input over all tokens.
        variance: [c] its variance.
        norm: [c] its root mean square, or any multiple of that.
        group: swap only within groups of so many neighbours, which keeps N:M; None swaps within the row.
        cycles: swaps of each row at most.
        tolerance: rows with |eps| below this share of their output's root mean square (inputs taken as independent)
            are left alone. The paper's 0.1 is for sums over the 2048 tokens of a sample.
        power: how much inputs that vary are avoided.
        guard: refuse swaps after which eps has not the sign it began with. None: only within groups, as the paper's
            code does; |eps| never grows with it.

    Returns:
        [r, c], with as many entries in each row (in each group) as before.

    Raises:
        ValueError: the shapes do not fit, a number is not finite, or groups do not divide the columns.
    """
    rows, columns = _check(weight, mask, {"mean": mean, "variance": variance, "norm": norm})
    if group is not None:
        check_pattern(columns, 0, group)
    found = mask.copy()
    contribution = weight * mean
    eps = np.where(mask, 0.0, contribution).sum(axis=1)
    sign = np.sign(eps)
    guarded = group is not None if guard is None else guard
    limit = tolerance * np.sqrt(weight**2 @ (variance + mean**2))
    candidates = _Candidates.of(contribution, mask, variance**power, np.abs(weight) * norm, group)
    active = np.arange(rows)[np.abs(eps) > limit]
    for _ in range(cycles):
        if not len(active):
            break
        grow, prune, some, ended = candidates.next(active, eps[active] > 0)
        changed = eps[active] + contribution[active, prune] - contribution[active, grow]
        if guarded:
            refused = some & (np.sign(changed) != sign[active])
            some, ended = some & ~refused, ended | refused
        at = active[some]
        found[at, grow[some]], found[at, prune[some]] = True, False
        eps[at] = changed[some]
        active = active[~ended & (np.abs(eps[active]) > limit[active])]
    return found


def _check(weight: Array, mask: Mask, vectors: dict[str, Array]) -> tuple[int, int]:
    if weight.ndim != 2 or mask.shape != weight.shape:
        raise ValueError(f"weight {weight.shape} and mask {mask.shape} should have the same two axes")
    for name, values in {"weight": weight, **vectors}.items():
        if name in vectors and values.shape != weight.shape[1:]:
            raise ValueError(f"the {name} has shape {values.shape}, expected ({weight.shape[1]},), one for each column")
        if not np.isfinite(values).all():
            raise ValueError(f"the {name} holds NaN or infinity, expected finite numbers")
    if (vectors["variance"] < 0).any() or (vectors["norm"] < 0).any():
        raise ValueError("a variance or norm is negative")
    rows, columns = weight.shape
    return rows, columns


@dataclass
class _Candidates:
    """What may still move: two ends of the sorted pruned entries of each row, and the kept ones in order.

    Attributes:
        grow: [r, c] columns that were pruned at first, ascending in c / v^p, then the others.
        low, high: [r] the next of these from below and, exclusive, from above.
        cheap: [r, c] score of what may be pruned, infinite for all else.
        sign: [r, c] signs of the mean contributions.
    """

    grow: Indices
    low: Indices
    high: Indices
    cheap: Array
    sign: Array
    group: int | None

    @classmethod
    def of(cls, contribution: Array, mask: Mask, spread: Array, score: Array, group: int | None) -> _Candidates:
        # Inputs that never vary are the surest, but no reason to divide by zero.
        floor = 1e-12 * float(spread.max(initial=0.0)) or 1.0
        ratio = np.where(mask, np.inf, contribution / np.maximum(spread, floor))
        order = np.argsort(ratio, axis=1, kind="stable")
        pruned = np.count_nonzero(~mask, axis=1)
        cheap = np.where(mask, score, np.inf)
        return cls(order, np.zeros(len(mask), np.intp), pruned, cheap, np.sign(contribution), group)

    def next(self, rows: Indices, positive: Mask) -> tuple[Indices, Indices, Mask, Mask]:
        """For rows with positive eps or not: what grows, what is pruned, if both are there, and if the row is done."""
        left = self.low[rows] < self.high[rows]
        at = np.clip(np.where(positive, self.high[rows] - 1, self.low[rows]), 0, self.grow.shape[1] - 1)
        grow = self.grow[rows, at]
        self.high[rows] -= positive & left
        self.low[rows] += ~positive & left
        fitting = self.sign[rows] == np.where(positive, -1.0, 1.0)[:, None]
        if self.group is not None:
            fitting &= np.arange(fitting.shape[1]) // self.group == (grow // self.group)[:, None]
        scores = np.where(fitting, self.cheap[rows], np.inf)
        prune = np.argmin(scores, axis=1)
        cost = scores[np.arange(len(rows)), prune]
        some = left & np.isfinite(cost)
        self.cheap[rows[some], prune[some]] = np.inf
        # In a group the next one to grow may have a partner; in the whole row there is none left.
        return grow, prune, some, ~left | (~some if self.group is None else False)
