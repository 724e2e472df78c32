"""Comparing runtimes: how far outputs are apart, as a share of the largest number of the reference."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

FLOOR = 1e-7
"""Differences so small count for nothing: onnxruntime cuts its sigmoid off at 1.5e-8."""


def distance(wanted: Any, found: Any) -> float:
    """Largest difference over largest magnitude; infinite where types, shapes, or what is not finite differ."""
    if isinstance(wanted, list):
        pairs = zip(wanted, found, strict=True)
        return max((distance(one, other) for one, other in pairs), default=0.0)
    if (wanted.dtype, wanted.shape) != (found.dtype, found.shape):
        return math.inf
    if wanted.dtype.kind in "biuO":
        return 0.0 if np.array_equal(wanted, found) else math.inf
    wide = np.complex128 if wanted.dtype.kind == "c" else np.float64
    one, other = wanted.astype(wide), found.astype(wide)
    finite = np.isfinite(one)
    if not np.array_equal(one[~finite], other[~finite], equal_nan=True):
        return math.inf
    if not finite.any():
        return 0.0
    apart = float(np.abs(one[finite] - other[finite]).max())
    return 0.0 if apart <= FLOOR else apart / float(np.abs(one[finite]).max())


def distances(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, float]:
    """The distance of each output."""
    assert list(wanted) == list(found)
    return {name: distance(array, found[name]) for name, array in wanted.items()}
