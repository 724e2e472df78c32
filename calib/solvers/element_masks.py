"""Which entries of a weight stay: the best of every group of neighbours (N:M), or a share of a row or of a layer.

Counts are exact, and of equals the earlier stays: every mask is the one that a stable sort gives, on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Mask: TypeAlias = npt.NDArray[np.bool_]
Numbers: TypeAlias = npt.NDArray[Any]

Scope: TypeAlias = Literal["layer", "row"]
"""What shares a threshold: the whole layer, or each row by itself."""

#: Up to this size, ranks of a group are counted pair by pair, which is faster than sorting it.
COUNTED = 16


def keep_of(saliency: Numbers, keep: int, group: int) -> Mask:
    """Keeps the `keep` largest of every `group` neighbours along the last axis.

    Args:
        saliency: [..., c] real numbers, infinities allowed; c a multiple of `group`.
        keep: N of N:M, how many stay.
        group: M of N:M.

    Returns:
        True where an entry stays, shaped like `saliency`.

    Raises:
        ValueError: `keep` is not within 0..`group`, `group` does not divide the columns, or a saliency is NaN.
    """
    check_pattern(saliency.shape[-1], keep, group)
    _check_numbers(saliency)
    # Places of a group first: each is then one long vector.
    places = np.moveaxis(saliency.reshape(*saliency.shape[:-1], -1, group), -1, 0)
    mask = np.empty(saliency.shape, dtype=np.bool_)
    np.moveaxis(mask.reshape(*saliency.shape[:-1], -1, group), -1, 0)[...] = keep_places(places, keep)
    return mask


def keep_places(places: Numbers, keep: int) -> Mask:
    """Keeps the `keep` largest along the first axis of [group, ...], of equals the earlier; no number is NaN."""
    group = len(places)
    if keep <= 0 or keep >= group:
        return np.full(places.shape, keep > 0, dtype=np.bool_)
    if group > COUNTED:
        order = np.argsort(descending(places), axis=0, kind="stable")
        mask = np.zeros(places.shape, dtype=np.bool_)
        np.put_along_axis(mask, order[:keep], True, axis=0)
        return mask
    return np.stack(kept_of_places(list(places), keep))


def kept_of_places(places: Sequence[Numbers], keep: int) -> list[Mask]:
    """Which of the numbers at each place of a group stay, with one array for each place: few places, no NaN."""
    if (keep, len(places)) == (2, 4):
        return _two_of_four(*places)
    # The rank of an entry is the number of those that beat it: larger ones, and equal ones before it.
    ranks = [np.zeros(place.shape, np.uint8) for place in places]
    for one in range(len(places)):
        for other in range(one + 1, len(places)):
            first_wins = places[one] >= places[other]
            ranks[other] += first_wins
            ranks[one] += ~first_wins
    return [rank < keep for rank in ranks]


def _two_of_four(a: Numbers, b: Numbers, c: Numbers, d: Numbers) -> list[Mask]:
    """Who wins two of three comparisons stays; of equals the earlier one wins."""
    ab, ac, ad, bc, bd, cd = a >= b, a >= c, a >= d, b >= c, b >= d, c >= d
    lost = ~ab
    return [
        (ab & ac) | (ad & (ab | ac)),
        (lost & bc) | (bd & (lost | bc)),
        ~((ac & bc) | (~cd & (ac | bc))),
        ~((ad & bd) | (cd & (ad | bd))),
    ]


def keep_share(saliency: Numbers, share: float, scope: Scope = "layer") -> Mask:
    """Keeps the largest entries and removes exactly floor(n * (1 - share)) of n, of the layer or of each row.

    Args:
        saliency: [r, c] real numbers, infinities allowed.
        share: how many stay, 0..1.
        scope: what n counts and what entries are compared with: the "layer" or their "row".

    Returns:
        True where an entry stays, [r, c].

    Raises:
        ValueError: the share is not within 0..1, the scope is unknown, or a saliency is NaN.
    """
    if scope not in ("layer", "row"):
        raise ValueError(f'scope must be "layer" or "row", got {scope!r}')
    _check_numbers(saliency)
    rows = saliency if scope == "row" else saliency.reshape(1, -1)
    return keep_most(rows, rows.shape[-1] - removed_of(rows.shape[-1], share)).reshape(saliency.shape)


def keep_most(rows: Numbers, count: int) -> Mask:
    """Keeps the `count` largest entries of each row of [r, n], of equals the earlier."""
    size = rows.shape[1]
    if count <= 0 or count >= size:
        return np.full(rows.shape, count > 0, dtype=np.bool_)
    # Linear time instead of a sort: the smallest value that stays, then those that equal it, in order.
    least = np.partition(rows, size - count, axis=1)[:, size - count, None]
    mask: Mask = rows > least
    missing = count - np.count_nonzero(mask, axis=1)
    equal = rows == least
    crowded = np.count_nonzero(equal, axis=1) > missing
    if crowded.any():
        equal[crowded] &= np.cumsum(equal[crowded], axis=1) <= missing[crowded, None]
    mask |= equal
    return mask


def removed_of(size: int, share: float) -> int:
    """How many of `size` entries go when a share stays: floor(size * (1 - share)), rounding errors apart.

    Raises:
        ValueError: the share is not within 0..1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share that stays must be within 0..1, got {share}")
    return math.floor(round(size * (1 - share), 6))


def check_pattern(columns: int, keep: int, group: int) -> None:
    """Raises a ValueError where N:M does not fit that many columns."""
    if not (group >= 1 and 0 <= keep <= group):
        raise ValueError(f"{keep}:{group} is no pattern: of every group of >= 1, between none and all may stay")
    if columns % group:
        raise ValueError(f"{columns} columns are not a multiple of {group}, which {keep}:{group} needs; pad or skip it")


def _check_numbers(saliency: Numbers) -> None:
    if saliency.dtype.kind == "f" and np.isnan(saliency).any():
        raise ValueError(f"{int(np.isnan(saliency).sum())} of {saliency.size} saliencies are NaN, expected numbers")


def descending(values: Numbers) -> Numbers:
    """What sorts the other way round; unsigned and smallest integers have no negative of their own."""
    turned: Numbers = -values if values.dtype.kind == "f" else ~values
    return turned
