"""By what the model's answers change when units are closed together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secateur.passes.prune.criteria.magnitude import magnitude
from secateur.passes.prune.problem import Problem
from secateur.passes.prune.ranking import Ranking, priced

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

SWEEPS = 3
"""So often each unit that goes is held against all that stay."""


def fisher_block(problem: Problem, removed: int) -> Ranking:
    """The units go first without which, all of them together, the model's answers diverge least: 1/2 sum_uv F_uv.

    Kwon, Kim, Mahoney, Hassoun, Keutzer and Gholami 2022, "A Fast Post-Training Pruning Framework for Transformers",
    NeurIPS, section 4.2, mask rearrangement: from the units that cost least by themselves, and from those that are the
    cheapest one after another, every unit is swapped for the one that costs least in its place. Units whose effects
    cancel may go together. From few samples everything seems to cancel: what lies off the diagonal of F is shrunk by as
    much of it as is chance (`shrinkage`). Losses are nats a sample. By `magnitude` where the answers depend on no unit.
    """
    if problem.gates is None or not problem.gates.any():
        return magnitude(problem, removed)
    fisher = Fisher(problem.gates)
    everything = np.arange(problem.size)
    starts = [fisher.greedy(everything, removed)[0], priced(fisher.diagonal).order[:removed]]
    found = [fisher.greedy(fisher.swapped(start), removed) for start in starts]
    order, loss = min(found, key=lambda one: float(one[1].sum()))
    return Ranking(order, np.maximum(loss, 0.0))


class Fisher:
    """Half the Fisher information of gates [size, size], a row at a time: with many units, all of it is too large."""

    def __init__(self, gates: Array) -> None:
        """`gates` [samples, size]: their gradients."""
        self._gates = gates / np.sqrt(2 * len(gates))
        self._kept = 1.0 - shrinkage(gates)
        self.diagonal: Array = np.einsum("nu,nu->u", self._gates, self._gates)

    def row(self, unit: int) -> Array:
        """[size] of one unit with all; off the diagonal what is not chance."""
        found: Array = self._kept * (self._gates[:, unit] @ self._gates)
        found[unit] = self.diagonal[unit]
        return found

    def greedy(self, allowed: Indices, count: int) -> tuple[Indices, Array]:
        """One by one the unit that adds least to what those before it cost, and that; of equals the later one."""
        order, loss = np.empty(count, np.int64), np.empty(count)
        added = np.full(len(self.diagonal), np.inf)
        added[allowed] = self.diagonal[allowed]
        for step in range(count):
            order[step] = unit = len(added) - 1 - int(np.argmin(added[::-1]))
            loss[step] = added[unit]
            added += 2 * self.row(unit)
            added[unit] = np.inf
        return order, loss

    def swapped(self, gone: Indices) -> Indices:
        """The units that go instead of these, as many, for less, or the same."""
        outside = np.ones(len(self.diagonal), dtype=bool)
        outside[gone] = False
        chosen = list(gone)
        crossed: Array = np.sum([np.zeros(len(outside)), *(self.row(unit) for unit in gone)], axis=0)
        for _ in range(SWEEPS if outside.any() else 0):
            before = list(chosen)
            for place, unit in enumerate(chosen):
                without = crossed - self.row(unit)
                cost = np.where(outside, self.diagonal + 2 * without, np.inf)
                best = int(np.argmin(cost))
                now = self.diagonal[unit] + 2 * without[unit]
                if cost[best] < now - 1e-12 * abs(now):
                    chosen[place], outside[unit], outside[best] = best, True, False
                    crossed = without + self.row(best)
            if chosen == before:
                break
        return np.array(chosen, np.int64)


def shrinkage(gates: Array) -> float:
    """The share, in [0, 1], of the products of different gates that is chance: the sum of their means' variances over
    that of their squares.

    Schaefer and Strimmer 2005, "A Shrinkage Approach to Large-Scale Covariance Matrix Estimation", target D ("diagonal,
    unequal variance"), for second moments.
    """
    count = len(gates)
    if count < 2:
        return 1.0
    squares = np.square(gates)
    inner = gates @ gates.T if count < gates.shape[1] else gates.T @ gates
    means = float(np.sum(np.square(inner))) / count**2 - float(np.sum(np.square(squares.mean(axis=0))))
    whole = float(np.mean(np.square(squares.sum(axis=1)))) - float(np.sum(np.mean(np.square(squares), axis=0)))
    chance = (whole - means) / (count - 1)
    return float(np.clip(chance / means, 0.0, 1.0)) if means > 0 else 1.0
