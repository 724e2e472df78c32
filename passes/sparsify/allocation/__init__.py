"""The allocation axis: which pattern does each weight get? One small file for each answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, Protocol

from secateur.passes.layers.problem import Problem
from secateur.passes.prune.choices import Choices
from secateur.passes.sparsify.methods import Methods
from secateur.passes.sparsify.patterns import Pattern


@dataclass(frozen=True)
class Wishes:
    """What is asked of the model as a whole.

    Attributes:
        pattern: what every weight has, or all together.
        ladder: the patterns that a weight may have beside it and dense.
        max_error: the mean error of layers that is allowed, 1 - R².
    """

    pattern: Pattern
    ladder: tuple[Pattern, ...] = ()
    max_error: float = 0.0

    def check(self, allocation: str) -> None:
        """Raises ValueError where the allocation cannot do with such wishes."""
        ALLOCATIONS[allocation].check(self)


class Allocation(Protocol):
    """Shares out zeros over weights."""

    @property
    def over(self) -> Literal["weight", "block", "model"]:
        """What is decided together: each weight by itself (nothing is measured), or those of a block, or all.

        Blocks are asked as the walk through the model comes to them, with what they read by then; the model as a whole
        before anything changes.
        """
        ...

    @property
    def needs_data(self) -> bool:
        """True where it cannot measure weights alone."""
        ...

    def check(self, wishes: Wishes) -> None:
        """Raises ValueError for wishes that make no sense here."""
        ...

    def measure(self, problem: Problem, methods: Methods, wishes: Wishes) -> Any:
        """What `share` has to know of one weight; the problem is let go afterwards."""
        ...

    def share(self, measured: Sequence[Any], wishes: Wishes) -> list[Pattern]:
        """The pattern of each, from what was measured of it, in the order of the model."""
        ...


_TABLE: Mapping[str, str] = MappingProxyType(
    {
        "besa": "secateur.passes.sparsify.allocation.besa:besa",
        "budget": "secateur.passes.sparsify.allocation.budget:budget",
        "closed-form": "secateur.passes.sparsify.allocation.closed_form:closed_form",
        "coordinate": "secateur.passes.sparsify.allocation.coordinate:coordinate",
        "global": "secateur.passes.sparsify.allocation.threshold:threshold",
        "uniform": "secateur.passes.sparsify.allocation.uniform:uniform",
    }
)

_WRITTEN: Mapping[str, str] = MappingProxyType(
    {
        "besa:": "secateur.passes.sparsify.allocation.besa:aimed",
        "closed-form:": "secateur.passes.sparsify.allocation.closed_form:aimed",
        "coordinate:": "secateur.passes.sparsify.allocation.coordinate:aimed",
    }
)

ALLOCATIONS: Choices[Allocation] = Choices("sparsify_allocation", _TABLE, _WRITTEN)
"""By name; other packages add theirs under the entry point group `secateur.sparsify_allocation`.

Behind `besa:`, `closed-form:` and `coordinate:` goes the mean share of zeros, where weights have N:M or are dense, and
behind the first and the last also `model`, behind the first `rows`; `besa:model+30%` says two things.
"""
