"""Shares of zeros that can be learned: beliefs in candidate rates, their gradients, and shares that meet a budget.

Xu et al. 2024, "BESA: Pruning Large Language Models with Blockwise Parameter-Efficient Sparsity Allocation", ICLR,
section 3.2: with candidates p_d, logits theta and beliefs beta = softmax(sigmoid(theta)), the share of zeros is
s = sum_d beta_d p_d, and the weight of rank k is pruned with the probability sum of beta_d over all d with
k < floor(n p_d), which never grows with k.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, softmax

Array: TypeAlias = NDArray[np.float64]
Ranks: TypeAlias = NDArray[np.int64]

CANDIDATES: Array = np.arange(100, -1, -1) / 100.0
"""From the most zeros to none, as the paper counts them."""

SQUASHED = (0.376, 0.624)
"""Behind a sigmoid, logits differ by less than 1, and no share of zeros outside of these can come about."""

MOST = 0.95
"""No layer loses more than this share: without its last weights, a layer says nothing at all."""


@dataclass(frozen=True)
class Belief:
    """Logits [..., candidates] of rates, one line for each layer or row.

    Attributes:
        squashed: whether the softmax is of their sigmoids.
    """

    theta: Array
    squashed: bool

    @classmethod
    def at(cls, share: float, lines: int) -> Belief:
        """A belief whose share is that, all lines alike: all logits are 0 at one half. Squashed within `SQUASHED`."""
        squashed = SQUASHED[0] <= share <= SQUASHED[1]
        # About the share itself: what is behind a sigmoid comes furthest so.
        line = CANDIDATES - share

        def missing(tilt: float) -> float:
            return float(cls(tilt * line, squashed).shares) - share

        steep = np.copysign(1e3, share - 0.5)
        if abs(share - 0.5) < 1e-12:
            tilt = 0.0
        elif squashed and missing(steep) * steep <= 0:
            tilt = steep
        else:
            tilt = float(brentq(missing, 0.0, steep))
        return cls(np.tile(tilt * line, (lines, 1)), squashed)

    @property
    def beta(self) -> Array:
        """[..., candidates] what each rate is believed to be worth; sums to 1."""
        found: Array = softmax(expit(self.theta) if self.squashed else self.theta, axis=-1)
        return found

    @property
    def shares(self) -> Array:
        """[...] the share of zeros of each line."""
        found: Array = self.beta @ CANDIDATES
        return found

    def chance(self, count: int) -> Array:
        """[..., count] with what probability the weight of each rank is pruned."""
        below = np.arange(count)[:, None] < cuts(count)
        found: Array = self.beta @ below.T.astype(np.float64)
        return found

    def chained(self, slopes: Array) -> Array:
        """The gradient at theta of what has these gradients [..., candidates] at beta."""
        beta = self.beta
        found: Array = beta * (slopes - np.sum(beta * slopes, axis=-1, keepdims=True))
        if self.squashed:
            found = found * expit(self.theta) * expit(-self.theta)
        return found


def cuts(count: int) -> Ranks:
    """[candidates] how many of so many weights each rate prunes: floor(count p), rounding errors of p aside."""
    return np.floor(count * CANDIDATES + 1e-9).astype(np.int64)


def ranks_of(saliency: Array) -> Ranks:
    """[lines, n] the rank of each weight in its line; the least salient has 0, of equals the later one."""
    count = saliency.shape[-1]
    order = count - 1 - np.argsort(saliency[..., ::-1], axis=-1, kind="stable")
    found = np.empty(saliency.shape, np.int64)
    np.put_along_axis(found, order, np.broadcast_to(np.arange(count), saliency.shape), axis=-1)
    return found


def slopes_at_beta(ranks: Ranks, at_mask: Array) -> Array:
    """[lines, candidates] the straight-through gradient at beta: minus the gradients at the mask that a rate takes.

    Args:
        ranks: [lines, n].
        at_mask: [lines, n] gradients at the mask's entries.
    """
    ordered = np.zeros((len(ranks), ranks.shape[1] + 1))
    np.put_along_axis(ordered, ranks + 1, at_mask, axis=-1)
    taken = np.cumsum(ordered, axis=-1)[:, cuts(ranks.shape[1])]
    return -taken


def penalty(shares: Array, sizes: Array, target: float) -> tuple[float, Array]:
    """((mean - target) / target)^2 of the mean share by sizes, and its gradient at each share."""
    weights = sizes / sizes.sum()
    off = (float(weights @ shares) - target) / target
    return off**2, 2 * off / target * weights


def on_budget(shares: Array, sizes: Array, target: float, most: float = MOST) -> Array:
    """The nearest shares, by squares weighed by size, within 0 .. most, whose mean by sizes is the target."""
    goal = min(target, most)
    if goal <= 1e-12 or goal >= most - 1e-12:
        return np.full(shares.shape, np.clip(goal, 0.0, most))

    def missing(shift: float) -> float:
        return float(sizes @ np.clip(shares + shift, 0.0, most) / sizes.sum()) - goal

    shift = float(brentq(missing, -1.0 - float(np.max(shares)), 1.0 + most, xtol=1e-12))
    return np.clip(shares + shift, 0.0, most)


def counts_of(shares: Array, sizes: Sequence[int], target: float) -> list[int]:
    """Whole numbers of zeros, all together floor(target of all): the largest remainders are rounded up."""
    met = on_budget(shares, np.asarray(sizes, float), target)
    wanted = [share * size for share, size in zip(met, sizes, strict=True)]
    found = [int(one + 1e-9) for one in wanted]
    left = int(min(target, MOST) * sum(sizes) + 1e-9) - sum(found)
    for which in sorted(range(len(found)), key=lambda one: (found[one] - wanted[one], one))[: max(left, 0)]:
        found[which] += 1
    return found


@dataclass
class Adam:
    """Kingma and Ba 2015, algorithm 1, on one array."""

    rate: float
    _first: Any = 0.0
    _second: Any = 0.0
    _taken: int = 0

    def step(self, at: Array, gradient: Array) -> Array:
        """Where the array goes from here."""
        self._taken += 1
        self._first = 0.9 * self._first + 0.1 * gradient
        self._second = 0.999 * self._second + 0.001 * gradient**2
        first, second = self._first / (1 - 0.9**self._taken), self._second / (1 - 0.999**self._taken)
        moved: Array = at - self.rate * first / (np.sqrt(second) + 1e-12)
        return moved


def descend(belief: Belief, slope: Callable[[Belief, int], Array], steps: int, rate: float) -> Belief:
    """Takes so many steps by Adam; `slope` gives the gradient at beta for a belief and the number of the step."""
    adam = Adam(rate)
    for step in range(steps):
        theta = adam.step(belief.theta, belief.chained(slope(belief, step)))
        belief = Belief(theta, belief.squashed)
    return belief
