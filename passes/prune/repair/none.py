"""No repair."""

from __future__ import annotations

from secateur.passes.prune.problem import Indices, Layer, Problem
from secateur.passes.prune.repair import Repaired, judged


def none(problem: Problem, layer: Layer, kept: Indices) -> Repaired:
    """The weights as they were, without those of the removed units."""
    return judged(layer, layer.columns(kept), [])
