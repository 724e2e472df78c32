"""A new bias, nothing else."""

from __future__ import annotations

from secateur.passes.layers.problem import Mask, Problem
from secateur.passes.sparsify.repair import Repaired, judged, masked


def bias(problem: Problem, mask: Mask) -> Repaired:
    """What the removed weights gave on average goes into the bias, b + (W - W') mean(x), and so does what drifted.

    Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2, with
    measured means. Alone it can do harm: outputs that are right on the mean but vary less than they did add up, behind
    ReLUs, to a network that says the same of everything. `scale` and `least-squares` keep them varying.
    """
    matrix = masked(problem, mask)
    return judged(problem, mask, [] if problem.bias is None else [(matrix, problem.compensated(matrix))])
