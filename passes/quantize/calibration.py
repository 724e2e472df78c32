"""The calibration axis: how large a number the grid of a value is to hold, from what the data shows of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from secateur.calib.finite import check_finite
from secateur.calib.ranges import Histogram, Range, amax_entropy, amax_max, amax_mse, amax_percentile
from secateur.passes.prune.choices import Choices

Statistic: TypeAlias = Range | Histogram

_COUNTED = 1 << 15
"""Values of a tensor that are counted in a batch."""


class SomeValues(Histogram):
    """Counts of some values of each batch, evenly spread over the tensor; the largest is that of all, exactly."""

    def update(self, x: ArrayLike, weight: float = 1.0) -> None:
        """Adds a tensor. Which values are counted depends on its size alone."""
        numbers = np.asarray(x).reshape(-1)
        step = max(numbers.size // _COUNTED, 1)
        if step > 1:
            # A step that shares no factor with the sizes of the axes passes no channel over.
            while math.gcd(step, numbers.size) > 1:
                step += 1
            extremes = np.asarray([numbers.min(), numbers.max()])
            check_finite(extremes, "the tensor")
            self._grow(float(np.abs(extremes).max()))
        super().update(numbers[::step])


class TokenMaxima(Histogram):
    """Counts of the largest magnitude of each token (or pixel): of each row along the last axis.

    A language model's first token holds numbers hundreds of times those of all others (Sun et al. 2024, "Massive
    Activations in Large Language Models"). Counted by tokens it is one of thousands, whatever else it holds.
    """

    def update(self, x: ArrayLike, weight: float = 1.0) -> None:
        """Adds the rows of a tensor [..., features]."""
        numbers = np.asarray(x)
        if numbers.size:
            super().update(np.abs(numbers).max(axis=-1) if numbers.ndim else numbers)


@dataclass(frozen=True)
class Calibration:
    """One way to choose a range.

    Attributes:
        statistic: what is gathered of a value, in one walk over the data, in memory that does not grow with it.
        amax: from that, and the percentile that was asked for, the largest magnitude that is not clipped.
        of_floats: the name of the way that is gone instead for grids whose steps grow with the numbers.
    """

    statistic: Callable[[], Statistic]
    amax: Callable[[Any, float], float]
    of_floats: str = ""


_WAYS = ("auto", "entropy", "max", "mse", "percentile", "token")
_TABLE: Mapping[str, str] = MappingProxyType(
    {name: f"secateur.passes.quantize.calibration:{name.upper()}" for name in _WAYS}
)

CALIBRATIONS: Choices[Calibration] = Choices("calibration", _TABLE)
"""By name; other packages add theirs under the entry point group `secateur.calibration`."""

MAX = Calibration(Range, lambda seen, _: float(amax_max(seen)))
PERCENTILE = Calibration(SomeValues, amax_percentile)
MSE = Calibration(SomeValues, lambda seen, _: amax_mse(seen))
ENTROPY = Calibration(SomeValues, lambda seen, _: amax_entropy(seen))
TOKEN = Calibration(TokenMaxima, amax_percentile)
AUTO = Calibration(SomeValues, MSE.amax, of_floats="max")
"""A few large numbers are clipped where that makes the steps of all others smaller; where large numbers have steps of
their own, they cost nothing."""
