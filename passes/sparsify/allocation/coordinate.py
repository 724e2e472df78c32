"""Shares of zeros by trial: block by block, whatever makes the error of the block's output smaller is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np

from secateur.passes.sparsify.allocation import Wishes
from secateur.passes.sparsify.allocation.besa import hard
from secateur.passes.sparsify.allocation.rates import MOST, Array, on_budget
from secateur.passes.sparsify.allocation.target import check_target, chosen, parse_said, pick, share_out
from secateur.passes.sparsify.allocation.trial import BlockRule, Trial
from secateur.passes.sparsify.patterns import Pattern, Share

STRIDES = (0.2, 0.1, 0.05, 0.025)
"""By how much the share of a layer is changed, coarse to fine."""
TRIES = 96
"""So many times a block is run over its samples at the most."""


@dataclass(frozen=True)
class Coordinate(BlockRule):
    """A gradient-free cousin of BESA (Xu et al. 2024): the same error, of the same blocks, but no beliefs and no torch.

    Coordinate descent: the share of one layer goes up or down, all others make up for it evenly so that the block has
    as many zeros as before (the projection onto the budget), and the block is run; of what is tried, all that is better
    than before is kept. With N:M patterns: layers that have it by what each costs alone, then one of them is exchanged
    for one that is dense, as long as that is better. No probabilities, no gradients: it ends where no single change
    helps, or after `TRIES` runs.

    Attributes:
        target: the mean share of zeros, for N:M.
    """

    target: float | None = None

    def check(self, wishes: Wishes) -> None:
        """A share is asked for, or N:M and a target."""
        check_target("coordinate", wishes, self.target)

    def decide(self, trial: Trial, wishes: Wishes) -> list[Pattern]:
        """Tries."""
        if isinstance(wishes.pattern, Share):
            return share_out(_tried_shares(trial, wishes.pattern.zeros), trial.sizes, wishes.pattern)
        assert self.target is not None
        return chosen(_tried_choice(trial, wishes.pattern, self.target), wishes.pattern)


def _tried_shares(trial: Trial, target: float) -> Array:
    with trial.measure() as measure:
        sizes = np.asarray(trial.sizes, np.float64)
        return descended(
            lambda shares: measure([hard(layer, one) for layer, one in zip(trial.layers, shares, strict=True)]),
            sizes,
            target,
            TRIES,
        )


def descended(error: Callable[[Array], float], sizes: Array, target: float, tries: int) -> Array:
    """Shares whose mean by sizes is the target, and whose error no single change of theirs makes smaller.

    Args:
        error: of shares [layers].
        sizes: weights of each layer.
        target: the mean share.
        tries: how often `error` may be asked.
    """
    best = np.full(len(sizes), target)
    least, left = error(best), tries - 1
    for stride in STRIDES:
        improved = True
        while improved:
            improved = False
            for which, sign in product(range(len(sizes)), (1.0, -1.0)):
                moved = _moved(best, which, sign * stride, sizes, target)
                if left <= 0 or np.allclose(moved, best, atol=1e-6):
                    continue
                left -= 1
                if (found := error(moved)) < least:
                    best, least, improved = moved, found, True
    return best


def _moved(shares: Array, which: int, stride: float, sizes: Array, target: float) -> Array:
    """One share is changed, as far as the others can make up for it."""
    others = np.arange(len(shares)) != which
    if not others.any():
        return shares
    rest = float(sizes[others].sum())
    total = target * float(sizes.sum())
    # What the others can take together lies between nothing and the most.
    low, high = max(0.0, (total - MOST * rest) / sizes[which]), min(MOST, total / sizes[which])
    moved = shares.copy()
    moved[which] = np.clip(shares[which] + stride, low, high)
    moved[others] = on_budget(shares[others], sizes[others], (total - sizes[which] * moved[which]) / rest)
    return moved


def _tried_choice(trial: Trial, pattern: Pattern, target: float) -> list[bool]:
    with trial.measure() as measure:

        def error(has: list[bool]) -> float:
            pairs = zip(trial.layers, has, strict=True)
            return measure([np.maximum(layer.ranks, float(not one)) for layer, one in pairs])

        return exchanged(error, trial.sizes, pattern, target, TRIES)


def exchanged(
    error: Callable[[list[bool]], float], sizes: list[int], pattern: Pattern, target: float, tries: int
) -> list[bool]:
    """Which layers have the pattern: no exchange of one that has it for one that has not makes the error smaller.

    Args:
        error: where these layers have it.
        sizes: weights of each.
        pattern: what they have or not.
        target: the mean share of zeros that is not exceeded.
        tries: how often `error` may be asked, beside once for each layer.
    """
    count = len(sizes)
    alone = np.array([error([one == which for one in range(count)]) for which in range(count)])
    best = pick(-alone / np.asarray(sizes), sizes, pattern, target)
    least = error(best)
    allowed = target * sum(sizes) * (1 + 1e-9)
    improved = True
    while improved and tries > 0:
        improved = False
        for out, into in product(range(count), range(count)):
            if not best[out] or best[into] or tries <= 0:
                continue
            other = [one != out and (has or one == into) for one, has in enumerate(best)]
            zeros = sum(pattern.zeros * size for size, has in zip(sizes, other, strict=True) if has)
            before = sum(pattern.zeros * size for size, has in zip(sizes, best, strict=True) if has)
            if not before <= zeros <= allowed:
                continue
            tries -= 1
            if (found := error(other)) < least:
                best, least, improved = other, found, True
    return best


coordinate = Coordinate()


def aimed(text: str) -> Coordinate:
    """With a mean share of zeros for N:M, `coordinate:30%`; over the whole model, `coordinate:model`."""
    said = parse_said(text, ("model",))
    return Coordinate(span=0 if said.model else Coordinate.span, target=said.target)
