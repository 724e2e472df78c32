"""Sums over rows, in one pass over memory: what is looked at several times is in the cache meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from secateur.calib.finite import check_finite

Array: TypeAlias = npt.NDArray[np.float64]

_STRIP = 64
"""Rows that are summed in float32 where that is asked for: so few keep nearly all of its digits."""


@dataclass(frozen=True)
class Sums:
    """Of rows x[d], each times its weight but for the last.

    Attributes:
        plain: [d] sum of x.
        absolute: [d] sum of |x|.
        absmax: [d] largest |x|.
    """

    plain: Array
    absolute: Array
    absmax: Array


def sums_of(rows: npt.NDArray[Any], weights: Array, name: str, *, single: bool = False) -> Sums:
    """Sums over rows [n, d] of a real dtype with weights [n]; `name` is for errors, `single` is enough of float32.

    Raises:
        DataError: a value is NaN or infinite.
    """
    kind = np.float32 if single else np.float64
    even = bool(np.all(weights == weights[:1]))
    found = np.zeros((3, rows.shape[1]))
    total, absolute, absmax = found
    room = np.empty((min(_STRIP, len(rows)), rows.shape[1]), kind)
    # Where the sum of all is finite, so is each; where it overflows, they are counted.
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, len(rows), _STRIP):
            part: npt.NDArray[Any] = rows[start : start + _STRIP].astype(kind, copy=False)
            sizes = np.abs(part, out=room[: len(part)])
            np.maximum(absmax, sizes.max(axis=0), out=absmax)
            if even:
                total += part.sum(axis=0)
                absolute += sizes.sum(axis=0)
            else:
                share = weights[start : start + _STRIP]
                total += share @ part
                absolute += share @ sizes
        if not np.isfinite(total.sum() + absmax.sum()):
            check_finite(rows, name)
    if even and len(weights):
        found[:2] *= weights[0]
    return Sums(total, absolute, absmax)
