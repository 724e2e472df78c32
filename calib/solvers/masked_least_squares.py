"""The best values of a weight whose zeros are given: exact least squares, each row on the entries that it keeps.

SparseGPT's sweep (`column_sweep`) lets columns be made up for only by those after them; here all that stay do. Rows are
independent: row i solves A_II w_I = b_I on its kept set I, with A = H + ridge I. Two ways, whichever costs less: a
Cholesky factor for every set of columns that occurs, and conjugate gradients on all rows at once, in which one product
with A serves every row (Meng et al. 2024, "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning", section
3.3). Either works in float32 on corrections to residuals in float64 (iterative refinement: Higham 2002, "Accuracy and
Stability of Numerical Algorithms", chapter 12); rows that do not converge are solved in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.linalg.lapack import spotrf, spotrs

from secateur.calib.solvers.least_squares import solve_positive

Array: TypeAlias = npt.NDArray[np.float64]
Floats: TypeAlias = npt.NDArray[Any]
Mask: TypeAlias = npt.NDArray[np.bool_]
Indices: TypeAlias = npt.NDArray[np.intp]

TOLERANCE = 1e-7
"""Residuals relative to the right-hand side, in the norm of the preconditioner, at which iterations end."""

#: What conjugate gradients leave of a residual before it is taken anew, and how many steps they may take for that.
_INNER, _STEPS = 1e-3, 300
#: Corrections, after which rows that have not converged are solved in float64.
_CORRECTIONS = 8
#: Up to so many kept columns, float64 right away is as fast; bytes of the factors that are kept for corrections.
_SMALL, _FACTOR_BYTES = 64, 1 << 28
#: What the two ways take, in operations of large products, besides k^3 / 3 for a factor: k^2 numbers gathered are worth
#: so many each, and conjugate gradients are expected to need about so many products of a row with the matrix.
_GATHER_PRICE, _EXPECTED_PRODUCTS = 150.0, 300


def masked_least_squares(
    gram: Floats,
    target: Floats,
    mask: Mask,
    start: Floats | None = None,
    ridge: float = 0.01,
    prior: Floats | None = None,
) -> Array:
    """The weight W [r, c], zero outside `mask`, that minimises tr((W - T) H (W - T)^T) + ridge' ||W - prior||^2.

    `ridge' = ridge * mean(diag(H))`. Where nothing determines a weight, it stays that of the prior.

    Args:
        gram: H [c, c] of what the layer reads.
        target: T [r, c] what its rows should be.
        mask: [r, c] True where a weight stays.
        start: [r, c] weights that are near already, which saves iterations; the result does not depend on them.
        ridge: relative to the mean square of the inputs.
        prior: [r, c] weights to stay near to; the target if None.

    Raises:
        ValueError: the shapes do not fit, the ridge is negative, or a number is NaN or infinite.
    """
    target = np.asarray(target, dtype=np.float64)
    prior = target if prior is None else np.asarray(prior, dtype=np.float64)
    _check(gram, {"target": target, "prior": prior, "mask": mask, "start": start}, ridge)
    # Of unit size, so that float32 can hold it.
    damped = np.asarray(gram, dtype=np.float64) / (float(np.mean(gram.diagonal())) or 1.0 if gram.size else 1.0)
    np.einsum("ii->i", damped)[...] += ridge
    base = np.where(mask, prior, 0.0)
    # Unknown is the difference to the prior: what is singular then changes least.
    right = (target - base) @ damped + ridge * (prior - target)
    right[~mask] = 0.0
    rows = _distinct(mask)
    system = _System(damped, damped.astype(np.float32), right, mask)
    found = np.zeros(base.shape) if start is None else np.where(mask, start - base, 0.0)
    if _iterate(mask, len(rows)):
        converged = _corrected(system, found, _conjugate_gradients)
    else:
        converged = _factorized(system, found, rows)
    left = np.flatnonzero(~converged)
    if len(left):
        found[left] = _solved(system.of(left))
    return base + found


def _check(gram: Floats, given: dict[str, Floats | None], ridge: float) -> None:
    shape = given["target"].shape if given["target"] is not None else ()
    if len(shape) != 2 or gram.shape != (shape[1], shape[1]):
        raise ValueError(f"a target of shape {shape} does not fit a Gram of shape {gram.shape}")
    if ridge < 0:
        raise ValueError(f"the ridge must be >= 0, got {ridge}")
    if not np.isfinite(gram).all():
        raise ValueError("the Gram holds NaN or infinity: an input of the layer did, or it was summed too large")
    for name, values in given.items():
        if values is None:
            continue
        if values.shape != shape:
            raise ValueError(f"the {name} has shape {values.shape}, expected that of the target, {shape}")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError(f"the {name} holds NaN or infinity, expected finite numbers")


def _distinct(mask: Mask) -> list[Indices]:
    """The rows of each mask that occurs."""
    if not len(mask):
        return []
    packed = np.packbits(mask, axis=1)
    _, which = np.unique(packed, axis=0, return_inverse=True)
    order = np.argsort(which.reshape(-1), kind="stable")
    return np.split(order, np.flatnonzero(np.diff(which.reshape(-1)[order])) + 1)


def _iterate(mask: Mask, distinct: int) -> bool:
    """Whether conjugate gradients on all rows are expected to cost less than a factor for each mask."""
    rows, columns = mask.shape
    kept = float(np.count_nonzero(mask)) / max(rows, 1)
    factors = distinct * (kept**3 / 3 + _GATHER_PRICE * kept**2)
    return bool(factors > _EXPECTED_PRODUCTS * rows * columns**2)


@dataclass(frozen=True)
class _System:
    """All rows at once: x A = b, each on its own columns."""

    matrix: Array
    single: Floats
    right: Array
    mask: Mask

    def of(self, rows: Indices) -> _System:
        return _System(self.matrix, self.single, self.right[rows], self.mask[rows])

    def residual(self, found: Array) -> Array:
        rest: Array = self.right - found @ self.matrix
        rest[~self.mask] = 0.0
        return rest


Corrector: TypeAlias = Callable[[_System, Floats, Indices], Floats]
"""Of float32 residuals [a, c] of rows [a], the corrections [a, c], to a few digits."""


def _corrected(system: _System, found: Array, correct: Corrector) -> Mask:
    """Corrects what was found, in place, until residuals are small; which rows [r] got there."""
    diagonal = system.matrix.diagonal()
    inverse = np.divide(1.0, diagonal, out=np.zeros(len(diagonal)), where=diagonal > 0)
    goal = TOLERANCE**2 * (system.right**2 @ inverse)
    for _ in range(_CORRECTIONS):
        rest = system.residual(found)
        energy = rest**2 @ inverse
        active = np.flatnonzero(energy > goal)
        if not len(active):
            break
        # Rows of any size fit into float32 once they are of unit size.
        size = np.sqrt(energy[active])[:, None]
        found[active] += size * correct(system, (rest[active] / size).astype(np.float32), active)
    return np.asarray(energy <= goal)


def _solved(system: _System) -> Array:
    """The rows one mask after another in float64, of least norm where they are singular."""
    found = np.zeros(system.right.shape)
    for same in _distinct(system.mask):
        columns = np.flatnonzero(system.mask[same[0]])
        if len(columns):
            block = system.matrix[np.ix_(columns, columns)]
            found[np.ix_(same, columns)] = solve_positive(block, system.right[np.ix_(same, columns)].T).T
    return found


def _factorized(system: _System, found: Array, rows: list[Indices]) -> Mask:
    """Solves rows by one factor for each mask, in place, as many as the memory holds at once; which converged [r]."""
    converged = np.zeros(len(found), np.bool_)
    chunk: list[tuple[Indices, Indices]] = []
    used = 0
    for number, same in enumerate(rows):
        columns = np.flatnonzero(system.mask[same[0]])
        if len(columns) > _SMALL:
            chunk.append((same, columns))
            used += 4 * len(columns) ** 2
        if chunk and (used > _FACTOR_BYTES or number == len(rows) - 1):
            at = np.concatenate([same for same, _ in chunk])
            part = found[at]
            converged[at] = _corrected(system.of(at), part, _Factors.of(system.single, chunk))
            found[at] = part
            chunk, used = [], 0
    return converged


@dataclass(frozen=True)
class _Factors:
    """Of each mask, in order: where its rows begin and end, the columns that it keeps, and the factor of these."""

    parts: list[tuple[int, int, Indices, Floats]]
    count: int

    @classmethod
    def of(cls, matrix: Floats, chunk: list[tuple[Indices, Indices]]) -> _Factors:
        parts, start = [], 0
        for same, columns in chunk:
            block = matrix[np.ix_(columns, columns)]
            # Symmetric: the transpose of row-major numbers is column-major.
            factor, failed = spotrf(block.T, lower=1, overwrite_a=1, clean=0)
            if not failed:
                parts.append((start, start + len(same), columns, factor))
            start += len(same)
        return cls(parts, start)

    def __call__(self, system: _System, rest: Floats, active: Indices) -> Floats:
        wanted = np.zeros((self.count, rest.shape[1]), np.float32)
        wanted[active] = rest
        found, going = np.zeros_like(wanted), np.zeros(self.count, np.bool_)
        going[active] = True
        for start, stop, columns, factor in self.parts:
            if going[start:stop].any():
                solved, _ = spotrs(factor, wanted[start:stop, columns].T, lower=1)
                found[start:stop, columns] = solved.T
        return found[active]


def _conjugate_gradients(system: _System, right: Floats, active: Indices) -> Floats:
    """Corrections until `_INNER` is left of residuals of unit size; rows leave as they arrive."""
    matrix, allowed = system.single, system.mask[active]
    inverse = np.divide(1, matrix.diagonal(), out=np.zeros(len(matrix), np.float32), where=matrix.diagonal() > 0)
    solution, rows = np.zeros_like(right), np.arange(len(right))
    x, rest = np.zeros_like(right), right.copy()
    direction = rest * inverse
    energy = np.einsum("rc,rc->r", rest, direction)
    for _ in range(_STEPS):
        product = direction @ matrix
        product *= allowed
        curvature = np.einsum("rc,rc->r", direction, product)
        step = np.divide(energy, curvature, out=np.zeros_like(energy), where=curvature > 0)[:, None]
        x += step * direction
        rest -= step * product
        preconditioned = rest * inverse
        before, energy = energy, np.einsum("rc,rc->r", rest, preconditioned)
        going = (energy > _INNER**2) & (curvature > 0)
        if not going.any():
            break
        growth = np.divide(energy, before, out=np.zeros_like(energy), where=before > 0)
        direction *= growth[:, None]
        direction += preconditioned
        if np.count_nonzero(going) < 0.8 * len(going):
            solution[rows[~going]] = x[~going]
            rows, energy = rows[going], energy[going]
            x, rest, direction, allowed = x[going], rest[going], direction[going], allowed[going]
    solution[rows] = x
    return solution
