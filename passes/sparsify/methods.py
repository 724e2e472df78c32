"""How one matrix is made sparse, once its pattern is known: a criterion, a refinement and a repair, by name."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.passes.layers.problem import Mask, Problem
from secateur.passes.sparsify.criteria import CRITERIA, Criterion
from secateur.passes.sparsify.patterns import Pattern
from secateur.passes.sparsify.refine import REFINEMENTS
from secateur.passes.sparsify.repair import LEAVES_BIAS, REPAIRS, Repaired


@dataclass(frozen=True)
class Methods:
    """See the options of `sparsify`; all are names that there are.

    Attributes:
        damping: added to the diagonals of Gram matrices, relative to their mean.
        positions: output positions sampled of each image; 0 takes all.
    """

    criterion: str
    refine: str
    repair: str
    damping: float
    positions: int

    @property
    def leaves_bias(self) -> bool:
        """True where no bias changes."""
        return self.repair in LEAVES_BIAS

    @property
    def chooser(self) -> Criterion:
        """What decides."""
        return CRITERIA[self.criterion]

    def criterion_of(self, problem: Problem) -> str:
        """What decides here: magnitude where the data shows nothing that the criterion is about."""
        chooser = self.chooser
        blind = chooser.needs_data and (problem.evidence is None or not problem.energies.any())
        blind |= chooser.needs_gradients and problem.gradients is None
        return "magnitude" if blind else self.criterion

    def mask(self, problem: Problem, pattern: Pattern) -> Mask:
        """What stays."""
        mask = CRITERIA[self.criterion_of(problem)](problem, pattern)
        if problem.evidence is None or not problem.energies.any():
            return mask
        return REFINEMENTS[self.refine](problem, pattern, mask)

    def repaired(self, problem: Problem, mask: Mask) -> Repaired:
        """What it is worth from then on."""
        blind = problem.evidence is None or not problem.energies.any()
        return REPAIRS["none" if blind else self.repair](problem, mask)
