"""`clean`: all clean-up passes, again and again, until nothing is left to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from secateur.ir import Graph
from secateur.passes.base import Pass
from secateur.passes.cleanup.batchnorm import FoldBatchNorm
from secateur.passes.cleanup.branches import InlineBranches
from secateur.passes.cleanup.constants import FoldConstants
from secateur.passes.cleanup.dead_code import RemoveDeadCode
from secateur.passes.cleanup.duplicates import MergeDuplicates
from secateur.passes.cleanup.identities import RemoveIdentities
from secateur.passes.context import Context
from secateur.passes.facets import Effect, Facet
from secateur.passes.fixpoint import repeat


@dataclass(frozen=True)
class Clean(Pass):
    """Removes dead code and identities, folds constants and normalisations, inlines branches that are always taken, and
    merges duplicates, to a fixed point."""

    name: ClassVar[str] = "clean"
    changes: ClassVar[Facet] = (
        RemoveDeadCode.changes
        | RemoveIdentities.changes
        | FoldConstants.changes
        | InlineBranches.changes
        | FoldBatchNorm.changes
        | MergeDuplicates.changes
    )
    effect: ClassVar[Effect] = Effect.ROUNDED
    tolerance: ClassVar[float] = FoldBatchNorm.tolerance

    batchnorm: bool = True
    """Without it, the pass is exact."""
    limit: int = 8
    """Rounds at most."""

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise ValueError(f"limit must be at least 1, got {self.limit}")

    def run(self, graph: Graph, context: Context) -> int:
        """Returns the rewrites of all passes in all rounds; the report says why the last round was the last."""
        passes: tuple[Pass, ...] = (
            RemoveDeadCode(),
            RemoveIdentities(),
            FoldConstants(),
            InlineBranches(),
            MergeDuplicates(),
        )
        if self.batchnorm:
            passes = (*passes, FoldBatchNorm())
        rewrites, reason = repeat(passes, graph, context, self.limit)
        context.note(f"ended because {reason.value}")
        return rewrites
