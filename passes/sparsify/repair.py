"""New numbers for the weights that an element mask keeps."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.calib.solvers.least_squares import solve_positive
from secateur.passes.layers.evidence import Evidence

Array: TypeAlias = NDArray[np.float64]


def masked_least_squares(xx: Array, xy: Array, mask: NDArray[np.bool_], prior: Array, damping: float) -> Array:
    """The matrix [outputs, columns], zero outside `mask`, that minimises ||X M^T - Y||^2 + ridge ||M - prior||^2.

    Exact: each output has its own normal equations on the columns that it keeps. `ridge = damping * mean(diag(xx))`.

    Args:
        xx: [columns, columns] Gram of the inputs.
        xy: [columns, outputs] inputs with targets.
        mask: [outputs, columns], True where a weight stays.
        prior: [outputs, columns] weights to stay near to.
        damping: strength of the pull to the prior, relative to the mean square of the inputs.
    """
    fitted = np.where(mask, prior, 0.0)
    ridge = damping * float(np.mean(xx.diagonal()))
    for row, kept in enumerate(mask):
        columns = np.flatnonzero(kept)
        gram, start = xx[np.ix_(columns, columns)], fitted[row, columns]
        right = xy[columns, row] - gram @ start
        damped = gram + ridge * np.eye(len(columns))
        fitted[row, columns] = start + solve_positive(damped, right[:, None])[:, 0]
    return fitted


def refit(
    matrix: Array, bias: Array | None, mask: NDArray[np.bool_], evidence: Evidence, damping: float
) -> tuple[Array, Array | None, float, float]:
    """What a layer has after masking: the fit, or the old weights with or without a corrected bias if those are better.

    Args:
        matrix: [outputs, columns] of the dense layer.
        bias: [outputs], or None where the layer takes none.
        mask: [outputs, columns].
        evidence: moments of what it reads now and should give.
        damping: see `masked_least_squares`.

    Returns:
        matrix, bias, error (1 - R² on held-out samples), and the error without repair.
    """
    with_bias = bias is not None
    moments, masked = evidence.moments(with_bias), np.where(mask, matrix, 0.0)
    solved = masked_least_squares(moments.xx, moments.xy, mask, matrix, damping)
    candidates = [(one.T, evidence.bias(one.T) if with_bias else None) for one in (solved, masked)]
    candidates.append((masked.T, bias))
    coefficients, chosen_bias, error = evidence.best(candidates)
    return coefficients.T, chosen_bias, error, evidence.error(masked.T, bias)
