"""One factor and one bias for each output."""

from __future__ import annotations

import numpy as np

from secateur.passes.layers.problem import Mask, Problem
from secateur.passes.sparsify.repair import Repaired, judged, masked


def scale(problem: Problem, mask: Mask) -> Repaired:
    """Outputs as large as they were: each times the factor that brings it nearest to its target, and a bias.

    What loses small weights gives less, and layer after layer less still (Jordan et al. 2023, "REPAIR: REnormalizing
    Permuted Activations for Interpolation Repair", on this collapse of variances). Two numbers for each output need
    hardly any data.
    """
    kept = masked(problem, mask)
    seen = kept @ problem.gram
    energies, pulls = np.einsum("rc,rc->r", seen, kept), np.einsum("rc,rc->r", seen, problem.target)
    factors = np.divide(pulls, energies, out=np.ones(len(kept)), where=energies > 0)
    matrix = kept * factors[:, None]
    return judged(problem, mask, [(one, problem.compensated(one)) for one in (matrix, kept)])
