"""What stays, from masks and gates. Arrays only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateur.ir.errors import RefusedError
from secateur.passes.masks.file import Values, is_binary


@dataclass(frozen=True)
class Rule:
    """What stays of real gates: those above `threshold`, or all but the lowest `ratio` of them."""

    threshold: float
    ratio: float | None

    def stays(self, values: Values) -> NDArray[np.bool_]:
        """True where something stays, shaped like `values`; of equals the earlier ones. A mask is its own answer."""
        if is_binary(values):
            return values.astype(np.bool_)
        if self.ratio is None:
            return np.asarray(values > self.threshold)
        order = np.argsort(-values.astype(np.float64).reshape(-1), kind="stable")
        stays = np.zeros(values.size, np.bool_)
        stays[order[: values.size - math.floor(values.size * self.ratio + 1e-9)]] = True
        return stays.reshape(values.shape)


@dataclass(frozen=True)
class Entry:
    """What one entry of the file says of one thing: the name that it has there, and its values."""

    name: str
    values: Values


def combined(what: str, entries: Sequence[Entry]) -> Values:
    """What several entries say of the same thing: masks must agree, of gates the largest counts.

    Raises:
        RefusedError: two masks disagree; names both.
    """
    first = entries[0]
    if len(entries) == 1:
        return first.values
    if not all(is_binary(entry.values) for entry in entries):
        return np.asarray(np.max([entry.values.astype(np.float64) for entry in entries], axis=0))
    for entry in entries[1:]:
        if (different := np.argwhere(entry.values != first.values)).size:
            at = different[0].tolist()
            raise RefusedError(
                f"the masks {first.name!r} and {entry.name!r} are both of {what}, and disagree at "
                f"{at[0] if len(at) == 1 else at} ({len(different)} places in all)",
                hint="what is tied goes together: give one mask for it, or gates, of which the largest counts",
            )
    return first.values


def foldable(what: str, values: Values) -> None:
    """Raises RefusedError where gates that stay are not in [0, 1]: scores are no gates, and multiply nothing."""
    kept = values.astype(np.float64)
    if kept.size and (kept.min() < 0 or kept.max() > 1):
        worst = kept.min() if kept.min() < 0 else kept.max()
        raise RefusedError(
            f"a gate of {what} that stays is {worst:g}: gates are in [0, 1], and multiply",
            hint="fold=false takes values for scores, which choose and do not multiply",
        )
