"""What SparseGPT leaves."""

from __future__ import annotations

from secateur.passes.layers.problem import Mask, Problem
from secateur.passes.sparsify.repair import Repaired, judged


def sweep(problem: Problem, mask: Mask) -> Repaired:
    """Column after column goes, and those to its right make up for it (Frantar and Alistarh 2023, section 3.2).

    Columns late in the sweep find little left to make up with: `least-squares` solves the same exactly.
    """
    return judged(problem, mask, [(problem.swept_for(mask).weight, problem.bias)])
