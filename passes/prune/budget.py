"""What a compression may cost, as one word: `macs:0.5`, `params:60M`, `latency:35ms`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self, cast, get_args

from secateur.ir.errors import RefusedError
from secateur.passes.prune.costs import Resource

_SUFFIX = {"": 1.0, "ms": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_WRITTEN = re.compile(r"(?P<resource>[a-z]+):(?P<number>[0-9]*\.?[0-9]+(?:e[0-9]+)?)(?P<suffix>[kMGT]?|ms)")


@dataclass(frozen=True)
class Budget:
    """How much of a resource the model may cost afterwards.

    Attributes:
        resource: `params`, `bytes`, `macs` or `latency`.
        limit: a share of what it costs now where it is at most 1, an absolute number otherwise.
        in_milliseconds: the limit is absolute, however low: a latency.
    """

    resource: Resource
    limit: float
    in_milliseconds: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `macs:0.5` (half of them), `params:1.5M`, `bytes:40M`, `latency:0.7`, `latency:35ms`.

        Raises:
            ValueError: it is none.
        """
        match = _WRITTEN.fullmatch(text)
        resources = get_args(Resource)
        if match is None or match["resource"] not in resources:
            raise ValueError(f"a budget is one of {', '.join(resources)}, a colon and a number, got {text!r}")
        limit = float(match["number"]) * _SUFFIX[match["suffix"]]
        if limit <= 0:
            raise ValueError(f"a budget must be above 0, got {text!r}")
        in_milliseconds, is_latency = match["suffix"] == "ms", match["resource"] == "latency"
        if in_milliseconds > is_latency or (is_latency and not in_milliseconds and (limit > 1 or match["suffix"])):
            raise ValueError(f"a latency is a share, as latency:0.7, or milliseconds, as latency:35ms, got {text!r}")
        return cls(cast(Resource, match["resource"]), limit, in_milliseconds)

    def allowed(self, now: float) -> float:
        """The absolute limit of a model that costs `now`."""
        return self.limit * now if self.limit <= 1 and not self.in_milliseconds else self.limit

    def meet(self, allocate: Callable[[float], Sequence[int]], cost: Callable[[Sequence[int]], float]) -> list[int]:
        """The sizes that meet the budget with the smallest share removed.

        Args:
            allocate: the share that goes, in [0, 1), to sizes.
            cost: of sizes.

        Raises:
            RefusedError: even the highest share does not meet it.
        """
        limit = self.allowed(cost(allocate(0.0))) * (1 + 1e-9)
        low, high = 0.0, 1.0 - 1e-6
        most = list(allocate(high))
        if (best := cost(most)) > limit:
            raise RefusedError(
                f"a budget of {self._text(limit)} cannot be met: {self._text(best)} are left when all goes that may",
                hint="allow more, take in more kinds (dims=all, exact=false), or lower `least` or `align`",
            )
        if cost(allocate(0.0)) <= limit:
            return list(allocate(0.0))
        for _ in range(40):
            middle = (low + high) / 2
            sizes = list(allocate(middle))
            if cost(sizes) <= limit:
                high, most = middle, sizes
            else:
                low = middle
        return most

    def _text(self, amount: float) -> str:
        return f"{amount:,.3g} ms of latency" if self.resource == "latency" else f"{amount:,.0f} {self.resource}"
