"""More and more with depth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from secateur.passes.prune.allocation import Candidate


def incremental(candidates: Sequence[Candidate], ratio: float) -> list[int]:
    """Little of the first groups and more and more of later ones, where errors have fewer layers left to grow in.

    Ling et al. 2024, "SlimGPT: Layer-wise Structured Pruning for Large Language Models", section 3.4: the share of
    group i of n is r_0 + (r_last - r_0) ln(i + 1) / ln(n). Here r_0 is half of `ratio`, and r_last such that the mean
    is `ratio`; shares over 0.95, or `ratio` if that is more, are cut there, and the rest shared out over the others.
    """
    count = len(candidates)
    if count < 2:
        return [one.rounded(one.size * (1 - ratio)) for one in candidates]
    growth = np.log(np.arange(count) + 1.0) / np.log(count)
    shares = ratio / 2 + ratio / 2 * growth / growth.mean()
    most = max(0.95, ratio)
    for _ in range(count):
        shares = np.minimum(shares, most)
        free = shares < most
        missing = ratio * count - shares.sum()
        if missing <= 1e-12 or not free.any():
            break
        shares[free] += missing / free.sum()
    return [one.rounded(one.size * (1 - share)) for one, share in zip(candidates, shares, strict=True)]
