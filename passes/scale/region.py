"""Regions: the values over which a scale of each channel spreads, between the parameters that take it up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from secateur.ir.dims.carrying import Numbers
from secateur.ir.node import Op, Value
from secateur.ir.rules.weights import WeightUse


@dataclass(frozen=True)
class Side:
    """One side of a layer: which scale each of its channels has, [channels] in all groups together; NO_SCALE for 1."""

    use: WeightUse
    numbers: Numbers


@dataclass(frozen=True)
class Patch:
    """A constant, `op`'s input `port`, that is multiplied by scales and divided by others, broadcast over it.

    A gain is one that scales may differ before and behind; others, as what is added, have the scale of what they meet.
    """

    op: Op
    port: int
    times: Numbers | None
    over: Numbers | None = None
    is_gain: bool = False


@dataclass(frozen=True)
class Region:
    """Channels that can be scaled at no cost: values times s, what makes them times s, what reads them over s.

    Attributes:
        values: all that is scaled, with the numbers of the scales, one axis for each of a value's.
        makers: layers whose output channels take the scales.
        readers: layers whose input channels take their inverses.
        patches: other parameters: gains and biases of normalisations, constants that are added or multiplied.
        count: scales are numbered from 1 to count - 1; 0 is the one that stays one.
        reason: why some or all scales stay one; None where none does.
    """

    values: Mapping[Value, Numbers]
    makers: Sequence[Side]
    readers: Sequence[Side]
    patches: Sequence[Patch]
    count: int
    reason: str | None

    @property
    def is_free(self) -> bool:
        """Whether there is anything to choose."""
        return self.count > 1
