"""Shares of zeros that are learned, block by block, by gradients of what the block gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from secateur.passes.sparsify.allocation import Wishes
from secateur.passes.sparsify.allocation.rates import (
    CANDIDATES,
    Adam,
    Array,
    Belief,
    counts_of,
    descend,
    penalty,
    slopes_at_beta,
)
from secateur.passes.sparsify.allocation.row_shares import RowShares
from secateur.passes.sparsify.allocation.target import check_target, chosen, parse_said, pick, share_of, share_out
from secateur.passes.sparsify.allocation.trial import BlockRule, Layer, Trial
from secateur.passes.sparsify.patterns import Pattern, Share

PULL = 5.0
"""Lambda: what missing the share of zeros costs, beside the error of the block (their scripts')."""
STEPS, RATE = 96, 0.1
"""Of Adam. They take Prodigy, which finds its rate by itself, and a step for each of 128 samples."""


@dataclass(frozen=True)
class Besa(BlockRule):
    """Xu et al. 2024, "BESA: Pruning Large Language Models with Blockwise Parameter-Efficient Sparsity Allocation".

    Each layer of a block has a belief in rates (`secateur.passes.sparsify.allocation.rates`). The masks that these come
    to are tried, and the error of the block's output, against that of the dense model, goes back through them as if
    they were the probabilities of being kept (straight through), together with how far the block is from the share of
    zeros that is asked for. What is left of that distance in the end is shared out evenly.

    With N:M patterns, layers are dense or have the pattern: beliefs are in the two, weights that may go are multiplied
    by the probability of being dense, and in the end those that are most certain have it.

    Unlike theirs, targets are the dense model's own, not those of the block on what it reads by now. Each block has
    the share that is asked for; `besa:model` takes the whole model for one block, so that some blocks lose more than
    others: mostly better, but every layer is then fed through all of the model, in time that grows with its square.

    Attributes:
        target: the mean share of zeros, for N:M.
        rows: whether each output of a layer has a belief of its own, and so a share.
    """

    target: float | None = None
    rows: bool = False

    def check(self, wishes: Wishes) -> None:
        """A share is asked for, or N:M and a target."""
        check_target("besa", wishes, self.target)
        if self.rows and not (isinstance(wishes.pattern, Share) and wishes.pattern.scope == "row"):
            raise ValueError("besa:rows gives outputs shares of their own: say scope=row, and a share such as 50%")

    def decide(self, trial: Trial, wishes: Wishes) -> list[Pattern]:
        """Learns."""
        if isinstance(wishes.pattern, Share):
            return _learned(trial, wishes.pattern, self.rows)
        assert self.target is not None
        likely = _likely(trial, self.target / wishes.pattern.zeros)
        return chosen(pick(likely, trial.sizes, wishes.pattern, self.target), wishes.pattern)


def _learned(trial: Trial, pattern: Share, rows: bool) -> list[Pattern]:
    """What each layer, or each of its rows, has of the zeros."""
    lines = [len(layer.ranks) if rows and len(layer.problems) == 1 else 1 for layer in trial.layers]
    ends = np.cumsum(lines)[:-1]
    sizes = np.repeat([layer.size // count for layer, count in zip(trial.layers, lines, strict=True)], lines)
    with trial.slopes() as slopes:

        def slope(belief: Belief, step: int) -> Array:
            shares = belief.shares
            parts = np.split(shares, ends)
            masks = [hard(layer, share) for layer, share in zip(trial.layers, parts, strict=True)]
            pairs = zip(trial.layers, slopes(masks, step), strict=True)
            at_beta = [slopes_at_beta(layer.ranks, one) for layer, one in pairs]
            found = [one if count > 1 else one.sum(0, keepdims=True) for one, count in zip(at_beta, lines, strict=True)]
            lacking = penalty(shares, sizes.astype(np.float64), pattern.zeros)[1]
            wanted: Array = np.concatenate(found) + PULL * lacking[:, None] * CANDIDATES
            return wanted

        belief = descend(Belief.at(pattern.zeros, len(sizes)), slope, STEPS, RATE)
    if not rows:
        return share_out(belief.shares, trial.sizes, pattern)
    counts = np.split(np.array(counts_of(belief.shares, sizes.tolist(), pattern.zeros)), ends)
    return [
        RowShares(tuple(some.tolist()), layer.ranks.shape[1])
        if len(some) > 1
        else share_of(int(some[0]), layer.size, pattern)
        for layer, some in zip(trial.layers, counts, strict=True)
    ]


def hard(layer: Layer, shares: Array) -> Array:
    """The mask with that share of zeros in each line: one for all of them [1], or each its own [lines]."""
    cut = np.floor(layer.ranks.shape[1] * np.asarray(shares) + 1e-9).reshape(-1, 1)
    kept: Array = (layer.ranks >= cut).astype(np.float64)
    return kept


def _likely(trial: Trial, share: float) -> Array:
    """How likely each layer is to have the pattern, where that many of the weights are in such layers."""
    sizes, adam = np.asarray(trial.sizes, np.float64), Adam(RATE)
    theta = np.full(len(sizes), logit(np.clip(share, 0.02, 0.98)))
    with trial.slopes() as slopes:
        for step in range(STEPS):
            chance = expit(theta)
            goes = [layer.ranks == 0 for layer in trial.layers]
            found = slopes([1 - one * p for one, p in zip(goes, chance, strict=True)], step)
            slope = np.array([-float(one[gone].sum()) for one, gone in zip(found, goes, strict=True)])
            slope += PULL * penalty(chance, sizes, share)[1]
            theta = adam.step(theta, slope * chance * (1 - chance))
    return np.asarray(expit(theta))


besa = Besa()


def aimed(text: str) -> Besa:
    """With a mean share of zeros for N:M, `besa:30%`, a share for each output, `rows`, or as one block, `model`."""
    said = parse_said(text, ("model", "rows"))
    return Besa(span=0 if said.model else Besa.span, target=said.target, rows=said.rows)
