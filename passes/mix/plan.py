"""Which option each layer gets: losses and costs go in, a choice comes out, within the budget or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from secateur.calib.solvers.knapsack import Allocation, Options, allocate, allocate_greedily
from secateur.ir.errors import RefusedError
from secateur.passes.mix.importance import Losses

Choice: TypeAlias = tuple[int, ...]
"""For each layer the number of its option."""

Allocator: TypeAlias = Callable[[Sequence[Options], float], Allocation]

ALLOCATORS: Mapping[str, Allocator] = MappingProxyType({"knapsack": allocate, "greedy": allocate_greedily})
"""By name."""


@dataclass(frozen=True)
class Shelf:
    """All layers with what their options lose and cost.

    Attributes:
        losses: of each option; infinite for what must not be taken.
        costs: of each option.
        allocator: what chooses.
    """

    losses: Sequence[Losses]
    costs: Sequence[Sequence[float]]
    allocator: Allocator

    def least(self) -> float:
        """What the cheapest options cost together, of those that may be taken."""
        return float(sum(item.costs.min() for item, _ in self._items([1.0] * len(self.losses))))

    def within_cost(self, limit: float, weights: Sequence[float] | None = None) -> Choice:
        """The least loss for at most this cost; `weights` multiply the losses of layers.

        Raises:
            ValueError: not even the cheapest options are within it.
        """
        items = list(self._items(weights or [1.0] * len(self.losses)))
        return _taken(items, self.allocator([item for item, _ in items], limit))

    def within_loss(self, limit: float) -> Choice:
        """The least cost for at most this loss: all layers stay as they are where there is no other."""
        items = []
        for losses, costs in zip(self.losses, self.costs, strict=True):
            which = [index for index, loss in enumerate(losses) if np.isfinite(loss)]
            values = np.array([-costs[index] for index in which])
            items.append((Options(values, np.array([max(losses[index], 0.0) for index in which])), which))
        return _taken(items, self.allocator([item for item, _ in items], limit))

    def _items(self, weights: Sequence[float]) -> Iterator[tuple[Options, list[int]]]:
        for losses, costs, weight in zip(self.losses, self.costs, weights, strict=True):
            which = [index for index, loss in enumerate(losses) if np.isfinite(loss)]
            values = np.array([-weight * losses[index] for index in which])
            yield Options(values, np.array([float(costs[index]) for index in which])), which

    def loss(self, choice: Choice) -> float:
        """The sum of losses."""
        return float(sum(losses[index] for losses, index in zip(self.losses, choice, strict=True)))

    def cost(self, choice: Choice) -> float:
        """The sum of costs."""
        return float(sum(costs[index] for costs, index in zip(self.costs, choice, strict=True)))


def _taken(items: Sequence[tuple[Options, list[int]]], found: Allocation) -> Choice:
    return tuple(which[index] for (_, which), index in zip(items, found.chosen.tolist(), strict=True))


def meet_cost(
    shelf: Shelf, allowed: float, rest: float, measured: Callable[[Choice], float], written: Callable[[float], str]
) -> tuple[Choice, float]:
    """The choice of least loss whose model costs no more than is allowed, as it comes out, and the limit of its sum.

    Costs of layers are sums of what is known of each; what passes add beside (scales of sums, say) is measured on the
    model that a choice makes, and taken off the limit.

    Args:
        shelf: layers.
        allowed: what the whole model may cost.
        rest: what is not for choice to change.
        measured: what the model costs after a choice.
        written: an amount as text.

    Raises:
        RefusedError: not even the cheapest options keep within it.
    """
    limit = allowed * (1 + 1e-12) - rest
    for _ in range(_ROUNDS):
        if limit < shelf.least():
            break
        choice = shelf.within_cost(limit)
        excess = measured(choice) - allowed
        if excess <= allowed * 1e-9:
            return choice, limit
        limit -= excess
    raise RefusedError(
        f"a budget of {written(allowed)} cannot be met: {written(rest + shelf.least())} are left at the least",
        hint="allow more, or add options of fewer bits, such as options=[int8, int4]",
    )


_ROUNDS = 6


def meet_error(shelf: Shelf, allowed: float, measured: Callable[[Choice], float]) -> list[Choice]:
    """Choices whose model errs no more than is allowed, the cheapest first; the last changes nothing.

    Losses of layers do not just add up: the limit on their sum is moved, by bisection, until the error of all together
    is what is allowed.

    Args:
        shelf: layers.
        allowed: error of the answers.
        measured: error of the model after a choice.
    """
    low, high = 0.0, float("inf")
    scale = 1.0
    found: dict[Choice, float] = {(0,) * len(shelf.losses): 0.0}
    for _ in range(2 * _ROUNDS):
        choice = shelf.within_loss(allowed * scale)
        if choice not in found:
            found[choice] = measured(choice)
        if found[choice] <= allowed:
            low = scale
        else:
            high = scale
        if high == float("inf"):
            scale *= 2
        elif low == 0.0:
            scale /= 4
        else:
            scale = (low * high) ** 0.5
    return sorted((one for one, error in found.items() if error <= allowed), key=lambda one: (shelf.cost(one), one))
