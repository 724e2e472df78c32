"""How many zeros layers have together, and what each has of them: shares, or the pattern or none."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from secateur.passes.sparsify.allocation import Wishes
from secateur.passes.sparsify.allocation.rates import MOST, Array, counts_of
from secateur.passes.sparsify.patterns import Dense, Pattern, Share, parse_pattern


@dataclass(frozen=True)
class Said:
    """What stands behind the name of an allocation, as in `besa:model+30%`.

    Attributes:
        target: the mean share of zeros.
        model: whether the whole model is shared out over, instead of block by block.
        rows: whether outputs have shares of their own.
    """

    target: float | None = None
    model: bool = False
    rows: bool = False


def parse_said(text: str, words: Collection[str] = ()) -> Said:
    """Reads shares and words, joined by `+`.

    Args:
        text: what stands behind the colon.
        words: those that the allocation knows, of `model` and `rows`.

    Raises:
        ValueError: it is neither a share nor one of the words.
    """
    found = Said()
    for one in text.split("+"):
        if one in words:
            found = replace(found, **{one: True})
        elif one.endswith("%"):
            found = replace(found, target=parse_pattern(one).zeros)
        else:
            known = "".join(f" or {word}" for word in words)
            raise ValueError(f"behind the allocation's name a mean share of zeros such as 30%{known} goes, not {one!r}")
    return found


def check_target(allocation: str, wishes: Wishes, target: float | None) -> None:
    """Raises ValueError where it is not clear how many zeros there are to be, or there cannot be so many."""
    if wishes.ladder or wishes.max_error:
        raise ValueError("ladder and max_error are what allocation=budget goes by")
    pattern = wishes.pattern
    if isinstance(pattern, Dense):
        raise ValueError(f"allocation={allocation} has nothing to share out where all is dense")
    if isinstance(pattern, Share):
        if target is not None:
            raise ValueError(f"{pattern} says how many zeros there are to be: allocation={allocation} says it all")
        if pattern.zeros > MOST:
            raise ValueError(f"no layer loses more than {MOST:.0%} of its weights here, but {pattern} is asked for")
    elif target is None or target > pattern.zeros:
        raise ValueError(
            f"layers with {pattern} have {pattern.zeros:.0%} zeros and others none: "
            f"say how many all have together, at most so many, as in allocation={allocation}:{pattern.zeros / 2:.0%}"
        )


def share_out(shares: Array, sizes: Sequence[int], pattern: Share) -> list[Pattern]:
    """Patterns of these shares, moved so that all together have as many zeros as the pattern says."""
    pairs = zip(counts_of(shares, sizes, pattern.zeros), sizes, strict=True)
    return [share_of(count, size, pattern) for count, size in pairs]


def share_of(count: int, size: int, pattern: Share) -> Pattern:
    """So many zeros of so many weights, counted as the pattern has it."""
    return Share(Fraction(count, size), pattern.scope) if count else Dense()


def pick(worth: Array, sizes: Sequence[int], pattern: Pattern, target: float) -> list[bool]:
    """Which layers have the pattern: those of most worth first, as many as come nearest below the target."""
    left = target * sum(sizes) * (1 + 1e-9)
    found = [False] * len(sizes)
    for which in np.argsort(-worth, kind="stable"):
        if pattern.zeros * sizes[which] <= left:
            found[which] = True
            left -= pattern.zeros * sizes[which]
    return found


def chosen(has: Sequence[bool], pattern: Pattern) -> list[Pattern]:
    """The pattern, or dense."""
    return [pattern if one else Dense() for one in has]
