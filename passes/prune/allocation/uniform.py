"""The same share of every group."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.passes.prune.allocation import Candidate


def uniform(candidates: Sequence[Candidate], ratio: float) -> list[int]:
    """The same share of every group."""
    return [one.rounded(one.size * (1 - ratio)) for one in candidates]
