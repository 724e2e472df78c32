"""Masks that get better by swaps, judged on the whole Gram: one entry grows, another is pruned.

With weights as in the target T or zero, D = W - T and U = D H, a swap of grown g and pruned p changes a row's error
tr(D H D^T) by 2 t_g u_g - 2 t_p u_p + t_g^2 H_gg + t_p^2 H_pp - 2 t_g t_p H_gp. Each swap made lowers it, so that the
search ends. Zimmer et al. 2025, "SparseSwaps: Tractable LLM Pruning Mask Refinement at Scale", work along these lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from secateur.calib.solvers.element_masks import check_pattern

Array: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]
Indices: TypeAlias = npt.NDArray[np.intp]

ROUNDS = 100
"""Passes over all groups, or swaps of each row, at most; few searches need as many."""

#: Of each row, so many entries to grow and as many to prune are tried in pairs: those best by themselves.
_SHORTLIST = 64
#: Columns whose share of the error is brought up to date at once; bytes of the pairs that are tried at once.
_BLOCK, _PAIR_BYTES = 128, 1 << 26
#: A swap must win more than this share of what it moves: what is less may be rounding, and would never end.
_LEAST_GAIN = 1e-10


@dataclass(frozen=True)
class Swaps:
    """What swapping found.

    Attributes:
        mask: [r, c] with as many entries in each row (each group) as before.
        weight: [r, c] the target where the mask is True, else 0.
        gain: [r] how much tr(D H D^T) of each row fell.
    """

    mask: Mask
    weight: Array
    gain: Array


def swap(
    target: npt.NDArray[Any],
    gram: npt.NDArray[Any],
    mask: Mask,
    group: int | None = None,
    rounds: int = ROUNDS,
) -> Swaps:
    """Swaps kept and pruned entries as long as that lowers the error of the masked target.

    Args:
        target: T [r, c] what the rows should be.
        gram: H [c, c] of what the layer reads; damped or not.
        mask: [r, c] True where an entry stays.
        group: swap within groups of so many neighbours, in pass after pass over all groups, each time the best swap of
            every group. None: within the row, each time the best of all swaps; of more than 64 kept or pruned entries,
            the best of 64 x 64 that are best by themselves.
        rounds: how many passes, or swaps of each row, at most.

    Raises:
        ValueError: the shapes do not fit, a number is not finite, or groups do not divide the columns.
    """
    target, gram = np.asarray(target, np.float64), np.asarray(gram, np.float64)
    if target.ndim != 2 or mask.shape != target.shape or gram.shape != (target.shape[1],) * 2:
        raise ValueError(f"target {target.shape}, mask {mask.shape} and Gram {gram.shape} do not fit each other")
    for name, values in (("target", target), ("Gram", gram)):
        if not np.isfinite(values).all():
            raise ValueError(f"the {name} holds NaN or infinity, expected finite numbers")
    if group is None:
        found, gain = _within_rows(target, gram, mask.copy(), rounds)
    else:
        check_pattern(target.shape[1], 0, group)
        found, gain = _within_groups(target, gram, mask, group, rounds)
    return Swaps(found, np.where(found, target, 0.0), gain)


def _within_groups(target: Array, gram: Array, mask: Mask, group: int, rounds: int) -> tuple[Mask, Array]:
    # Columns lie together, so that every group is handled for all rows at once.
    weight, kept = np.ascontiguousarray(target.T), np.ascontiguousarray(mask.T)
    lost, gain = np.where(kept, 0.0, -weight), np.zeros(len(target))
    width = max(_BLOCK // group, 1) * group
    for _ in range(rounds):
        before = gain.copy()
        for start in range(0, len(weight), width):
            block = slice(start, start + width)
            pull, first = gram[block] @ lost, lost[block].copy()
            for inner in range(0, len(pull), group):
                at, seen = slice(inner, inner + group), slice(start, start + inner)
                own = slice(start + inner, start + inner + group)
                # What changed in this block since its share of the error was taken.
                pull[at] += gram[own, seen] @ (lost[seen] - first[:inner])
                gain += _best_of_group(_Group(weight[own], pull[at], gram[own, own], kept[own], lost[own]))
        if not (gain > before).any():
            break
    return np.ascontiguousarray(kept.T), gain


@dataclass(frozen=True)
class _Group:
    """M neighbours of all rows: weights, D H, their part of the Gram [M, M], and what a swap changes, mask and D."""

    weight: Array
    pull: Array
    gram: Array
    kept: Mask
    lost: Array


def _best_of_group(at: _Group) -> Array:
    """Makes the best swap of each row, if one gains; gives the gains [r]."""
    linear, square = 2 * at.weight * at.pull, at.weight**2 * at.gram.diagonal()[:, None]
    grow = np.where(at.kept, np.inf, linear + square)
    prune = np.where(at.kept, square - linear, np.inf)
    scale = _LEAST_GAIN * (square.max(axis=0) + np.abs(linear).max(axis=0))
    best, which = -scale, np.full(at.weight.shape[1], -1)
    size = len(at.weight)
    for grown in range(size):
        for pruned in range(size):
            if grown == pruned:
                continue
            change = grow[grown] + prune[pruned]
            change -= (2 * at.gram[grown, pruned]) * (at.weight[grown] * at.weight[pruned])
            better = change < best
            np.copyto(best, change, where=better)
            np.copyto(which, grown * size + pruned, where=better)
    rows = np.flatnonzero(which >= 0)
    grown_at, pruned_at = np.divmod(which[rows], size)
    at.kept[grown_at, rows], at.kept[pruned_at, rows] = True, False
    at.lost[grown_at, rows], at.lost[pruned_at, rows] = 0.0, -at.weight[pruned_at, rows]
    gained: Array = np.where(which >= 0, -best, 0.0)
    return gained


def _within_rows(target: Array, gram: Array, kept: Mask, rounds: int) -> tuple[Mask, Array]:
    gain = np.zeros(len(target))
    counts = np.count_nonzero(kept, axis=1)
    # Rows that keep all or nothing have nothing to swap.
    movable = np.flatnonzero((counts > 0) & (counts < target.shape[1]))
    short = min(_SHORTLIST, target.shape[1])
    for rows in np.array_split(movable, max(1, -(-len(movable) * 8 * short**2 // _PAIR_BYTES))):
        pull = np.where(kept[rows], 0.0, -target[rows]) @ gram
        for _ in range(rounds):
            if not len(rows):
                break
            change, grown, pruned = _best_pairs(target[rows], gram, kept[rows], pull)
            gained = change < 0
            rows, pull = rows[gained], pull[gained]
            grown, pruned = grown[gained], pruned[gained]
            kept[rows, grown], kept[rows, pruned] = True, False
            pull += target[rows, grown, None] * gram[grown] - target[rows, pruned, None] * gram[pruned]
            gain[rows] -= change[gained]
    return kept, gain


def _best_pairs(weight: Array, gram: Array, kept: Mask, pull: Array) -> tuple[Array, Indices, Indices]:
    """For each row the change of its best swap, 0 where none gains, and what grows and is pruned [r]."""
    linear, square = 2 * weight * pull, weight**2 * gram.diagonal()
    grow = np.where(kept, np.inf, linear + square)
    prune = np.where(kept, square - linear, np.inf)
    short = min(_SHORTLIST, weight.shape[1])
    best_grow = np.argpartition(grow, short - 1, axis=1)[:, :short]
    best_prune = np.argpartition(prune, short - 1, axis=1)[:, :short]
    pairs = gram[best_grow[:, :, None], best_prune[:, None, :]]
    pairs *= -2 * np.take_along_axis(weight, best_grow, 1)[:, :, None]
    pairs *= np.take_along_axis(weight, best_prune, 1)[:, None, :]
    pairs += np.take_along_axis(grow, best_grow, 1)[:, :, None]
    pairs += np.take_along_axis(prune, best_prune, 1)[:, None, :]
    flat = pairs.reshape(len(weight), -1)
    which = flat.argmin(axis=1)
    rows = np.arange(len(weight))
    change = flat[rows, which]
    least = _LEAST_GAIN * (square.max(axis=1) + np.abs(linear).max(axis=1))
    grown, pruned = np.divmod(which, short)
    return np.where(change < -least, change, 0.0), best_grow[rows, grown], best_prune[rows, pruned]
