"""OBS in batches: many neurons to a round, or a head."""

from __future__ import annotations

from collections.abc import Iterator

from secateur.calib.solvers.obs_greedy import Surgeon
from secateur.passes.prune.criteria.obs import are_narrow, operate
from secateur.passes.prune.problem import Problem
from secateur.passes.prune.ranking import Ranking


def slimgpt(problem: Problem, removed: int) -> Ranking:
    """OBS with scores that take each column of a unit by itself, and groups of neurons that shrink round by round.

    Ling et al. 2024, "SlimGPT: Layer-wise Structured Pruning for Large Language Models", NeurIPS, "Batched
    Greedy Pruning" and "Dynamic Group Size". The score of a head is the sum of ||w||^2 / L_ii^2 over its
    columns, L L^T its block of the inverse: blind to how they make up for each other, which `obs` is not. Heads go one
    by one; of neurons half of what has yet to go, at most 1024 and at least 8.
    """
    return operate(problem, removed, Surgeon.costs_by_column, _halving)


def slimgpt_code(problem: Problem, removed: int) -> Ranking:
    """`slimgpt` with the group sizes of the code that is public (in OBS-Diff).

    The first is half of what goes less 256, the next is always half of the one before less 256, each within 64..1024.
    """
    return operate(problem, removed, Surgeon.costs_by_column, _code)


def _halving(problem: Problem, removed: int) -> Iterator[int]:
    while removed > 0:
        size = min(1024, max(8, removed // 2)) if are_narrow(problem) else 1
        yield size
        removed -= size


def _code(problem: Problem, removed: int) -> Iterator[int]:
    group = (removed - 512) // 2
    while removed > 0:
        size = min(max(group, 64), 1024) if are_narrow(problem) else 1
        yield size
        removed, group = removed - size, (group - 512) // 2
