"""The basis of an inner dimension in which its indices are ordered by what they carry, and can be cut one by one.

Rows a [n, w] and b [m, w] meet in products a b^T: queries and keys, or a head's output and the weights that read it.
Any invertible T leaves them as they are, (a T) (b T^-T)^T = a b^T. With the one below, the first r columns of each make
the best product of rank r there is (Eckart and Young 1936, "The approximation of one matrix by another of lower rank"),
found from the Gram matrices alone: with A = L_a L_a^T and B = L_b L_b^T and L_a^T L_b = U S V^T, it is

    T = L_a^-T U sqrt(S),    T^-T = L_b^-T V sqrt(S),

and the error of cutting behind r is the sum of the S_i^2 that are left out. Slicing attention by the principal
components of what it multiplies is the static half of UniCP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.linalg import cholesky, solve_triangular, svd

Array: TypeAlias = npt.NDArray[np.float64]

FLOOR = 1e-4
"""Of the scale that two columns share, relative to the largest: what carries nothing must not become infinite."""


@dataclass(frozen=True)
class Rotation:
    """A change of basis, [w, w]: rows a become `a @ forward`, and rows b `b @ backward`.

    Attributes:
        forward: T.
        backward: T^-T.
        energy: [w] what each new index carries, falling: the squared error of leaving it out.
    """

    forward: Array
    backward: Array
    energy: Array


def balanced_rotation(a: Array, b: Array, damping: float) -> Rotation:
    """The rotation for the Gram matrices [w, w] of two sides.

    Args:
        a: of the one side.
        b: of the other.
        damping: added to the diagonals, relative to their means, so that directions without data have an inverse, too.
    """
    left, right = _root(a, damping), _root(b, damping)
    vectors, values, _ = svd(left.T @ right)
    scale = np.sqrt(np.maximum(values, FLOOR * values[0]) if values[0] > 0 else np.ones(len(values)))
    forward = solve_triangular(left, vectors, lower=True, trans="T") * scale
    return Rotation(forward, (left @ vectors) / scale, values**2)


def _root(gram: Array, damping: float) -> Array:
    """The lower Cholesky factor of a damped Gram matrix; of the identity where it is zero."""
    mean = float(np.mean(gram.diagonal()))
    eye = np.eye(len(gram))
    factor: Array = cholesky(gram + max(damping, 1e-12) * mean * eye if mean > 0 else eye, lower=True)
    return factor
