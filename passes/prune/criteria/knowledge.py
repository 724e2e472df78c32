"""By what a unit knows: of the model's answers, and of what the layer behind it gives."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from secateur.passes.prune.criteria.magnitude import magnitude
from secateur.passes.prune.criteria.saliency import informed
from secateur.passes.prune.problem import Layer, Problem
from secateur.passes.prune.ranking import Ranking, priced

Array = NDArray[np.float64]

REPRESENTATION = 2.5e-4
"""What a loss of representation counts, where one of prediction counts 1: as the scripts of the authors have it."""


def knowledge(problem: Problem, removed: int) -> Ranking:
    """The units go first that know least: REPRESENTATION * R + P.

    Park, Choi and Kang 2024, "Accurate Retraining-free Pruning for Pretrained Encoder-based Language Models" (K-prune),
    ICLR, section 4.2. R, of representation, is the mean square of what the unit adds to the outputs of the layers that
    read it, no mean taken off. P, of prediction, is there half the squared gradient of the divergence from the teacher,
    which is zero for all units as long as nothing has gone, for there the divergence is at its least. It is taken for
    its curvature here, 1/2 E[j^T (diag p - p p^T) j] with j the gradient of the logits: half the Fisher information of
    the gate, and what closing the unit does to the answers, in nats a sample. A unit of several columns, a head, counts
    as a whole, which is the authors' mean over its columns times their mu = 64 for heads of 64. Their temperature of 2
    is left at 1. With `weighting=fisher`, R is nats too.

    `knowledge:1e-5` takes another weight for R. By `magnitude` where the answers depend on no unit.
    """
    return weighed(f"{REPRESENTATION:g}")(problem, removed)


def weighed(text: str) -> Callable[[Problem, int], Ranking]:
    """`knowledge` with the weight of representation that is written.

    Raises:
        ValueError: it is no number, or negative.
    """
    try:
        weight = float(text)
    except ValueError:
        weight = -1.0
    if not 0 <= weight < np.inf:
        raise ValueError(f"the weight of representation is a number, 0 or more, got {text!r}")

    def criterion(problem: Problem, removed: int) -> Ranking:
        if problem.gates is None or not problem.gates.any():
            return magnitude(problem, removed)
        prediction = np.mean(np.square(problem.gates), axis=0) / 2
        parts = [representation(layer, problem.size) for layer in informed(problem)]
        return priced(prediction + weight * np.sum([np.zeros(problem.size), *parts], axis=0))

    return criterion


def representation(layer: Layer, size: int) -> Array:
    """[size] the mean square, over samples and outputs, of what each unit adds to a layer's outputs.

    Of a layer whose errors have a stake of their own, the share of that.
    """
    gram, members = layer.seen.fit, layer.members(size)
    stake = gram.count * len(layer.matrix) if layer.stake is None else layer.stake
    if max(map(len, members)) <= 1:
        energies = layer.by_unit(gram.diagonal * np.einsum("nd,nd->d", layer.matrix, layer.matrix), size)
        return np.asarray(energies / stake)
    xx, found = gram.raw().xx, np.zeros(size)
    for unit, columns in enumerate(members):
        weight = layer.matrix[:, columns]
        found[unit] = np.sum(xx[np.ix_(columns, columns)] * (weight.T @ weight))
    return found / stake
