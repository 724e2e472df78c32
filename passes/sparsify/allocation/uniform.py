"""One pattern for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from secateur.passes.layers.problem import Problem
from secateur.passes.sparsify.allocation import Wishes
from secateur.passes.sparsify.methods import Methods
from secateur.passes.sparsify.patterns import Pattern


@dataclass(frozen=True)
class Uniform:
    """Every weight has the pattern that is asked for."""

    over: Literal["weight", "block", "model"] = "weight"
    needs_data: bool = False

    def check(self, wishes: Wishes) -> None:
        """A budget needs `allocation=budget`."""
        if wishes.ladder or wishes.max_error:
            raise ValueError("ladder and max_error are what allocation=budget goes by")

    def measure(self, problem: Problem, methods: Methods, wishes: Wishes) -> Any:
        """Nothing."""
        return None

    def share(self, measured: Sequence[Any], wishes: Wishes) -> list[Pattern]:
        """The same for each."""
        return [wishes.pattern for _ in measured]


uniform = Uniform()
