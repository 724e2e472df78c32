"""What costs least goes first, wherever it is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from secateur.passes.prune.allocation import Candidate


def by_loss(candidates: Sequence[Candidate], ratio: float) -> list[int]:
    """Takes steps from all groups by their loss for what they save, until `ratio` of all that could be saved has gone.

    Kwon et al. 2022, "A Fast Post-Training Pruning Framework for Transformers", section 4.1 (importance over cost,
    largest first), made fit for losses that depend on each other: a group's losses are taken along the lower convex
    hull of their sum over its steps, so that the cheapest way to save is found also where the first unit is dear.
    """
    pieces = [_hull(one) for one in candidates]
    slopes = np.concatenate([[slope for slope, _, _ in piece] for piece in pieces]) if pieces else np.zeros(0)
    owner = np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces])
    wanted = ratio * sum(one.size * one.cost for one in candidates)
    keep, saved = [one.size for one in candidates], 0.0
    flat = [piece for group in pieces for piece in group]
    for index in np.argsort(slopes, kind="stable"):
        if saved >= wanted - 1e-9:
            break
        which, (_, before, after) = int(owner[index]), flat[index]
        one = candidates[which]
        # Of the piece that would go too far only as much is taken as is needed.
        enough = [kept for kept in _stops(one, before, after) if saved + (before - kept) * one.cost >= wanted - 1e-9]
        keep[which] = enough[0] if enough else after
        saved += (before - keep[which]) * one.cost
    return keep


def _stops(one: Candidate, before: int, after: int) -> list[int]:
    """The sizes that a group may have, falling, from below `before` to `after`."""
    return [kept for kept in range(before - 1, after - 1, -1) if kept % one.step == 0 and kept >= max(one.least, 1)]


def _hull(one: Candidate) -> list[tuple[float, int, int]]:
    """Pieces (loss for a unit of cost, units kept before, units kept after) of the convex hull, in rising slope."""
    assert one.loss is not None, "an allocation by loss was given none"
    total: NDArray[np.float64] = np.concatenate([[0.0], np.cumsum(one.loss)])
    stops = [one.size, *_stops(one, one.size, 1)]
    points = [(kept, float(total[one.size - kept])) for kept in stops if one.size - kept < len(total)]
    hull = points[:1]
    for kept, loss in points[1:]:
        while len(hull) > 1 and _slope(hull[-1], (kept, loss)) <= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append((kept, loss))
    return [(_slope(start, end) / (one.cost or 1.0), start[0], end[0]) for start, end in pairwise(hull)]


def _slope(start: tuple[int, float], end: tuple[int, float]) -> float:
    return (end[1] - start[1]) / (start[0] - end[0])
