"""As many zeros as an error allows, where they cost least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

from secateur.passes.layers.problem import Problem
from secateur.passes.sparsify.allocation import Wishes
from secateur.passes.sparsify.methods import Methods
from secateur.passes.sparsify.patterns import Dense, Pattern


@dataclass(frozen=True)
class Rung:
    """What a weight would have with one of the patterns: so many zeros, at such an error of its layer."""

    pattern: Pattern
    zeros: float
    error: float


Rungs: TypeAlias = tuple[Rung, ...]


@dataclass(frozen=True)
class Budget:
    """Each layer is dense, or has the pattern or one of the ladder, so that errors stay below a mean of `max_error`.

    The error of a layer is measured, with each of the patterns, repaired, on the held-out samples, while all others
    are dense. Greedy by zeros for error along the convex hull of each layer's rungs, which for one resource is at most
    one rung of one layer away from the best plan (Sinha and Zoltners 1979, "The multiple-choice knapsack problem").
    """

    over: Literal["weight", "block", "model"] = "model"
    needs_data: bool = True

    def check(self, wishes: Wishes) -> None:
        """There has to be a limit."""
        if not 0 < wishes.max_error < 1:
            raise ValueError(f"allocation=budget needs max_error between 0 and 1, got {wishes.max_error}")

    def measure(self, problem: Problem, methods: Methods, wishes: Wishes) -> Rungs:
        """One rung for each pattern that fits."""
        found = [Rung(Dense(), 0.0, 0.0)]
        channels = problem.channels
        for pattern in dict.fromkeys((wishes.pattern, *wishes.ladder)):
            if pattern.misfit(channels) is None:
                repaired = methods.repaired(problem, methods.mask(problem, pattern))
                error = 1.0 if repaired.error is None else repaired.error
                found.append(Rung(pattern, pattern.zeros * problem.weight.size, max(error, 0.0)))
        return tuple(found)

    def share(self, measured: Sequence[Rungs], wishes: Wishes) -> list[Pattern]:
        """The plan."""
        left = wishes.max_error * len(measured) * (1 + 1e-9)
        chosen = [rungs[0] for rungs in measured]
        steps = [(step, which) for which, rungs in enumerate(measured) for step in _steps(rungs)]
        # Along a hull, steps get dearer: sorted by price, those of one layer keep their order.
        stuck: set[int] = set()
        for (before, after), which in sorted(steps, key=lambda one: (_price(*one[0]), one[1])):
            rise = after.error - before.error
            if which in stuck or rise > left:
                stuck.add(which)
                continue
            chosen[which] = after
            left -= rise
        return [rung.pattern for rung in chosen]


def _price(before: Rung, after: Rung) -> float:
    """Error for zeros."""
    return (after.error - before.error) / (after.zeros - before.zeros)


def _steps(rungs: Rungs) -> list[tuple[Rung, Rung]]:
    """From each rung of the lower convex hull of errors over zeros to the next."""
    hull: list[Rung] = []
    for rung in sorted(rungs, key=lambda one: (one.zeros, one.error)):
        if hull and rung.zeros == hull[-1].zeros:
            continue
        # More zeros at no more error than before: what was before is never wanted.
        while hull and rung.error <= hull[-1].error and hull[-1].zeros > 0:
            hull.pop()
        while len(hull) > 1 and _price(hull[-2], hull[-1]) >= _price(hull[-1], rung):
            hull.pop()
        hull.append(rung)
    return list(pairwise(hull))


budget = Budget()
