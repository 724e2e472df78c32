"""Column after column of a weight is pruned or rounded, and those that follow make up for it.

SparseGPT (Frantar and Alistarh 2023, section 3.3) and GPTQ (Frantar et al. 2023, section 3) share this sweep. The error
of weights Q [r, c] in place of W is tr((W - Q) H (W - Q)^T), H the damped Gram of the inputs. Both papers work with
R, upper triangular, H^-1 = R^T R: frozen at q_j, column j leaves e_j = (w_j - q_j) / R_jj, and w_k -= e_j R_jk for all
k > j. The sum of all e_j^2 is the error, whatever was chosen.

Here it is done without any inverse of H. From W - Q = E R follows E = (W - Q) U with U = R^-1, H = U U^T: one Cholesky
factorization instead of three, and what a block b of columns has become by the time it is its turn is a product with
all that was frozen before (a left-looking sweep), W_b + (W - Q)_before U_before,b U_bb^-1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from scipy.linalg.lapack import get_lapack_funcs

from secateur.calib.solvers.element_masks import check_pattern, keep_most, keep_places, removed_of

Array: TypeAlias = npt.NDArray[np.float64]
Floats: TypeAlias = npt.NDArray[Any]
Mask: TypeAlias = npt.NDArray[np.bool_]

RETRY = 0.1
"""The damping that is tried where the given one leaves the Gram singular."""

#: Columns that are updated together inside a block, so that what is worked on stays in the cache.
_PANEL = 32


@dataclass(frozen=True)
class Factor:
    """The Gram of a layer's inputs, factorized for any number of sweeps: H = L^T L.

    Attributes:
        lower: L [c, c], lower triangular, float64 or float32: the type in which a sweep calculates.
        dead: [c] inputs that are always zero; nothing follows from them, and they are the first to be pruned.
        ridge: what was added to the diagonal, damping * mean(diag).
    """

    lower: Floats
    dead: Mask
    ridge: float

    @cached_property
    def spread(self) -> Floats:
        """[c] R_jj: how far the inputs after j are from determining it; infinite for those that are dead."""
        return np.where(self.dead, np.asarray(np.inf, self.lower.dtype), 1 / self.lower.diagonal())

    def inverse_root(self) -> Floats:
        """R [c, c], upper triangular with H^-1 = R^T R, as the papers have it; the sweep does not need it."""
        return _inverse(self.lower).T


def factor(gram: Floats, damping: float = 0.01, dtype: npt.DTypeLike = np.float64) -> Factor:
    """Factorizes H = gram + damping * mean(diag(gram)) * I; dead inputs count 1 where that leaves them at zero.

    Args:
        gram: [c, c] Gram of the inputs.
        damping: relative to the mean square of the inputs. Where that leaves H singular, 0.1 is tried.
        dtype: float64, or float32 for twice the speed: with damping 0.01, errors of the weights are about 1e-3 of
            what the sweep changes, in directions in which the inputs hardly vary.

    Raises:
        ValueError: the Gram is not square, holds NaN or infinity, or is not positive definite with any damping.
    """
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1]:
        raise ValueError(f"a Gram is square, got {gram.shape}")
    if damping < 0:
        raise ValueError(f"damping must be >= 0, got {damping}")
    diagonal = gram.diagonal().astype(np.float64)
    mean = float(diagonal.mean()) if len(diagonal) else 0.0
    if not np.isfinite(gram).all():
        raise ValueError("the Gram holds NaN or infinity: an input of the layer did, or it was summed too large")
    if (diagonal < 0).any():
        raise ValueError(f"the Gram has {diagonal.min():.3g} on its diagonal, where sums of squares are: it is no Gram")
    dead = diagonal == 0
    for share in sorted({damping, max(damping, RETRY)}):
        ridge = share * mean
        lower = _factorized(gram, np.where(dead & (ridge == 0), 1.0, ridge), np.dtype(dtype))
        if lower is not None:
            return Factor(lower, dead, ridge)
    raise ValueError(f"the Gram is not positive definite, not even with damping {max(damping, RETRY)}: it is no Gram")


def _factorized(gram: Floats, ridge: Array, dtype: np.dtype[Any]) -> Floats | None:
    """L with gram + diag(ridge) = L^T L, or None where there is none."""
    # LAPACK gives G = A A^T for a lower A; turned by 180 degrees, that is the factor whose last column comes first.
    turned = np.array(gram[::-1, ::-1], dtype=dtype, order="C")
    np.einsum("ii->i", turned)[...] += ridge[::-1].astype(dtype)
    (potrf,) = cast("list[Any]", get_lapack_funcs(("potrf",), (turned,)))
    # Symmetric: the transpose of row-major numbers is column-major. Its lower factor lies in the upper one of `turned`.
    found, failed = potrf(turned.T, lower=1, overwrite_a=1, clean=1)
    if failed or not np.isfinite(found.diagonal()).all():
        return None
    return np.ascontiguousarray(found.T[::-1, ::-1])


def _inverse(lower: Floats) -> Floats:
    """The inverse of a lower triangular matrix, row-major."""
    (trtri,) = cast("list[Any]", get_lapack_funcs(("trtri",), (lower,)))
    found, _ = trtri(lower.T, lower=0)
    return np.ascontiguousarray(found.T)


@dataclass(frozen=True)
class Choice:
    """What becomes of columns when it is their turn: which entries stay, and to what those are rounded.

    Attributes:
        mask: from current weights [k, r] of k columns, their `Factor.spread` [k], and the number of the first: what
            stays [k, r]. None keeps all.
        group: how many columns `mask` decides at once, when the first of them is due; 0 for a whole block.
        grid: from a column [r] and its number, what it is rounded to [r]; entries that go are zero all the same.
    """

    mask: Callable[[Floats, Floats, int], Mask] | None = None
    group: int = 0
    grid: Callable[[Floats, int], Floats] | None = None


def keep_of(keep: int, group: int) -> Choice:
    """N:M: of every `group` columns, `keep` stay in each row, decided when the first of them is due.

    Raises:
        ValueError: it is no pattern.
    """
    check_pattern(group, keep, group)
    return Choice(lambda weight, spread, _: keep_places(_scores(weight, spread), keep), group)


def keep_share(share: float) -> Choice:
    """A share of all entries stays; a threshold for each block of columns, over all rows.

    Of the first n entries, counted in columns, floor(n * (1 - share)) are gone after each block.

    Raises:
        ValueError: the share is not within 0..1.
    """
    removed_of(0, share)

    def mask(weight: Floats, spread: Floats, first: int) -> Mask:
        columns, rows = weight.shape
        gone = removed_of((first + columns) * rows, share) - removed_of(first * rows, share)
        scores = np.ascontiguousarray(_scores(weight, spread).T)
        return keep_most(scores.reshape(1, -1), scores.size - gone).reshape(rows, columns).T

    return Choice(mask)


def fixed(mask: Mask) -> Choice:
    """A mask [r, c] that is there already: True where an entry stays."""
    columns = np.ascontiguousarray(mask.T)
    return Choice(lambda weight, _, first: columns[first : first + len(weight)])


def rounded(grid: Callable[[Floats, int], Floats]) -> Choice:
    """Everything stays, but on a grid (GPTQ): `grid` says what a column of values [r], with its number, becomes."""
    return Choice(grid=grid)


def both(choice: Choice, grid: Choice) -> Choice:
    """What the first choice keeps, on the grid of the second, and zeros."""
    return replace(choice, grid=grid.grid)


def _scores(weight: Floats, spread: Floats) -> Floats:
    """The error that removing each entry brings, w^2 / R_jj^2."""
    scores: Floats = (weight / spread[:, None]) ** 2
    return scores


@dataclass(frozen=True)
class Swept:
    """A weight after the sweep.

    Attributes:
        weight: [r, c] float64.
        mask: [r, c] True where an entry was to stay; it may have been rounded to zero all the same.
        loss: [r] tr((W - Q) H (W - Q)^T) of each row, with the damped H.
    """

    weight: Array
    mask: Mask
    loss: Array


def column_sweep(weight: Floats, factor: Factor, choose: Choice, block: int = 128) -> Swept:
    """Freezes column after column of a weight as `choose` says; those after it make up for what each loses.

    Args:
        weight: [r, c], in the order of the Gram; the rows of what the layer should be.
        factor: of the Gram of what it reads.
        choose: `keep_of`, `keep_share`, `fixed`, `rounded`, or `both`.
        block: columns that are brought up to date at once, a multiple of the groups or made one, and that share the
            threshold of `keep_share`.

    Raises:
        ValueError: the shapes do not fit, a weight is not finite, or groups do not divide the columns.
    """
    size = len(factor.lower)
    _check(weight, size, choose, block)
    block = max(block // (choose.group or 1), 1) * (choose.group or 1)
    dtype = factor.lower.dtype
    # Columns lie together: everything is done to whole columns.
    before = np.ascontiguousarray(weight.T, dtype=dtype)
    after, moved = np.empty_like(before), np.empty_like(before)
    mask, loss = np.ones(before.shape, np.bool_), np.zeros(before.shape[1])
    for start in range(0, size, block):
        columns = slice(start, min(start + block, size))
        root = _inverse(factor.lower[columns, columns])
        now = before[columns].copy()
        if start:
            now += root @ (factor.lower[columns, :start] @ moved[:start])
        after[columns], errors = _freeze(now, _Due(start, root, factor.spread[columns], mask[columns]), choose)
        np.subtract(before[columns], after[columns], out=moved[columns])
        loss += np.einsum("kr,kr->r", errors, errors, dtype=np.float64)
    return Swept(after.T.astype(np.float64), mask.T, loss)


def _check(weight: Floats, size: int, choose: Choice, block: int) -> None:
    if weight.ndim != 2 or weight.shape[1] != size:
        raise ValueError(f"the weight has shape {weight.shape}, expected (r, {size}) for a Gram of {size} columns")
    if not np.isfinite(weight).all():
        raise ValueError(f"{int((~np.isfinite(weight)).sum())} weights are NaN or infinite, expected finite numbers")
    if block < 1:
        raise ValueError(f"a block has at least one column, got {block}")
    if choose.group and size % choose.group:
        raise ValueError(f"{size} columns are not a multiple of the groups of {choose.group}; pad or skip the layer")


@dataclass(frozen=True)
class _Due:
    """A block of k columns whose turn it is: first column, R^T [k, k], spread [k], and where its mask [k, r] goes."""

    first: int
    root: Floats
    spread: Floats
    mask: Mask


def _freeze(now: Floats, due: _Due, choose: Choice) -> tuple[Floats, Floats]:
    """What the columns of a block become [k, r], and the errors e [k, r] that they leave."""
    count, zero = len(now), now.dtype.type(0)
    errors = np.empty_like(now)
    if choose.mask is not None and not choose.group:
        due.mask[...] = choose.mask(now, due.spread, due.first)
    step = choose.group or 1
    width = max(_PANEL // step, 1) * step
    for start in range(0, count, step):
        panel = start // width * width
        if start == panel and start:
            # What earlier panels of the block left behind, at once.
            now[start : start + width] -= due.root[start : start + width, :start] @ errors[:start]
        group = slice(start, min(start + step, count))
        if start > panel:
            now[group] -= due.root[group, panel:start] @ errors[panel:start]
        if choose.mask is not None and choose.group:
            due.mask[group] = choose.mask(now[group], due.spread[group], due.first + start)
        for column in range(group.start, group.stop):
            for earlier in range(start, column):
                now[column] -= due.root[column, earlier] * errors[earlier]
            kept = now[column] if choose.grid is None else choose.grid(now[column], due.first + column)
            kept = np.where(due.mask[column], kept, zero)
            np.subtract(now[column], kept, out=errors[column])
            errors[column] /= due.root[column, column]
            now[column] = kept
    return now, errors
