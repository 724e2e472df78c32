"""How much the output of a layer tells of the prediction: mutual information of two numbers by a histogram.

The importance of layers in QPruner (Zhou et al. 2024, "QPruner: Probabilistic Decision Quantization for Structured
Pruning in Large Language Models"): I(X; Y) = sum p(x, y) log(p(x, y) / (p(x) p(y))). A crude measure: each
sample is reduced to one number on either side, and few samples leave most cells empty, which reads as information.
`Information.support` and `Information.bias` say how much of it that may be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[Any]

BINS = 16
"""Cells of the histogram on each side."""


@dataclass(frozen=True)
class Information:
    """What a histogram says.

    Attributes:
        nats: I(X; Y) as counted, >= 0.
        bias: what independent numbers would show on average with as many samples and cells, (rows used - 1) (columns
            used - 1) / (2 n) (Miller 1955, "Note on the Bias of Information Estimates").
        support: cells that hold a sample.
        samples: n.
    """

    nats: float
    bias: float
    support: int
    samples: int

    @property
    def corrected(self) -> float:
        """Without its bias, at least 0."""
        return max(self.nats - self.bias, 0.0)


def mutual_information(x: Floats, y: Floats, bins: int = BINS, *, ranks: bool = False) -> Information:
    """Mutual information of two numbers, from samples [n] of each.

    Args:
        x: of one side, such as mean outputs of a layer (`sample_means`).
        y: of the other, such as the predicted class or a mean logit.
        bins: of equal width between the smallest and the largest, on each side.
        ranks: whether bins hold equal numbers of samples instead, so that outliers do not crowd the others into one.

    Raises:
        ValueError: the numbers of samples differ or are none, there are no bins, or a sample is NaN or infinite.
    """
    if x.ndim != 1 or x.shape != y.shape or not len(x):
        raise ValueError(f"expected as many numbers on both sides, at least one, got shapes {x.shape} and {y.shape}")
    if bins < 1:
        raise ValueError(f"a histogram has at least one bin, got {bins}")
    cells = [_cells(side, bins, ranks) for side in (x, y)]
    counts = np.bincount(cells[0] * bins + cells[1], minlength=bins * bins).reshape(bins, bins)
    joint = counts / len(x)
    expected = np.outer(joint.sum(axis=1), joint.sum(axis=0))
    used = counts > 0
    nats = float(np.sum(joint[used] * np.log(joint[used] / expected[used])))
    freedom = (np.count_nonzero(counts.any(axis=1)) - 1) * (np.count_nonzero(counts.any(axis=0)) - 1)
    return Information(max(nats, 0.0), freedom / (2 * len(x)), int(used.sum()), len(x))


def sample_means(outputs: Floats) -> npt.NDArray[np.float64]:
    """Outputs [n, ...] to the mean of each sample [n]."""
    means: npt.NDArray[np.float64] = outputs.reshape(len(outputs), -1).mean(axis=1, dtype=np.float64)
    return means


def _cells(values: Floats, bins: int, ranks: bool) -> npt.NDArray[np.intp]:
    exact = values.astype(np.float64)
    if not np.isfinite(exact).all():
        raise ValueError("samples are NaN or infinite, expected finite numbers")
    if ranks:
        # Equal numbers are of one bin, that of the first of them.
        exact = np.searchsorted(np.sort(exact), exact) / len(exact)
        return np.minimum(np.floor(exact * bins).astype(np.intp), bins - 1)
    low, high = float(exact.min()), float(exact.max())
    if high <= low:
        return np.zeros(len(exact), np.intp)
    # Halves, so that the width of all that there is does not overflow.
    share = (exact / 2 - low / 2) / (high / 2 - low / 2)
    return np.minimum(np.floor(share * bins).astype(np.intp), bins - 1)
