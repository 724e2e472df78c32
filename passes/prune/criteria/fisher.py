"""By what the model's answers change when units are closed one by one."""

from __future__ import annotations

import numpy as np

from secateur.passes.prune.criteria.magnitude import magnitude
from secateur.passes.prune.problem import Problem
from secateur.passes.prune.ranking import Ranking, priced


def fisher(problem: Problem, removed: int) -> Ranking:
    """The units go first without which the model's answers diverge least: half the diagonal of the gates' Fisher.

    Kwon, Kim, Mahoney, Hassoun, Keutzer and Gholami 2022, "A Fast Post-Training Pruning Framework for Transformers",
    NeurIPS, section 4.1, with answers drawn from the model in place of labels: the Fisher information itself, not the
    empirical one. Losses are nats a sample, alike for all groups. By `magnitude` where the answers depend on no unit.
    """
    if problem.gates is None or not problem.gates.any():
        return magnitude(problem, removed)
    return priced(np.mean(np.square(problem.gates), axis=0) / 2)


def taylor(problem: Problem, removed: int) -> Ranking:
    """The units go first whose gates have the smallest gradients: the mean of their absolute values over samples.

    Molchanov, Mallya, Tyree, Frosio and Kautz 2019, "Importance Estimation for Neural Network Pruning", CVPR, equation
    8 at gates (section 3.2), of one sample at a time, with answers drawn from the model in place of labels: by how many
    nats the surprise at an answer changes, to first order. By `magnitude` where the answers depend on no unit.
    """
    if problem.gates is None or not problem.gates.any():
        return magnitude(problem, removed)
    return priced(np.mean(np.abs(problem.gates), axis=0))
