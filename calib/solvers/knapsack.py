"""One option for each item, so that the value is largest and the cost within a budget: multiple-choice knapsack.

What bits, what sparsity each layer gets (`value`: how little it hurts; `cost`: bytes or time). Exact by dynamic
programming over cells of the budget (Kellerer, Pferschy and Pisinger 2004, "Knapsack Problems", section 11.5), or
greedy along the convex hulls of the options (section 11.2), which is optimal wherever it uses up the budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]
Indices: TypeAlias = npt.NDArray[np.intp]

CELLS = 1 << 16
"""How finely costs are divided, from all cheapest to all dearest: they are rounded up, so that budgets hold."""


@dataclass(frozen=True)
class Options:
    """What one item may become: values and costs [k] of its options.

    Raises:
        ValueError: there is none, their numbers differ, a value is not finite, or a cost is negative or not finite.
    """

    values: Array
    costs: Array

    def __post_init__(self) -> None:
        if not len(self.values) or len(self.values) != len(self.costs):
            raise ValueError(f"{len(self.values)} values and {len(self.costs)} costs, expected one of each an option")
        if not np.isfinite(self.values).all() or not (np.isfinite(self.costs) & (self.costs >= 0)).all():
            raise ValueError("values are finite and costs finite and >= 0, got others")


@dataclass(frozen=True)
class Allocation:
    """Which option each item has.

    Attributes:
        chosen: [n] numbers of options.
        value: the sum of their values.
        cost: the sum of their costs, within the budget.
    """

    chosen: Indices
    value: float
    cost: float


def allocate(items: Sequence[Options], budget: float, cells: int = CELLS) -> Allocation:
    """The allocation of largest value whose cost is within the budget.

    Exact where costs are whole numbers of few enough cells, such as bytes that have a large common divisor; else what
    options cost beyond the cheapest is rounded up to cells, by which at most one an item is lost. The better of it and
    `allocate_greedily` is returned. A larger budget never gets less.

    Args:
        items: the options of each.
        budget: the most that all may cost.
        cells: see above; time and memory grow with items * options * cells.

    Raises:
        ValueError: not even the cheapest options are within the budget, or there are no cells.
    """
    if cells < 1:
        raise ValueError(f"a budget has at least one cell, got {cells}")
    greedy = allocate_greedily(items, budget)
    # What the cheapest cost is spent in any case: cells count what is beyond it.
    bases = [float(item.costs.min()) for item in items]
    unit = _cell(items, bases, cells)
    count = int(min((budget - sum(bases)) / unit, cells)) if unit else 0
    best = np.zeros(max(count, 0) + 1)
    choices = []
    for item, base in zip(items, bases, strict=True):
        extra = np.ceil((item.costs - base) / unit).astype(np.int64) if unit else np.zeros(len(item.costs), np.int64)
        best, chosen = _extended(best, item, extra)
        choices.append((chosen, extra))
    left = len(best) - 1
    found = np.zeros(len(items), np.intp)
    for number in range(len(items) - 1, -1, -1):
        chosen, extra = choices[number]
        found[number] = chosen[left]
        left -= int(extra[found[number]])
    exact = _allocation(items, found)
    return exact if exact.cost <= _most(budget) and _better(exact, greedy) else greedy


def allocate_greedily(items: Sequence[Options], budget: float) -> Allocation:
    """An allocation along the convex hulls: step by step what gains most value for its cost, until one does not fit.

    Of equal gains the cheaper step comes first, then the earlier item. More budget only ever adds steps.

    Raises:
        ValueError: not even the cheapest options are within the budget.
    """
    hulls = [hull(item) for item in items]
    chosen = np.array([steps[0] for steps in hulls], np.intp)
    cost = float(sum(item.costs[steps[0]] for item, steps in zip(items, hulls, strict=True)))
    if cost > _most(budget):
        raise ValueError(f"the cheapest options cost {cost:.6g} together, more than the budget of {budget:.6g}")
    steps = []
    for number, (item, corners) in enumerate(zip(items, hulls, strict=True)):
        for before, after in pairwise(corners):
            price = float(item.costs[after] - item.costs[before])
            steps.append((-float(item.values[after] - item.values[before]) / price, price, number, before, after))
    # Slopes fall along a hull, so that steps of an item come in their order.
    for _, price, number, _, after in sorted(steps):
        if cost + price > _most(budget):
            break
        chosen[number] = after
        cost += price
    return _allocation(items, chosen)


def hull(item: Options) -> list[int]:
    """The options on the upper convex hull of value over cost, from the cheapest up: each gains less for its cost.

    The first is the best of the cheapest; none is dearer than another without being better.
    """
    order = np.lexsort((np.arange(len(item.costs)), -item.values, item.costs))
    corners: list[int] = []
    for option in order.tolist():
        if corners and item.values[option] <= item.values[corners[-1]]:
            continue
        while len(corners) > 1 and _slope(item, corners[-1], option) >= _slope(item, corners[-2], corners[-1]):
            corners.pop()
        corners.append(option)
    return corners


def _slope(item: Options, before: int, after: int) -> float:
    return float(item.values[after] - item.values[before]) / float(item.costs[after] - item.costs[before])


def _cell(items: Sequence[Options], bases: list[float], cells: int) -> float:
    """The cost of a cell, the same for every budget, so that a larger one never gets less; 0 if all cost the same."""
    extras = [item.costs - base for item, base in zip(items, bases, strict=True)]
    most = float(sum(extra.max() for extra in extras))
    if extras and all((extra == np.rint(extra)).all() for extra in extras) and most < 2**53:
        # Multiples of the greatest common divisor are exact, if there are few enough.
        divisor = float(np.gcd.reduce(np.concatenate(extras).astype(np.int64)))
        if divisor and most / divisor <= cells:
            return divisor
    return most / cells


def _extended(best: Array, item: Options, extra: npt.NDArray[np.int64]) -> tuple[Array, npt.NDArray[np.int32]]:
    """With one more item: the largest value within each number of cells [m], and its option [m]."""
    size = len(best)
    found, chosen = np.full(size, -np.inf), np.zeros(size, np.int32)
    # Cheaper options first: a dearer one has to be better.
    for option in np.lexsort((np.arange(len(item.costs)), item.costs)).tolist():
        shift = int(extra[option])
        if shift < size:
            with_it = best[: size - shift] + item.values[option]
            better = with_it > found[shift:]
            found[shift:][better] = with_it[better]
            chosen[shift:][better] = option
    return found, chosen


def _most(budget: float) -> float:
    """Sums of costs in floating point may be over the budget by as much as they are inexact."""
    return budget + 1e-12 * abs(budget)


def _allocation(items: Sequence[Options], chosen: Indices) -> Allocation:
    pairs = list(zip(items, chosen.tolist(), strict=True))
    value = float(sum(item.values[option] for item, option in pairs))
    return Allocation(chosen, value, float(sum(item.costs[option] for item, option in pairs)))


def _better(one: Allocation, other: Allocation) -> bool:
    return (one.value, -one.cost) > (other.value, -other.cost)
