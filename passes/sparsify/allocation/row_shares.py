"""A pattern that an allocation may come to: each output loses as many weights as it can spare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.calib.solvers.column_sweep import Choice
from secateur.passes.sparsify.patterns import Mask, Pattern


@dataclass(frozen=True)
class RowShares(Pattern):
    """Each row has a share of zeros of its own.

    Attributes:
        gone: how many weights each row loses.
        columns: of how many.
    """

    gone: tuple[int, ...]
    columns: int

    def __post_init__(self) -> None:
        if not self.gone or min(self.gone) < 0 or max(self.gone) >= self.columns:
            raise ValueError(f"rows of {self.columns} weights lose 0 or more, but not all: got {self.gone}")

    def __str__(self) -> str:
        return f"{100 * self.zeros:.6g}%"

    @property
    def zeros(self) -> float:
        """The mean share."""
        return sum(self.gone) / (len(self.gone) * self.columns)

    def mask(self, saliency: NDArray[Any]) -> Mask:
        """All but as many of least saliency in each row; of equals the earlier stays."""
        return _most(saliency, np.array(self.gone))

    def holds(self, matrix: NDArray[Any]) -> bool:
        """As many zeros as go, in each row."""
        return bool((np.count_nonzero(matrix == 0, axis=1) >= self.gone).all())

    def choose(self) -> Choice:
        """Block of columns by block of columns, of each row the share that it loses."""
        shares = np.array(self.gone) / self.columns

        def mask(weight: NDArray[Any], spread: NDArray[Any], first: int) -> Mask:
            last = first + len(weight)
            gone = np.floor(shares * last + 1e-9) - np.floor(shares * first + 1e-9)
            return _most(np.square(weight / spread[:, None]).T, gone.astype(np.int64)).T

        return Choice(mask)


def _most(saliency: NDArray[Any], gone: NDArray[np.int64]) -> Mask:
    order = np.argsort(-saliency, axis=1, kind="stable")
    kept = np.empty(saliency.shape, np.bool_)
    np.put_along_axis(kept, order, np.arange(saliency.shape[1]) < saliency.shape[1] - gone[:, None], axis=1)
    return kept
