"""Least squares seen through a ReLU: only what comes out of the activation has to be right.

He, Zhang and Sun (2017, section 3.3) and Zhang et al. 2016, "Accelerating Very Deep Convolutional Networks for
Classification and Detection", section 3.2: auxiliary responses U stand between the layer and the activation, and are
solved for in turn with the weights,

    min over B, U of ||clip(U) - clip(Y)||^2 + coupling * ||U - X B||^2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve

Array: TypeAlias = npt.NDArray[np.float64]

ROUNDS = ((0.1, 15), (1.0, 10))
"""Couplings, weak ones first, and how many turns each gets."""


@dataclass(frozen=True)
class Clipped:
    """What a layer reads [n, k], what it should give before the activation [n, m], and what that lets through.

    Linear: where the target is below `low` or above `high`, its exact value does not count.
    """

    x: Array
    target: Array
    low: float
    high: float

    def error(self, coefficients: Array, bias: Array) -> float:
        """The sum of squared errors behind the activation."""
        return float(np.sum(np.square(self._clip(self.x @ coefficients + bias) - self._clip(self.target))))

    def refit(self, start: Array, bias: Array, ridge: float) -> tuple[Array, Array]:
        """Coefficients [k, m] and bias [m] from those of ordinary least squares on.

        Args:
            start: [k, m] coefficients to begin with, and to stay near to.
            bias: [m] the bias to begin with.
            ridge: pull to `start`, relative to the mean square of the inputs.
        """
        mean = self.x.mean(axis=0)
        centered = self.x - mean
        gram = centered.T @ centered
        strength = max(ridge * float(np.mean(gram.diagonal())), np.finfo(np.float64).tiny)
        factor = cho_factor(gram + strength * np.eye(len(gram)), lower=True)
        wanted, found = self._clip(self.target), self.x @ start + bias
        coefficients = start
        for coupling, turns in ROUNDS:
            for _ in range(turns):
                middle = self.responses(found, wanted, coupling)
                coefficients = start + cho_solve(factor, centered.T @ (middle - self.x @ start))
                bias = middle.mean(axis=0) - mean @ coefficients
                found = self.x @ coefficients + bias
        return coefficients, bias

    def responses(self, found: Array, wanted: Array, coupling: float) -> Array:
        """U that minimises (clip(U) - wanted)^2 + coupling * (U - found)^2, each entry by itself.

        The best below the range, within it and above it are known in closed form; the best of the three is taken.
        """
        between = np.clip((coupling * found + wanted) / (coupling + 1), self.low, self.high)
        best, least = between, np.square(between - wanted) + coupling * np.square(between - found)
        outside = [(np.minimum(found, self.low), self.low)]
        if np.isfinite(self.high):
            outside.append((np.maximum(found, self.high), self.high))
        for one, through in outside:
            cost = np.square(through - wanted) + coupling * np.square(one - found)
            best, least = np.where(cost < least, one, best), np.minimum(cost, least)
        return best

    def _clip(self, values: Array) -> Array:
        return np.clip(values, self.low, self.high)
