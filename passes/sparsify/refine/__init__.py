"""The refinement axis: a mask that a criterion chose, entry by entry made better. One small file for each way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

from secateur.passes.layers.problem import Mask, Problem
from secateur.passes.prune.choices import Choices
from secateur.passes.sparsify.patterns import Pattern

Refinement: TypeAlias = Callable[[Problem, Pattern, Mask], Mask]
"""(problem, pattern, mask that satisfies it) to another mask that does."""

_TABLE: Mapping[str, str] = MappingProxyType(
    {
        "admm": "secateur.passes.sparsify.refine.admm:admm_refined",
        "dsnot": "secateur.passes.sparsify.refine.dsnot:dsnot_refined",
        "none": "secateur.passes.sparsify.refine.none:none",
        "swap": "secateur.passes.sparsify.refine.swap:swapped",
    }
)

REFINEMENTS: Choices[Refinement] = Choices("refine", _TABLE)
"""By name; other packages add theirs under the entry point group `secateur.refine`."""

DATA_FREE = frozenset({"none"})
"""Those that look at weights only."""
