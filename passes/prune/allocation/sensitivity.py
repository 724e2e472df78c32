"""Less of what hurts more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from secateur.passes.prune.allocation import Candidate

MOST = 0.95
"""No group loses more than this share, unless all are to: what was measured on a small share says little of it."""

FAINTEST = 1e-3
"""Harms below this share of the greatest count as this: rounding errors of the answers are no smaller."""


def sensitivity(candidates: Sequence[Candidate], ratio: float) -> list[int]:
    """Shares in inverse proportion to the harm that a trial did, together `ratio` of all that could be saved.

    Each group lost a share by itself, and the answers of the model moved by so much (`secateur.passes.prune.trials`).
    What the answers lose grows as the square of what goes, about; least is lost in all, at the same mean share, where
    shares are as the inverse of that square's factor: Lagrange's multiplier for sum h_i s_i^2. Shares that would
    leave less than may stay are cut there, and the rest is shared out over the others. Groups of which nothing is known
    count as the median; where nothing is known of any, all lose the same share.
    """
    if not candidates:
        return []
    harms = _harms(candidates)
    worth = np.array([one.size * one.cost for one in candidates])
    worth = worth if worth.sum() > 0 else np.ones(len(worth))
    caps = np.array([min(max(MOST, ratio), 1 - (one.least if one.least > 1 else 0) / one.size) for one in candidates])
    shares = _poured(1 / harms, caps, worth / worth.sum(), ratio)
    return [one.rounded(one.size * (1 - share)) for one, share in zip(candidates, shares, strict=True)]


def _harms(candidates: Sequence[Candidate]) -> NDArray[np.float64]:
    """[candidates] what each counts with, above 0; what made the answers no numbers any more is ten times the worst."""
    given = np.array([np.nan if one.harm is None else max(one.harm, 0.0) for one in candidates])
    known = given[np.isfinite(given)]
    if not known.size or not known.any():
        return np.where(np.isinf(given), 10.0, 1.0)
    harms: NDArray[np.float64] = np.where(np.isnan(given), np.median(known), given)
    harms[np.isinf(given)] = 10 * known.max()
    harms[harms < FAINTEST * known.max()] = FAINTEST * known.max()
    return harms


def _poured(
    rates: NDArray[np.float64], caps: NDArray[np.float64], worth: NDArray[np.float64], ratio: float
) -> NDArray[np.float64]:
    """Shares min(cap, level * rate) whose mean, by `worth`, is `ratio`, or all that there is."""
    full = caps / rates
    order = np.argsort(full, kind="stable")
    # At the level of each cap: what those that are full by then have, and what the others gain with the level.
    filled = np.cumsum((caps * worth)[order])
    rising = np.cumsum((rates * worth)[order][::-1])[::-1]
    at = int(np.searchsorted(filled + full[order] * np.append(rising[1:], 0.0), ratio))
    if at == len(order):
        return caps
    before = filled[at - 1] if at else 0.0
    shares: NDArray[np.float64] = np.minimum(caps, (ratio - before) / rising[at] * rates)
    return shares
