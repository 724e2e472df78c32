"""The repair axis: new numbers for a layer that lost inputs. One small file for each way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.passes.prune.choices import Choices
from secateur.passes.prune.problem import Layer

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Repaired:
    """What a layer has when only some units stay.

    Attributes:
        matrix: [outputs, channels * taps], zero in the columns of removed units.
        bias: [outputs], or None where the layer takes none.
        error: squared error on the held-out samples divided by the variance of the target, 1 - R²; None without data.
        unrepaired: the same without any repair.
    """

    matrix: Array
    bias: Array | None
    error: float | None = None
    unrepaired: float | None = None


Repair: TypeAlias = Callable[[Layer, NDArray[np.int64], float], Repaired]
"""(layer, kept units, damping) to what the layer has from then on."""


def filled(layer: Layer, columns: NDArray[np.int64], coefficients: Array) -> Array:
    """[kept columns, outputs] as a matrix [outputs, all columns]."""
    matrix = np.zeros(layer.matrix.shape)
    matrix[:, columns] = coefficients.T
    return matrix


_TABLE: Mapping[str, str] = MappingProxyType(
    {
        "least-squares": "secateur.passes.prune.repair.least_squares:refit",
        "none": "secateur.passes.prune.repair.none:none",
    }
)

REPAIRS: Choices[Repair] = Choices("repair", _TABLE)
"""By name; other packages add theirs under the entry point group `secateur.repair`."""

DATA_FREE = frozenset({"none"})
"""Those that look at weights only."""
