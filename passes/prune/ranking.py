"""What a criterion says: in which order units go, and what each takes away."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Indices = NDArray[np.int64]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Ranking:
    """The units that go first.

    Attributes:
        order: units, the first to go first; as many as were asked for, or more.
        loss: [len(order)] by how much the loss rises as each goes after those before it, not negative, as a share of
            what there is to lose in the group, or in nats of the model's answers: that makes groups comparable.
    """

    order: Indices
    loss: Array

    def kept(self, size: int, keep: int) -> Indices:
        """The sorted units that stay when all but `keep` of `size` go."""
        stays = np.ones(size, dtype=bool)
        stays[self.order[: size - keep]] = False
        return np.flatnonzero(stays)


def ranked(saliency: ArrayLike) -> Ranking:
    """The ranking of units that are judged one by one: the least salient goes first, of equals the later one.

    The loss of each is its share of all saliency.
    """
    given = np.asarray(saliency, dtype=np.float64)
    order = np.argsort(-given, kind="stable")[::-1]
    lowest = min(float(given.min(initial=0.0)), 0.0)
    shifted = given - lowest
    return Ranking(order, shifted[order] / (float(shifted.sum()) or 1.0))


def priced(loss: ArrayLike) -> Ranking:
    """The ranking of units by what each by itself costs: the cheapest goes first, of equals the later one."""
    given = np.asarray(loss, dtype=np.float64)
    order = np.argsort(-given, kind="stable")[::-1]
    return Ranking(order, np.maximum(given[order], 0.0))
