"""What SparseGPT leaves."""

from __future__ import annotations

from secateur.calib.solvers.column_sweep import column_sweep, factor, fixed
from secateur.passes.layers.problem import Mask, Problem
from secateur.passes.sparsify.repair import Repaired, judged


def sweep(problem: Problem, mask: Mask) -> Repaired:
    """Column after column goes, and those to its right make up for it (Frantar and Alistarh 2023, section 3.2).

    Columns late in the sweep find little left to make up with: `least-squares` solves the same exactly.
    """
    swept = column_sweep(problem.target, factor(problem.gram, problem.damping), fixed(mask))
    return judged(problem, mask, [(swept.weight, problem.bias)])
