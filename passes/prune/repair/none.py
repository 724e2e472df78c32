"""No repair."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secateur.passes.prune.problem import Layer
from secateur.passes.prune.repair import Repaired, filled


def none(layer: Layer, kept: NDArray[np.int64], damping: float) -> Repaired:
    """The weights as they were, without those of the removed units."""
    columns = layer.columns(kept)
    masked = filled(layer, columns, layer.matrix[:, columns].T)
    if layer.evidence is None:
        return Repaired(masked, layer.bias)
    error = layer.evidence.error(masked.T, layer.bias)
    return Repaired(masked, layer.bias, error, error)
