"""How many units each group keeps: an allocation, a budget and what kernels like, put together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateur.passes.prune.alignment import chosen_step, steps_of
from secateur.passes.prune.allocation import ALLOCATIONS, Candidate
from secateur.passes.prune.budget import Budget
from secateur.passes.prune.costs import Costs, Resource
from secateur.passes.prune.selection import Given
from secateur.passes.prune.units import Units


@dataclass(frozen=True)
class Wishes:
    """What is asked for; see the options of `prune`."""

    ratio: float
    budget: str
    allocation: str
    least: float
    align: int

    @property
    def is_uniform(self) -> bool:
        """True where every group loses the share that was asked for."""
        return self.allocation == "uniform" and not self.budget


@dataclass(frozen=True)
class Measured:
    """What was found out of a group for an allocation that asks for it; see `Candidate`."""

    loss: NDArray[np.float64] | None = None
    harm: float | None = None


@dataclass(frozen=True)
class Plan:
    """What is to become of one group.

    Attributes:
        keep: how many units stay.
        step: the kept size is a multiple of this.
        align: the multiple that was asked for; 0 where it was left open.
        kept: which stay, where that was given.
        why: why all of them stay, where they do.
        harm: what was found out for an allocation that asks for it.
    """

    units: Units
    keep: int
    step: int
    align: int = 0
    kept: NDArray[np.int64] | None = None
    why: str = ""
    harm: float | None = None


def plan(
    costs_of: Callable[[Resource], Costs],
    wanted: Sequence[Units],
    measured: Sequence[Measured],
    wishes: Wishes,
    given: Given | None,
) -> list[Plan]:
    """One plan for each group; `costs_of` says what the model costs in a resource, `measured` what the allocation asks.

    Raises:
        RefusedError: the budget cannot be met.
    """
    if given is not None:
        return [_given(units, given[units.group.name]) for units in wanted]
    budget = Budget.parse(wishes.budget) if wishes.budget else None
    costs = None if wishes.is_uniform else costs_of(budget.resource if budget else "params")
    candidates = [_candidate(units, told, costs, wishes) for units, told in zip(wanted, measured, strict=True)]
    allocate = ALLOCATIONS[wishes.allocation]
    if budget is None or costs is None:
        sizes = allocate(candidates, wishes.ratio)
    else:

        def cost(sizes: Sequence[int]) -> float:
            return costs.total({units.group.dim: keep for units, keep in zip(wanted, sizes, strict=True)})

        sizes = budget.meet(lambda share: allocate(candidates, share), cost)
    return [
        Plan(units, keep, one.step, wishes.align, why=_why(one, wishes), harm=one.harm)
        for units, one, keep in zip(wanted, candidates, sizes, strict=True)
    ]


def _candidate(units: Units, told: Measured, costs: Costs | None, wishes: Wishes) -> Candidate:
    size = units.group.size
    least = max(1, math.ceil(wishes.least * size))
    steps = steps_of(units, wishes.align)
    step = chosen_step(size, max(size * (1 - wishes.ratio), least), steps) if wishes.is_uniform else steps[-1]
    cost = 1.0 if costs is None else costs.unit(units.group.dim)
    return Candidate(size, step, least, cost, told.loss, told.harm)


def _given(units: Units, some: int | NDArray[np.int64]) -> Plan:
    why = "that is what was asked for"
    if isinstance(some, int):
        return Plan(units, some, 1, why=why)
    return Plan(units, len(some), 1, kept=some, why=why)


def _why(one: Candidate, wishes: Wishes) -> str:
    """Why a group keeps all its units, where it does."""
    if not wishes.is_uniform:
        return "others give more for less"
    if one.size * wishes.ratio < 1:
        return f"a share of {wishes.ratio:g} is less than one of its units"
    return f"fewer would not be a multiple of {one.step}"
