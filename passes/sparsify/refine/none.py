"""No refinement."""

from __future__ import annotations

from secateur.passes.sparsify.patterns import Pattern
from secateur.passes.sparsify.problem import Mask, Problem


def none(problem: Problem, pattern: Pattern, mask: Mask) -> Mask:
    """The mask as it was."""
    return mask
