"""One NaN spoils a sum over a whole data set: every statistic asks here first."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from secateur.ir.errors import DataError


def count_bad(values: npt.NDArray[Any]) -> int:
    """How many values are NaN or infinite; for floating types only, all others have none."""
    # One sum is not finite if any value is not, and needs no array of flags in the usual case. Where it overflows
    # though all are finite, they are counted.
    with np.errstate(invalid="ignore", over="ignore"):
        if np.isfinite(values.sum(dtype=np.float32 if values.dtype == np.float32 else np.float64)):
            return 0
    return int(np.count_nonzero(~np.isfinite(values)))


def check_finite(values: npt.NDArray[Any], name: str) -> None:
    """Refuses values that no statistic may see.

    Raises:
        DataError: any value is NaN or infinite.
    """
    bad = count_bad(values)
    if bad:
        raise DataError(
            f"{name} has {bad} of {values.size} values that are NaN or infinite",
            hint="look for the first layer that gives them, or leave out the samples that cause them",
        )
