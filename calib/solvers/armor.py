"""A matrix as an N:M core between two block-diagonal matrices, W ~ A S B: what the pattern breaks, the blocks mend.

Liu et al. 2025, "ARMOR: High-Performance Semi-Structured Pruning via Adaptive Matrix Factorization". A [r, r] and
B [c, c] are small dense blocks along the diagonal, S [r, c] has the pattern along its columns. All of them minimise

    L = tr((A S B - T) H (A S B - T)^T)

where T [r, c] is what the matrix should be and H says how much that counts. The paper has H = diag(x^T x), under which
pairs of blocks are independent; here it may be the whole Gram matrix of the inputs as well, and L is then the squared
error of the layer's outputs. Where the paper takes steps of Adam, and gives one group of a block at a time a new choice
of what stays, here

- A, and each block of B, are exact least squares given the rest;
- S goes through all of its groups one after another, each of them the best of its choices with its best values, given
  all else. What one group changes for the others costs what one gradient does for all of them together, so that no
  group has to be drawn: the sweep is exact, needs no step size, and no randomness.

Each of the three can only lower L. Alternating steps creep along valleys: so A and B first go on in the direction that
they took last, as far again at most, and where that raises L it is taken back (extrapolation with restarts: Ang and
Gillis 2019, "Accelerating Nonnegative Matrix Factorization Algorithms Using Extrapolation", section 3). Nothing of this
needs a normaliser: it would be part of A and B.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from secateur.calib.solvers.element_masks import check_pattern, keep_of

Array: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]

CHOICES = 128
"""Patterns may have so many choices of what stays in a group; 4:8 has 70."""

#: Pulls to what was there, relative to mean diagonals: they keep solutions unique, and L still falls.
_PROXIMAL = 1e-9
#: Columns of the core whose effect on all later ones is put off and applied by one matrix product.
_STRIDE = 64
#: How much further extrapolation goes each time that it did well.
_GROWTH = 0.07


@dataclass(frozen=True)
class Wrapped:
    """A S B.

    Attributes:
        left: [r / d, d, d] the blocks of A.
        core: [r, c] S.
        right: [c / e, e, e] the blocks of B.
    """

    left: Array
    core: Array
    right: Array

    @property
    def matrix(self) -> Array:
        """[r, c] what the three make together."""
        return from_left(self.left, self.inner)

    @property
    def inner(self) -> Array:
        """[r, c] S B."""
        return from_right(self.core, self.right)

    @property
    def outer(self) -> Array:
        """[r, c] A S."""
        return from_left(self.left, self.core)

    @property
    def is_bare(self) -> bool:
        """True where A and B are identities: the core alone."""
        return all((blocks == np.eye(blocks.shape[1])).all() for blocks in (self.left, self.right))

    @property
    def extra(self) -> int:
        """Numbers in A and B, which is also their multiply-accumulates for each row of inputs."""
        return self.left.size + self.right.size


def from_left(blocks: Array, matrix: Array) -> Array:
    """[r, c] the product of a block-diagonal matrix [r / d, d, d] with [r, c]."""
    count, size, _ = blocks.shape
    found: Array = blocks @ matrix.reshape(count, size, -1)
    return found.reshape(matrix.shape)


def from_right(matrix: Array, blocks: Array) -> Array:
    """[r, c] the product of [r, c] with a block-diagonal matrix [c / e, e, e]."""
    count, size, _ = blocks.shape
    split = matrix.reshape(len(matrix), count, size).swapaxes(0, 1)
    found: Array = (split @ blocks).swapaxes(0, 1).reshape(matrix.shape)
    return found


def largest_block(size: int, limit: int) -> int:
    """The largest divisor of `size` that is no larger than `limit`."""
    return max(one for one in range(1, min(limit, size) + 1) if size % one == 0)


def unwrapped(core: Array, left: int, right: int) -> Wrapped:
    """A core [r, c] alone: A and B are identities, in blocks of these sizes, which divide r and c."""
    rows, columns = core.shape
    return Wrapped(
        np.tile(np.eye(left), (rows // left, 1, 1)),
        np.asarray(core, np.float64),
        np.tile(np.eye(right), (columns // right, 1, 1)),
    )


def nowag_mask(weight: Array, energies: Array, keep: int, group: int) -> Mask:
    """What stays of a weight [r, c] where the paper begins: NoWag-P (Liu et al. 2025, "NoWag", section 3).

    The largest of `W'^2 h`, where W' is the weight with columns, then rows, divided by their norms, and h = `energies`
    [c] sums of squares of the inputs.
    """
    normal = weight / (np.linalg.norm(weight, axis=0) + 1e-5)
    normal = normal / (np.linalg.norm(normal, axis=1, keepdims=True) + 1e-5)
    return keep_of(np.square(normal) * energies, keep, group)


def loss(found: Wrapped, target: Array, gram: Array) -> float:
    """tr((A S B - T) H (A S B - T)^T); a Gram [c] is the diagonal of one."""
    rest = found.matrix - target
    return float(np.sum(_times(rest, gram) * rest))


def armor(
    start: Wrapped,
    target: Array,
    gram: Array,
    pattern: tuple[int, int] = (2, 4),
    *,
    iterations: int = 60,
    tolerance: float = 1e-4,
) -> Wrapped:
    """The best A S B that alternating steps find.

    Args:
        start: where to begin; a core that is N:M between identities, such as what another method has made sparse.
        target: T [r, c].
        gram: H [c, c] positive semidefinite, or its diagonal [c], which is the paper's loss and cheaper by about c / d.
        pattern: (N, M), how many of how many neighbours among the core's columns stay.
        iterations: of S, A and B at the most.
        tolerance: ends where the loss falls by less than this share of itself.

    Raises:
        ValueError: shapes do not fit, the pattern does not fit or has too many choices, or a number is not finite.
    """
    _check(start, target, gram, pattern)
    aim = _times(target, gram)
    best, before, least = start, start, loss(start, target, gram)
    reach = 0.0
    for _ in range(iterations):
        found = sweep_core(_further(best, before, reach), aim, gram, *pattern)
        found = fit_right(fit_left(found, target, gram), target, gram)
        now, last = loss(found, target, gram), least
        if not now < least:
            if reach == 0:
                break
            # Too far: from the best without any, and carefully from there.
            before, reach = best, 0.0
            continue
        before, best, least = best, found, now
        reach = min(1.0, reach + _GROWTH) if reach else 0.5
        if last - now < tolerance * last:
            break
    return best


def _further(now: Wrapped, before: Wrapped, reach: float) -> Wrapped:
    """A and B as far beyond where they are as they came last time, times `reach`; columns and rows of unit length."""
    if reach == 0:
        return now
    left, across = _unit(now.left + reach * (now.left - before.left), axis=1)
    right, down = _unit(now.right + reach * (now.right - before.right), axis=2)
    return Wrapped(left, now.core * across.reshape(-1, 1) * down.reshape(-1), right)


def _unit(blocks: Array, axis: int) -> tuple[Array, Array]:
    """Blocks [n, d, d] with columns (axis 1) or rows (axis 2) of unit length, and the lengths [n, d] that they had."""
    norms = np.linalg.norm(blocks, axis=axis)
    norms[norms == 0] = 1.0
    return blocks / np.expand_dims(norms, axis), norms


def fit_left(found: Wrapped, target: Array, gram: Array) -> Wrapped:
    """A, exactly; columns are of unit length then, which the core makes up for."""
    count, size, _ = found.left.shape
    inner = found.inner
    seen = _times(inner, gram).reshape(count, size, -1)
    own = seen @ inner.reshape(count, size, -1).swapaxes(1, 2)
    cross = target.reshape(count, size, -1) @ seen.swapaxes(1, 2)
    pull = _pull(own)
    left = _solve(own + pull, (cross + found.left @ pull).swapaxes(1, 2)).swapaxes(1, 2)
    left, norms = _unit(left, axis=1)
    return replace(found, left=left, core=found.core * norms.reshape(-1, 1))


def fit_right(found: Wrapped, target: Array, gram: Array) -> Wrapped:
    """B: exactly for a diagonal, else block after block; rows are of unit length then."""
    count, size, _ = found.right.shape
    outer = found.outer.reshape(len(target), count, size).transpose(1, 2, 0)
    own = outer @ outer.swapaxes(1, 2)
    own = own + _pull(own)
    right = found.right.copy()
    rest = target - found.matrix
    if gram.ndim == 1:
        split = rest.reshape(len(target), count, size).swapaxes(0, 1)
        right += _solve(own, outer @ split)
    else:
        rest = rest @ gram
        for which in range(count):
            at = slice(which * size, (which + 1) * size)
            inside = gram[at, at]
            pulled = inside + _pull(inside[None])[0]
            step = _solve(pulled, _solve(own[which], outer[which] @ rest[:, at]).T).T
            right[which] += step
            rest -= (outer[which].T @ step) @ gram[at]
    right, norms = _unit(right, axis=2)
    return replace(found, right=right, core=found.core * norms.reshape(-1))


def sweep_core(found: Wrapped, aim: Array, gram: Array, keep: int, group: int) -> Wrapped:
    """S: every group gets the best of its choices with the best values, one after another.

    Rows at the same place of their blocks do not touch each other, and go together; neither do blocks of columns, where
    the Gram is a diagonal.

    Args:
        found: A, B and the core so far, N:M.
        aim: [r, c] T H.
        gram: H, or its diagonal.
        keep: N.
        group: M.
    """
    blocks, size, _ = found.left.shape
    rows, columns = found.core.shape
    metric = _core_metric(found.right, gram, group)
    stretches, width, _ = metric.shape
    # [stretches, blocks, size, width]: what belongs together lies together.
    core = found.core.reshape(blocks, size, stretches, width).transpose(2, 0, 1, 3).copy("C")
    pulls = from_left(found.left.swapaxes(1, 2), from_right(aim, found.right.swapaxes(1, 2)))
    slope = pulls.reshape(blocks, size, stretches, width).transpose(2, 0, 1, 3)
    between = found.left.swapaxes(1, 2) @ found.left
    slope = slope - between @ core @ metric[:, None]
    groups = _Groups.of(metric, keep, group)
    for row in range(size):
        weight = between[:, row, row]
        live = weight > 0
        if not live.any():
            continue
        rest = slope[:, live, row] / weight[live, None]
        before = rest.copy()
        chosen = core[:, live, row]
        groups.sweep(chosen, rest, metric)
        core[:, live, row] = chosen
        slope[:, live] -= between[live, :, row, None] * (before - rest)[:, :, None, :]
    return replace(found, core=core.transpose(1, 2, 0, 3).reshape(rows, columns))


@dataclass(frozen=True)
class _Groups:
    """Groups of neighbours, and for each of them what solves each choice of what stays.

    Attributes:
        own: [stretches, groups, m, m] the metric of each group.
        solvers: [stretches, groups, m, choices * m] inverses of the metric of those that stay, zero elsewhere.
    """

    own: Array
    solvers: Array

    @classmethod
    def of(cls, metric: Array, keep: int, group: int) -> _Groups:
        stretches, width, _ = metric.shape
        split = metric.reshape(stretches, width // group, group, width // group, group)
        own = np.ascontiguousarray(np.einsum("sgmgn->sgmn", split))
        some = list(combinations(range(group), keep))
        solvers = np.zeros((*own.shape[:3], len(some), group))
        floor = _PROXIMAL * max(float(np.mean(np.einsum("sgmm->sgm", own))), np.finfo(np.float64).tiny)
        for which, kept in enumerate(map(list, some)):
            inside = own[:, :, kept][..., kept] + floor * np.eye(keep)
            solvers[:, :, np.array(kept)[:, None], which, kept] = np.linalg.inv(inside)
        return cls(own, solvers.reshape(*own.shape[:3], -1))

    def sweep(self, core: Array, rest: Array, metric: Array) -> None:
        """One row of every block: `core` [stretches, blocks, width] and what is left of it, `rest`, in place."""
        width, group = core.shape[2], self.own.shape[2]
        stride = max(_STRIDE // group, 1) * group
        for start in range(0, width, stride):
            stop = min(start + stride, width)
            inside, here = metric[:, start:stop, start:stop], rest[:, :, start:stop].copy()
            changes = np.zeros_like(here)
            for first in range(0, stop - start, group):
                at, last = (start + first) // group, first + group
                old = core[:, :, start + first : start + last]
                change = best_of_group(here[:, :, first:last] + old @ self.own[:, at], self.solvers[:, at]) - old
                here -= change @ inside[:, first:last]
                changes[:, :, first:last] = change
            core[:, :, start:stop] += changes
            rest -= changes @ metric[:, start:stop]


def best_of_group(pulls: Array, solvers: Array) -> Array:
    """The values [s, n, m] of groups, given the pulls [s, n, m] on them when they are empty: of all choices the best.

    A choice that stays with values v = G^-1 u lowers the loss by u^T G^-1 u, where G [m, m] is the metric and u the
    pulls of what stays. `solvers` [s, m, choices * m] has those inverses.
    """
    values = (pulls @ solvers).reshape(*pulls.shape[:2], -1, pulls.shape[2])
    gains = np.einsum("snkm,snm->snk", values, pulls)
    best = np.argmax(gains, axis=2)
    return np.take_along_axis(values, best[:, :, None, None], axis=2)[:, :, 0]


def _core_metric(right: Array, gram: Array, group: int) -> Array:
    """[stretches, width, width]: B H B^T, of each block by itself where they are independent."""
    count, size, _ = right.shape
    if gram.ndim == 1 and size % group == 0:
        scaled: Array = (right * gram.reshape(count, 1, size)) @ right.swapaxes(1, 2)
        return scaled
    full = np.diag(gram) if gram.ndim == 1 else gram
    half = from_right(full, right.swapaxes(1, 2))
    return from_right(half.T, right.swapaxes(1, 2))[None]


def _times(matrix: Array, gram: Array) -> Array:
    return matrix * gram if gram.ndim == 1 else matrix @ gram


def _pull(own: Array) -> Array:
    """[n, d, d] multiples of the identity, small beside each of the matrices."""
    size = own.shape[-1]
    scale = np.einsum("nii->n", own) / size
    return (_PROXIMAL * np.where(scale > 0, scale, 1.0))[:, None, None] * np.eye(size)


def _solve(matrix: Array, right: Array) -> Array:
    return np.asarray(np.linalg.solve(matrix, right), np.float64)


def _check(start: Wrapped, target: Array, gram: Array, pattern: tuple[int, int]) -> None:
    rows, columns = target.shape
    keep, group = pattern
    if start.core.shape != target.shape:
        raise ValueError(f"a core of shape {start.core.shape} does not fit a target of shape {target.shape}")
    if gram.shape not in ((columns,), (columns, columns)):
        raise ValueError(f"a Gram of shape {gram.shape} does not fit a target of shape {target.shape}")
    for blocks, size, name in ((start.left, rows, "left"), (start.right, columns, "right")):
        if blocks.ndim != 3 or blocks.shape[1] != blocks.shape[2] or blocks.shape[0] * blocks.shape[1] != size:
            raise ValueError(f"{name} blocks of shape {blocks.shape} do not fill a diagonal of {size}")
    check_pattern(columns, keep, group)
    choices = math.comb(group, keep)
    if keep < 1 or choices > CHOICES:
        raise ValueError(f"{keep}:{group} leaves {choices} choices for a group, expected N >= 1 and at most {CHOICES}")
    stays = np.count_nonzero(start.core.reshape(rows, -1, group), axis=2)
    if stays.max(initial=0) > keep:
        raise ValueError(f"the core is not {keep}:{group}: a group has {int(stays.max())} that are not zero")
    for values, name in ((start.matrix, "start"), (target, "target"), (gram, "Gram")):
        if not np.isfinite(values).all():
            raise ValueError(f"the {name} holds NaN or infinity, expected finite numbers")
