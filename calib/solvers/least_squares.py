"""The weights that make a layer give what it should, from the inputs that are left: damped least squares on Grams.

Notation: rows x[d] of inputs and y[m] of targets, `xx` = sum x x^T [d, d], `xy` = sum x y^T [d, m], `yy` = sum y^2 [m],
and coefficients B [k, m] for the k kept columns, so that y is about x[kept] @ B; B is the transpose of an ONNX weight.
With centred sums (`Gram.centered`) B goes with an `intercept`.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.linalg import LinAlgError, cho_factor, cho_solve, eigh

Array: TypeAlias = npt.NDArray[np.float64]
Indices: TypeAlias = npt.NDArray[np.intp]

#: Eigenvalues of a singular Gram below this share of the largest count as zero.
RTOL = 1e-6


def least_squares(
    xx: Array,
    xy: Array,
    kept: npt.ArrayLike | None = None,
    *,
    damping: float = 0.01,
    prior: Array | None = None,
) -> Array:
    """The coefficients B [k, m] that minimise ||X B - Y||^2 + ridge * ||B - prior||^2 over the kept columns X.

    `ridge = damping * mean(diag(xx[kept, kept]))`, so that B does not depend on the scale of the data. Shrinking
    towards the weights that were there, not towards zero, keeps what the data says nothing about: a narrow calibration
    set has many such directions. Solved by Cholesky; if the matrix is singular, the smallest change of the prior among
    all that fit the data best, by the pseudo-inverse with relative tolerance `RTOL`.

    Args:
        xx: [d, d] Gram of the inputs.
        xy: [d, m] inputs with targets.
        kept: the columns that are left, as indices or a mask [d]; None for all.
        damping: strength of the pull to the prior, relative to the mean square of the inputs.
        prior: [k, m] coefficients to stay near to; None for zero.

    Raises:
        ValueError: the shapes do not fit, or the damping is negative.
    """
    indices = kept_indices(kept, len(xx))
    gram, target = xx[np.ix_(indices, indices)], xy[indices]
    if damping < 0:
        raise ValueError(f"damping must be >= 0, got {damping}")
    if prior is not None and prior.shape != target.shape:
        raise ValueError(f"the prior has shape {prior.shape}, expected {target.shape}, [kept, targets]")
    start = np.zeros(target.shape) if prior is None else prior.astype(np.float64)
    if not len(indices):
        return start
    damped = gram + damping * float(np.mean(gram.diagonal())) * np.eye(len(gram))
    return start + solve_positive(damped, target - gram @ start)


def solve_positive(matrix: Array, right: Array) -> Array:
    """x [k, m] with matrix @ x = right for a positive semi-definite matrix [k, k]; of least norm if it is singular."""
    try:
        factor, lower = cho_factor(matrix, lower=True, check_finite=False)
    except LinAlgError:
        return _pseudo_solve(matrix, right)
    # Rounding may let a singular matrix pass: its smallest pivot is then noise.
    pivots = factor.diagonal() ** 2
    if pivots.min() <= len(matrix) * np.finfo(np.float64).eps * matrix.diagonal().max():
        return _pseudo_solve(matrix, right)
    solution: Array = cho_solve((factor, lower), right, check_finite=False)
    return solution


def _pseudo_solve(matrix: Array, right: Array) -> Array:
    values, vectors = eigh(matrix, check_finite=False)
    used = values > RTOL * max(float(values[-1]), 0.0)
    basis = vectors[:, used]
    solution: Array = basis @ ((basis.T @ right) / values[used, None])
    return solution


def intercept(coefficients: Array, mean: Array, target_mean: Array, kept: npt.ArrayLike | None = None) -> Array:
    """The bias [m] that goes with coefficients [k, m] from centred sums: the mean output becomes the mean target."""
    offset: Array = target_mean - mean[kept_indices(kept, len(mean))] @ coefficients
    return offset


def residual(
    xx: Array, xy: Array, yy: Array, kept: npt.ArrayLike | None = None, coefficients: Array | None = None
) -> float:
    """The sum of squared errors ||X[:, kept] @ B - Y||^2, without the data.

    With sums of another part of the data than B was solved on, it says what B is worth there.

    Args:
        xx: [d, d] Gram of the inputs.
        xy: [d, m] inputs with targets.
        yy: [m] sums of squares of the targets.
        kept: the columns that are left, as indices or a mask [d]; None for all.
        coefficients: B [k, m]; None for the best there are (no damping).
    """
    indices = kept_indices(kept, len(xx))
    total = float(np.sum(yy))
    if not len(indices):
        return total
    gram, target = xx[np.ix_(indices, indices)], xy[indices]
    best = solve_positive(gram, target) if coefficients is None else coefficients
    return max(0.0, total - 2.0 * float(np.vdot(best, target)) + float(np.vdot(best, gram @ best)))


def kept_indices(kept: npt.ArrayLike | None, width: int) -> Indices:
    """Indices of a mask [width], of indices as they are, or of all columns for None.

    Raises:
        ValueError: an index is not below `width`, or a mask has another length.
    """
    if kept is None:
        return np.arange(width)
    given = np.asarray(kept)
    if given.dtype == np.bool_:
        if given.shape != (width,):
            raise ValueError(f"a mask of shape {given.shape} for {width} columns")
        return np.flatnonzero(given)
    indices = given.astype(np.intp).reshape(-1)
    if np.any((indices < 0) | (indices >= width)):
        raise ValueError(f"kept columns must be within 0..{width - 1}, got {indices.tolist()}")
    return indices
