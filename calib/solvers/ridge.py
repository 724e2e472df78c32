"""Least squares that is pulled to what was there, for many strengths of the pull at the price of one.

Notation as in `least_squares`: B(r) = argmin ||X B - Y||^2 + r ||B - prior||^2. In the eigenvectors V of the Gram
matrix, with eigenvalues e, each direction moves by itself: V^T (B(r) - prior) = V^T (xy - xx prior) / (e + r). One that
the data does not excite, e = 0, does not move at all; one that it hardly excites, e << r, hardly.

Targets may come in two parts, one less sure than the other: B is linear in them, and each has a pull of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh

Array: TypeAlias = npt.NDArray[np.float64]

#: How much more strongly the less sure part of a target is pulled.
UNSURE = 10.0

#: Eigenvalues below this share of the largest are rounding errors of zero.
RTOL = 1e-12


@dataclass(frozen=True)
class RidgePath:
    """All solutions between plain least squares and the prior.

    Attributes:
        prior: [k, m] what a pull without end gives.
        values: [k] eigenvalues of the Gram matrix, those of directions without data zero.
        vectors: [k, k] eigenvectors, in columns.
        pull: [k, m] V^T (xy - xx prior), zero in directions without data.
        drift: [k, m] the same of the part of the target that is less sure.
        scale: mean of the diagonal of the Gram matrix; strengths are relative to it.
    """

    prior: Array
    values: Array
    vectors: Array
    pull: Array
    drift: Array
    scale: float

    @classmethod
    def of(cls, xx: Array, xy: Array, prior: Array, unsure: Array | None = None) -> RidgePath:
        """The path for a Gram matrix of inputs, inputs with targets, and what to stay near to.

        Args:
            xx: [k, k] Gram matrix of the inputs.
            xy: [k, m] inputs with targets, but for their less sure part.
            prior: [k, m] coefficients to stay near to.
            unsure: [k, m] inputs with the less sure part of the targets, which is pulled `UNSURE` times as strongly.
        """
        values, vectors = eigh(xx, check_finite=False)
        excited = values > RTOL * max(float(values[-1]), 0.0) if len(values) else np.zeros(0, bool)
        # Columns that are always zero have no part in the others' directions, not even by rounding.
        vectors[np.ix_(xx.diagonal() == 0, excited)] = 0.0
        pull = np.where(excited[:, None], vectors.T @ (xy - xx @ prior), 0.0)
        drift = np.zeros_like(pull)
        if unsure is not None:
            drift = np.where(excited[:, None], vectors.T @ unsure, 0.0)
        return cls(prior, np.where(excited, values, 0.0), vectors, pull, drift, float(np.mean(xx.diagonal())))

    def at(self, strength: float) -> Array:
        """B [k, m] for r = strength * scale; of least change where several fit as well."""
        coefficients: Array = self.prior + self.vectors @ self._moves(strength)
        return coefficients

    def residuals(self, strengths: Sequence[float], xx: Array, xy: Array, yy: Array) -> Array:
        """[len(strengths)] ||X B - Y||^2 for sums of data that the path was not made from."""
        gram = self.vectors.T @ xx @ self.vectors
        along = self.vectors.T @ (xy - xx @ self.prior)
        start = float(np.sum(yy)) - 2 * float(np.vdot(self.prior, xy)) + float(np.vdot(self.prior, xx @ self.prior))
        found = []
        for strength in strengths:
            moves = self._moves(strength)
            found.append(start - 2 * float(np.vdot(moves, along)) + float(np.vdot(moves, gram @ moves)))
        return np.maximum(np.array(found, dtype=np.float64), 0.0)

    def _moves(self, strength: float) -> Array:
        moves: Array = self.pull / self._bottom(strength) + self.drift / self._bottom(UNSURE * strength)
        return moves

    def _bottom(self, strength: float) -> Array:
        bottom = self.values + strength * self.scale
        return np.where(bottom > 0, bottom, 1.0)[:, None]


def strongest_pull(strengths: Sequence[float], errors: Array, tolerance: float) -> float:
    """The greatest strength whose error is within a relative tolerance of the least (Breiman et al. 1984, section 3.4).

    What is as good on the data that there is, as far as that can tell, is better where it changes less.
    """
    good = errors <= (1 + tolerance) * float(errors.min())
    return max(strength for strength, is_good in zip(strengths, good, strict=True) if is_good)
