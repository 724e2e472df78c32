"""Mean and variance of the channels of a value, batch by batch."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]


class Channels:
    """Weighted moments along one axis.

    Attributes:
        mean: [channels]; 0 before the first value.
        variance: [channels], of the whole population.
        largest: the largest magnitude of all.
    """

    def __init__(self, channels: int, axis: int) -> None:
        self.axis = axis
        self.count = 0.0
        self.mean: Array = np.zeros(channels)
        self.variance: Array = np.zeros(channels)
        self.largest = 0.0

    def update(self, array: NDArray[Any], weight: float) -> None:
        """Adds a batch, each entry of which counts `weight` (Chan et al. 1979, "Updating Formulae")."""
        rows = np.moveaxis(array, self.axis % array.ndim, -1).reshape(-1, len(self.mean))
        added = weight * len(rows)
        if not added:
            return
        self.count += added
        share = added / self.count
        mean = rows.mean(axis=0, dtype=np.float64)
        pull = mean - self.mean
        self.variance += share * (np.var(rows, axis=0, dtype=np.float64) - self.variance + (1 - share) * pull**2)
        self.mean += share * pull
        self.largest = max(self.largest, float(np.abs(rows).max(initial=0.0)))

    @property
    def square(self) -> float:
        """The mean square of all entries."""
        return float(np.mean(self.variance + self.mean**2))
