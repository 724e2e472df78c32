"""The formulas of Optimal Brain Surgeon as they stand, one removal at a time: twins of what the library does."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve

Array: TypeAlias = npt.NDArray[np.float64]
Indices: TypeAlias = npt.NDArray[np.intp]


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
