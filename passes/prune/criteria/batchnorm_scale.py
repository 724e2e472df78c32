"""The factors of normalisations."""

from __future__ import annotations

from secateur.passes.prune.criteria.magnitude import magnitude
from secateur.passes.prune.criteria.saliency import relative
from secateur.passes.prune.problem import Problem
from secateur.passes.prune.ranking import Ranking


def batchnorm_scale(problem: Problem, removed: int) -> Ranking:
    """The units that a normalisation multiplies by the smallest factors go first; by `magnitude` where there is none.

    Liu, Li, Shen, Huang, Yan and Zhang 2017, "Learning Efficient Convolutional Networks through Network Slimming",
    ICCV, section 3: |gamma| of batch normalisation. There it is driven to zero in training by an L1 penalty, and one
    threshold is set over all layers; here it is taken as the network has it, relative to the mean of its layer.
    A normalisation that was folded into its convolution has no factors left: prune before folding.
    """
    return relative(problem.scales, problem.size) if problem.scales else magnitude(problem, removed)
