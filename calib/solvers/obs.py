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
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from secateur.calib.solvers.least_squares import Indices

Array: TypeAlias = npt.NDArray[np.float64]


def damped_inverse(xx: Array, damping: float = 0.01) -> Array:
    """H^-1 [d, d] for H = xx + damping * mean(diag(xx)) * I; inputs that are always zero count as of unit size.

    Raises:
        ValueError: H is singular, which takes a damping of zero.
    """
    silent = xx.diagonal() == 0
    ridge = np.where(silent, 1.0, damping * float(np.mean(xx.diagonal())))
    try:
        factor = cho_factor(xx + np.diag(ridge), lower=True)
    except LinAlgError as error:
        raise ValueError(f"the Gram matrix is singular with damping {damping}: {error}") from error
    inverse: Array = cho_solve(factor, np.eye(len(xx)))
    return (inverse + inverse.T) / 2


def removal_costs(weight: Array, inverse: Array, units: Indices) -> Array:
    """[u] the least error that removing each unit by itself brings.

    Args:
        weight: [n, d] weights, columns in the order of the Gram matrix.
        inverse: [d, d] H^-1.
        units: [u, s] columns of each unit: the taps of a channel, the dimensions of a head.
    """
    blocks = inverse[units[:, :, None], units[:, None, :]]
    columns = np.moveaxis(weight[:, units], 0, 2)
    # ||L^-1 W_S^T||^2 with L L^T = (H^-1)_SS, for all units at once.
    whitened = np.linalg.solve(np.linalg.cholesky(blocks), columns)
    costs: Array = np.einsum("usn,usn->u", whitened, whitened)
    return costs


def remove_columns(weight: Array, inverse: Array, columns: npt.ArrayLike) -> tuple[Array, Array]:
    """Weights [n, d] that make up for the removal of columns, which become zero, and H^-1 [d, d] without them."""
    removed = np.asarray(columns, dtype=np.intp)
    factor = cho_factor(inverse[np.ix_(removed, removed)], lower=True)
    # Compensation per removed column: [(H^-1)_SS]^-1 (H^-1)_S:
    spread = cho_solve(factor, inverse[removed])
    updated = weight - weight[:, removed] @ spread
    downdated = inverse - inverse[:, removed] @ spread
    updated[:, removed] = 0.0
    downdated[removed] = 0.0
    downdated[:, removed] = 0.0
    return updated, downdated


def remove_cheapest(weight: Array, inverse: Array, units: Indices, count: int) -> tuple[Indices, Array]:
    """Removes `count` units one at a time, each time the one that then costs least: (their numbers in order, weights).

    Raises:
        ValueError: `count` is not within 0..u.
    """
    if not 0 <= count <= len(units):
        raise ValueError(f"count must be within 0..{len(units)}, got {count}")
    live = np.ones(len(units), dtype=bool)
    order = np.empty(count, dtype=np.intp)
    for step in range(count):
        candidates = np.flatnonzero(live)
        order[step] = candidates[int(np.argmin(removal_costs(weight, inverse, units[candidates])))]
        live[order[step]] = False
        weight, inverse = remove_columns(weight, inverse, units[order[step]])
    return order, weight
