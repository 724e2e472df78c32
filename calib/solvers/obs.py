"""What it costs to remove input columns together, when all that stay make up for it: exact structured OBS.

The error of weights W' in place of W [n, d] is tr((W' - W) H (W' - W)^T), with H the damped Gram matrix of the inputs.
Its least value with the columns S at zero, and the weights that attain it, follow from the inverse of H (Hassibi and
Stork 1993, "Second order derivatives for network pruning: Optimal Brain Surgeon", for one weight; here in blocks):

    cost(S) = tr(W_S [(H^-1)_SS]^-1 W_S^T)        W <- W - W_S [(H^-1)_SS]^-1 (H^-1)_S:

Costs are exact for one removal, not for several at once: after each, inverse and weights are updated.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve
from scipy.linalg.lapack import dpotrf, dpotri

Array: TypeAlias = npt.NDArray[np.float64]


def damped_inverse(xx: Array, damping: float = 0.01) -> Array:
    """H^-1 [d, d] for H = xx + damping * mean(diag(xx)) * I; inputs that are always zero count as of unit size.

    Raises:
        ValueError: H is singular, which takes a damping of zero.
    """
    silent = xx.diagonal() == 0
    ridge = np.where(silent, 1.0, damping * float(np.mean(xx.diagonal())))
    # Symmetric: the transpose of row-major numbers is column-major, as LAPACK wants them.
    damped = np.array(xx, dtype=np.float64, order="C").T
    np.einsum("ii->i", damped)[...] += ridge
    factor, failed = dpotrf(damped, lower=1, overwrite_a=1)
    if failed:
        raise ValueError(f"the Gram matrix is singular with damping {damping}: pivot {failed - 1} is not positive")
    lower, _ = dpotri(factor, lower=1, overwrite_c=1)
    inverse: Array = lower + lower.T
    np.fill_diagonal(inverse, lower.diagonal())
    return inverse


def compensated(weight: Array, inverse: Array, columns: npt.ArrayLike) -> Array:
    """Weights [n, d] that make up for the removal of columns, which become zero; H^-1 stays that of all columns."""
    removed = np.asarray(columns, dtype=np.intp)
    factor = cho_factor(inverse[np.ix_(removed, removed)], lower=True)
    kept = np.setdiff1d(np.arange(len(inverse)), removed)
    updated = np.zeros(weight.shape)
    updated[:, kept] = weight[:, kept] - cho_solve(factor, weight[:, removed].T).T @ inverse[np.ix_(removed, kept)]
    return updated
