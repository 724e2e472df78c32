"""In which order input channels lie, so that N:M masks keep the most: channels trade places between groups of M.

A matrix of saliencies [rows, channels] says what each weight is worth; of every M neighbours along a row the N largest
are kept. Rows of several layers that read the same channels are put below each other. The order inside a group of M
does not matter, nor does the order of the groups.

For a group without one of its channels let t be, in each row, the N-th largest that is left. Any channel x that joins
the group adds sum(max(0, x - t)) to what the others alone keep. So the distances between channels and thresholds price
all moves, and nothing has to be tried out.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

Array: TypeAlias = npt.NDArray[np.floating]
Indices: TypeAlias = npt.NDArray[np.int64]


def retained(saliency: Array, keep: int, group: int, order: Indices | None = None) -> float:
    """What N:M masks keep of the saliency [rows, channels] with the channels in an order."""
    ordered = saliency if order is None else saliency[:, order]
    grouped = ordered.reshape(len(ordered), -1, group)
    return float(np.partition(grouped, group - keep, axis=2)[:, :, group - keep :].sum(dtype=np.float64))


def snake(saliency: Array, group: int) -> Indices:
    """Deals channels out by their total saliency, to and fro, so that every group gets strong and weak ones.

    Zhang et al. 2024, "Plug-and-Play: An Efficient Post-training Pruning Method for Large Language Models", section
    4.2, heuristic channel reallocation.

    Args:
        saliency: [rows, channels], channels a multiple of `group`.
        group: M of N:M.

    Returns:
        [channels] which channel comes first, second, and so on.
    """
    chunks = np.argsort(saliency.sum(axis=0, dtype=np.float64), kind="stable").reshape(group, -1)
    chunks[1::2] = chunks[1::2, ::-1]
    return np.ascontiguousarray(chunks.T).reshape(-1)


def assign(saliency: Array, keep: int, group: int, order: Indices, rounds: int = 1) -> Indices:
    """Takes the channel at one place out of every group and gives all of them back in the best way, place by place.

    The same section of Zhang et al.: linear sum assignment, exact for each place. Never keeps less than before.

    Args:
        saliency: [rows, channels].
        keep: N of N:M.
        group: M of N:M.
        order: [channels] to start from.
        rounds: how often all places are gone through, at most.
    """
    slots = order.reshape(-1, group).copy()
    for _ in range(rounds):
        before = slots.copy()
        for place in range(group):
            others = np.delete(slots, place, axis=1)
            base, threshold = _without(saliency, others, keep)
            moving = slots[:, place].copy()
            worth = base + _joining(saliency[:, moving], threshold)
            channel, into = linear_sum_assignment(worth, maximize=True)
            if worth[channel, into].sum() > worth.diagonal().sum() * (1 + 1e-12):
                slots[into, place] = moving[channel]
        if np.array_equal(before, slots):
            break
    return slots.reshape(-1)


def exchange(saliency: Array, keep: int, group: int, order: Indices, rounds: int = 20) -> Indices:
    """Swaps pairs of channels between groups, the best first, as long as masks keep more by it.

    Pool and Yu 2021, "Channel Permutations for N:M Sparsity", NeurIPS, section 4, bounded greedy search. Every round
    prices all swaps at once and makes those that gain most, no group twice. Never keeps less than before.

    Args: as `assign`.
    """
    slots = order.reshape(-1, group).copy()
    count = len(slots)
    owner = np.repeat(np.arange(count), group)
    for _ in range(rounds):
        bases, thresholds = [], []
        for place in range(group):
            base, threshold = _without(saliency, np.delete(slots, place, axis=1), keep)
            bases.append(base)
            thresholds.append(threshold)
        base = np.stack(bases, axis=1).reshape(-1)
        threshold = np.stack(thresholds, axis=2).reshape(len(saliency), -1)
        joined = base + _joining(saliency[:, slots.reshape(-1)], threshold)
        now = joined.diagonal()
        gain = joined.T - now[:, None]
        gain = gain + gain.T
        gain[owner[:, None] >= owner[None, :]] = 0.0
        if not _swap(slots, gain, owner, 1e-9 * float(now.sum())):
            break
    return slots.reshape(-1)


def _swap(slots: Indices, gain: Array, owner: Indices, least: float) -> int:
    """Makes the swaps of the largest gains, each group in one at most; tells how many."""
    best = np.flatnonzero(gain.reshape(-1) > least)
    best = best[np.argsort(-gain.reshape(-1)[best], kind="stable")]
    used = np.zeros(len(slots), dtype=bool)
    flat, swaps = slots.reshape(-1), 0
    for one, other in zip(*np.divmod(best, len(owner)), strict=True):
        if not used[owner[one]] and not used[owner[other]]:
            flat[one], flat[other] = flat[other], flat[one]
            used[owner[one]] = used[owner[other]] = True
            swaps += 1
    return swaps


def _without(saliency: Array, others: Indices, keep: int) -> tuple[Array, Array]:
    """What groups of M - 1 channels [groups, M - 1] keep, [groups], and their N-th largest, [rows, groups]."""
    left = saliency[:, others]
    width = left.shape[2]
    top = np.partition(left, width - keep, axis=2)[:, :, width - keep :]
    return top.sum(axis=(0, 2), dtype=np.float64), top.min(axis=2)


def _joining(channels: Array, threshold: Array) -> npt.NDArray[np.float64]:
    """[channels, groups] what each of [rows, channels] adds to each group with thresholds [rows, groups]."""
    # max(0, x - t) is half of |x - t| + x - t.
    apart = cdist(channels.T, threshold.T, "cityblock")
    ahead = channels.sum(axis=0, dtype=np.float64)[:, None] - threshold.sum(axis=0, dtype=np.float64)
    added: npt.NDArray[np.float64] = (apart + ahead) / 2
    return added
