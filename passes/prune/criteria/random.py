"""No opinion."""

from __future__ import annotations

import numpy as np

from secateur.passes.prune.problem import Problem
from secateur.passes.prune.ranking import Ranking


def random(problem: Problem, removed: int) -> Ranking:
    """Any units, each as likely as another: what a criterion must beat to be worth anything."""
    return Ranking(problem.random.permutation(problem.size)[::-1], np.full(problem.size, 1.0 / problem.size))
