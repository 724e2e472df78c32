"""One threshold for all units."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from secateur.passes.prune.allocation import Candidate


def threshold(candidates: Sequence[Candidate], ratio: float) -> list[int]:
    """All units go whose loss for what they save is at most the lowest threshold that saves `ratio` of everything.

    Park, Choi and Kang 2024, "Accurate Retraining-free Pruning for Pretrained Encoder-based Language Models" (K-prune),
    ICLR, on knowledge-preserving mask search: each unit by itself, sizes are rounded up afterwards. Where losses depend
    on those before them, a group loses as many units as it has losses below the threshold; `global` sees that a dear
    unit may open the way to cheap ones, and counts what rounding gives back.
    """
    losses = [np.zeros(0) if one.loss is None else one.loss[: one.size - 1] for one in candidates]
    prices = [loss / (one.cost or 1.0) for one, loss in zip(candidates, losses, strict=True)]
    flat = np.concatenate([np.zeros(0), *prices])
    order = np.argsort(flat, kind="stable")
    savings = np.repeat([one.cost for one in candidates], [len(loss) for loss in losses]).astype(np.float64)
    wanted = ratio * sum(one.size * one.cost for one in candidates)
    saved = np.concatenate([[0.0], np.cumsum(savings[order])])
    count = min(int(np.searchsorted(saved, wanted - 1e-9)), len(order))
    if not count:
        return [one.size for one in candidates]
    limit = flat[order[count - 1]]
    return [
        one.rounded(one.size - int(np.count_nonzero(price <= limit)))
        for one, price in zip(candidates, prices, strict=True)
    ]
