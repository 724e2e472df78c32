"""Optimal Brain Surgeon for whole units."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from secateur.calib.solvers.obs import damped_inverse
from secateur.calib.solvers.obs_greedy import Score, Surgeon, remove_greedily
from secateur.passes.prune.criteria.magnitude import magnitude
from secateur.passes.prune.criteria.saliency import informed, target_energy
from secateur.passes.prune.problem import Layer, Problem
from secateur.passes.prune.ranking import Ranking

Array = NDArray[np.float64]
Rounds = Callable[[Problem, int], Iterable[int]]

LEAST_DAMPING = 1e-8
"""OBS needs an inverse: not even `damping=0` goes below this."""

_SILENT = 1e-12
"""Inputs with less than this share of the mean energy show nothing."""


def obs(problem: Problem, removed: int) -> Ranking:
    """One unit at a time goes, each time the one whose removal costs least with all columns left making up for it.

    Hassibi and Stork 1993, "Second order derivatives for network pruning: Optimal Brain Surgeon", NIPS, section 2, in
    blocks, and exact at every step. Where several layers read the units, their errors count as shares of the energies
    of their targets. The target is what the dense model gave there: from weights refitted to it on all columns, OBS is
    exact for the error against it, and what it leaves is the least squares fit on the columns left. Inputs that belong
    to no unit stay, and make up for those that go.
    """
    return operate(problem, removed)


def operate(
    problem: Problem, removed: int, score: Score = Surgeon.costs, rounds: Rounds | None = None, aligned: bool = False
) -> Ranking:
    """OBS by another score, or with several units to a round; the losses are those of `obs` all the same.

    Args:
        problem: what to choose from.
        removed: how many units go.
        score: see `remove_greedily`.
        rounds: from the problem and `removed` to how many go in each round; None takes one by one.
        aligned: whether the score asks for `Surgeon.alignment`.
    """
    layers = informed(problem)
    if not layers:
        return magnitude(problem, removed)
    surgeons = [_surgeon(layer, problem, len(layers), aligned) for layer in layers]
    batches = None if rounds is None else rounds(problem, removed)
    order, loss = remove_greedily(surgeons, removed, score, batches)
    return Ranking(order, loss)


def refitted(layer: Layer, damping: float) -> tuple[Array, Array]:
    """Weights [outputs, columns] that give the target with all columns there, and the inverse H^-1 [columns, columns].

    With H = X^T X + ridge I and a pull of strength `ridge` to the weights that were there. Inputs that are silent
    weigh nothing.
    """
    moments = layer.seen.moments(layer.bias is not None)
    inverse = damped_inverse(moments.xx, max(damping, LEAST_DAMPING))
    weight = layer.matrix + (moments.xy.T - layer.matrix @ moments.xx) @ inverse
    energies = moments.xx.diagonal()
    weight[:, energies <= _SILENT * energies.mean()] = 0.0
    return weight, inverse


def _surgeon(layer: Layer, problem: Problem, layers: int, aligned: bool) -> Surgeon:
    weight, inverse = refitted(layer, problem.damping)
    pull = None
    if aligned:
        moments = layer.seen.moments(layer.bias is not None)
        ridge = max(problem.damping, LEAST_DAMPING) * float(moments.xx.diagonal().mean())
        pull = weight @ moments.xx + ridge * weight
    share = 1.0 / (layers * target_energy(layer))
    return Surgeon(weight, inverse, layer.members(problem.size), share, pull)


def are_narrow(problem: Problem) -> bool:
    """True where units are single inputs of all layers (neurons, channels), not several (heads)."""
    return all(np.bincount(layer.unit[layer.unit >= 0]).max(initial=0) <= 1 for layer in problem.layers)
