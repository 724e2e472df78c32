"""Sizes that kernels like: which multiples kept sizes are rounded up to, and what is said where that cannot be."""

from __future__ import annotations

import math
from collections.abc import Sequence

from secateur.passes.prune.units import Units, step_of

LADDER = (64, 32, 16, 8)
"""Multiples that pay, best first: 32 meets int8 and every sparse kernel, 16 sparse float16, 8 dense float16."""

WORTH = 1 / 16
"""A coarser multiple may keep this share of a group's units more than the finest one of the ladder."""


def steps_of(units: Units, align: int) -> list[int]:
    """The steps that a group's kept size may be rounded to: one for a given multiple, the ladder's where align is 0."""
    return [step_of(units, align)] if align else [step_of(units, multiple) for multiple in LADDER]


def chosen_step(size: int, wanted: float, steps: Sequence[int]) -> int:
    """The coarsest step by which rounding `wanted` up keeps hardly more than by the finest.

    Wider kernels run a size of 96 as fast as 90 or faster; but where few units are left, rounding to 64 would undo
    the pruning.
    """
    least = _rounded(wanted, steps[-1])
    for step in steps:
        if _rounded(wanted, step) <= min(size, least + WORTH * size):
            return step
    return steps[-1]


def remark(units: Units, keep: int, align: int) -> str | None:
    """What to say of a kept size that kernels do not like: the next one up may well be faster. None where they do."""
    wanted = align if align > 1 else 8
    step = step_of(units, wanted)
    if keep % step == 0:
        return None
    above = math.ceil(keep / step) * step
    return f"{keep} is not rounded to {wanted}s: {above} would take kernels no longer, and may be faster"


def _rounded(wanted: float, step: int) -> int:
    return math.ceil(max(1, math.ceil(wanted - 1e-9)) / step) * step
