"""No refinement."""

from __future__ import annotations

from secateur.passes.layers.problem import Mask, Problem
from secateur.passes.sparsify.patterns import Pattern


def none(problem: Problem, pattern: Pattern, mask: Mask) -> Mask:
    """The mask as it was."""
    return mask
