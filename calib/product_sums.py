"""Sums of products of rows, in float64, to which products of float32 rows are added some thousand rows at a time."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from scipy.linalg.blas import dgemm, dsyrk, sgemm, ssyrk

Array: TypeAlias = npt.NDArray[np.float64]
Rows: TypeAlias = npt.NDArray[Any]

_ROWS = 8192
"""After so many rows of float32 their sum goes into that of float64."""
_STRIP = 256
"""Columns of the two sums that are added up at once, so that they stay in the cache."""
_BLAS: Mapping[str, tuple[Any, Any]] = MappingProxyType({"f": (ssyrk, sgemm), "d": (dsyrk, dgemm)})


class ProductSum:
    """The sum of X^T Y over rows x [n, k] and y [n, m], or of X^T X, of which only the lower triangle is made.

    BLAS adds to what is there in place. One pass over a large sum costs as much as the products of a few hundred rows,
    so that few passes over that of float64 are made, and their float32 parts wait in a sum of their own.
    """

    def __init__(self, width: int, target_width: int | None = None) -> None:
        """`target_width` is None for X^T X."""
        self._is_square = target_width is None
        shape = (width, width if target_width is None else target_width)
        # Column-major, as BLAS has it.
        self._total: Array = np.zeros(shape, order="F")
        self._pending: npt.NDArray[np.float32] | None = None
        self._rows = 0

    @classmethod
    def of(cls, total: Array) -> ProductSum:
        """One that begins with a sum X^T Y, which it takes over."""
        found = cls(0, 0)
        found._total = total
        return found

    @property
    def total(self) -> Array:
        """[k, m] what has come so far; above the diagonal of X^T X are zeros. Not a copy."""
        self._settle()
        return self._total

    def _settle(self) -> None:
        """Puts what waits into the sum of float64."""
        if self._pending is None:
            return
        pending, self._pending, self._rows = self._pending, None, 0
        for start in range(0, pending.shape[1], _STRIP):
            strip, below = slice(start, start + _STRIP), slice(start if self._is_square else 0, None)
            self._total[below, strip] += pending[below, strip]

    def add(self, x: Rows, y: Rows | None = None) -> None:
        """Adds the products of row-major rows [n, k] and [n, m], both float32 or both float64."""
        if x.dtype == np.float64:
            self._total = self._added(self.total, x, y)
            return
        if self._pending is None:
            self._pending = np.zeros(self._total.shape, np.float32, order="F")
        self._pending = self._added(self._pending, x, y)
        self._rows += len(x)
        if self._rows >= _ROWS:
            self._settle()

    def merge(self, other: ProductSum) -> None:
        """Adds what has come to another one of the same shape."""
        self._total = self.total
        self._total += other.total

    def _added(self, to: Rows, x: Rows, y: Rows | None) -> Rows:
        if not to.size:
            return to
        square, product = _BLAS[x.dtype.char]
        # The transpose of row-major rows is column-major: BLAS reads and writes without a copy.
        if y is None:
            return cast(Rows, square(1.0, x.T, beta=1.0, c=to, lower=1, overwrite_c=1))
        return cast(Rows, product(1.0, x.T, y.T, beta=1.0, c=to, trans_b=1, overwrite_c=1))
