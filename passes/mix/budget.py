"""What the whole model may cost: `bytes:0.4`, `packed:3M`, `latency:0.7`, `latency:2ms`, `error:0.01`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self, TypeAlias, cast, get_args

from secateur.passes.prune.budget import Budget as Limit

Resource: TypeAlias = Literal["bytes", "packed", "latency", "error"]


@dataclass(frozen=True)
class Budget:
    """How much of what.

    Attributes:
        resource: bytes of constants as the file has them; packed, the same with 2:4 weights as TensorRT keeps them
            (half of the values, two bits for the place of each); latency on a target; error of the answers.
        limit: of the first three; a share of what the model costs now, or an absolute number.
        error: of answers, for `error`.
    """

    resource: Resource
    limit: Limit | None = None
    error: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads one.

        Raises:
            ValueError: it is none.
        """
        resource, _, amount = text.partition(":")
        if resource not in get_args(Resource):
            known = ", ".join(get_args(Resource))
            raise ValueError(f"a budget is one of {known}, a colon and a number, such as bytes:0.4; got {text!r}")
        if resource != "error":
            limit = Limit.parse(f"{'latency' if resource == 'latency' else 'bytes'}:{amount}")
            return cls(cast(Resource, resource), limit)
        try:
            error = float(amount)
        except ValueError:
            error = 0.0
        if not 0 < error < float("inf"):
            raise ValueError(f"an error is a number above 0, such as error:0.01, got {text!r}")
        return cls("error", None, error)

    def allowed(self, now: float) -> float:
        """The most that a model may cost that costs `now`: bytes, or milliseconds."""
        assert self.limit is not None
        return self.limit.allowed(now)

    def written(self, amount: float) -> str:
        """An amount for a message."""
        return f"{amount:,.4g} ms" if self.resource == "latency" else f"{amount:,.0f} bytes"
