"""How far two streams of arrays are apart: sums that are added to batch by batch, and the figures that follow."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

AnyArray: TypeAlias = NDArray[Any]
Array: TypeAlias = NDArray[np.float64]

_CHUNK = 1 << 20
_TINY = 1e-6


class Difference:
    """Elementwise distance of b from a reference a, over all batches; sums in float64.

    Elements that are NaN or infinite in either are counted, and left out of everything else.

    Attributes:
        elements: how many were compared, those left out included.
        equal: how many are the same in both (two NaN are).
        nonfinite_a: NaN or infinite elements of a.
        nonfinite_b: likewise of b.
        max_abs: largest |a - b|.
        max_relative: largest |a - b| / max(|a|, 1e-6).
    """

    def __init__(self) -> None:
        self.elements = 0
        self.equal = 0
        self.nonfinite_a = 0
        self.nonfinite_b = 0
        self.max_abs = 0.0
        self.max_relative = 0.0
        self._finite = 0
        self._signal = 0.0
        self._noise = 0.0
        self._energy = 0.0
        self._product = 0.0
        self._abs = 0.0

    def update(self, a: AnyArray, b: AnyArray) -> None:
        """Adds one batch: two arrays of one shape, of any numeric dtypes.

        Raises:
            ValueError: the shapes differ.
        """
        if a.shape != b.shape:
            raise ValueError(f"shapes differ: {a.shape} and {b.shape}")
        for one, other in _chunks(a, b):
            self.elements += one.size
            self.equal += int(np.count_nonzero(one == other))
            if one.dtype.kind not in "OUS":
                self._add(one.astype(np.float64), other.astype(np.float64))

    def _add(self, a: Array, b: Array) -> None:
        self.equal += int(np.count_nonzero(np.isnan(a) & np.isnan(b)))
        finite_a, finite_b = np.isfinite(a), np.isfinite(b)
        self.nonfinite_a += int(a.size - np.count_nonzero(finite_a))
        self.nonfinite_b += int(b.size - np.count_nonzero(finite_b))
        both = finite_a & finite_b
        if not both.all():
            a, b = a[both], b[both]
        if a.size == 0:
            return
        gap = np.abs(a - b)
        self._finite += a.size
        self._signal += float(a @ a)
        self._noise += float(gap @ gap)
        self._energy += float(b @ b)
        self._product += float(a @ b)
        self._abs += float(gap.sum())
        self.max_abs = max(self.max_abs, float(gap.max()))
        self.max_relative = max(self.max_relative, float((gap / np.maximum(np.abs(a), _TINY)).max()))

    @property
    def relative(self) -> float:
        """sqrt(sum (a - b)^2 / sum a^2); infinite where a is zero and b is not, or only one of them is finite."""
        if self.nonfinite_a != self.nonfinite_b:
            return math.inf
        if self._noise == 0:
            return 0.0
        return math.sqrt(self._noise / self._signal) if self._signal > 0 else math.inf

    @property
    def sqnr_db(self) -> float:
        """10 log10(sum a^2 / sum (a - b)^2); infinite where there is no difference."""
        if self._noise == 0:
            return math.inf
        return 10 * math.log10(self._signal / self._noise) if self._signal > 0 else -math.inf

    @property
    def mean_abs(self) -> float:
        """Mean of |a - b|."""
        return self._abs / self._finite if self._finite else 0.0

    @property
    def cosine(self) -> float:
        """Cosine of the angle between a and b, each taken as one vector; 1 where both are zero, 0 where one is."""
        if self._signal == 0 or self._energy == 0:
            return float(self._signal == self._energy)
        return self._product / math.sqrt(self._signal * self._energy)

    @property
    def agreement(self) -> float:
        """The share of elements that are exactly equal."""
        return self.equal / self.elements if self.elements else 1.0


def _chunks(a: AnyArray, b: AnyArray) -> Iterator[tuple[AnyArray, AnyArray]]:
    flat_a, flat_b = a.reshape(-1), b.reshape(-1)
    for start in range(0, flat_a.size, _CHUNK):
        yield flat_a[start : start + _CHUNK], flat_b[start : start + _CHUNK]


class ClassDifference:
    """What two classifiers make of the same rows [n, classes] of scores: logits, or probabilities where rows sum to 1.

    Attributes:
        rows: how many.
        labelled: how many of them came with a label.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.labelled = 0
        self._top1 = 0
        self._top5 = 0
        self._divergence = 0.0
        self._right_a = 0
        self._right_b = 0

    def update(self, a: AnyArray, b: AnyArray, labels: AnyArray | None = None) -> None:
        """Adds rows, and optionally the right class of each. Rows with NaN or infinity count as disagreement.

        Args:
            a: [n, classes] scores of the reference.
            b: [n, classes] scores of the other.
            labels: [n] integers.
        """
        one, other = a.astype(np.float64), b.astype(np.float64)
        best_a, best_b = one.argmax(axis=1), other.argmax(axis=1)
        sound = np.isfinite(one).all(axis=1) & np.isfinite(other).all(axis=1)
        self.rows += len(one)
        self._top1 += int(np.count_nonzero(sound & (best_a == best_b)))
        # The place of a's best class in b's ranking is how many classes b ranks above it.
        place = np.count_nonzero(other > np.take_along_axis(other, best_a[:, None], axis=1), axis=1)
        self._top5 += int(np.count_nonzero(sound & (place < 5)))
        log_a, log_b = _log_probabilities(one[sound], other[sound])
        self._divergence += float((np.exp(log_a) * (log_a - log_b)).sum())
        if labels is not None:
            self.labelled += len(labels)
            self._right_a += int(np.count_nonzero(best_a == labels))
            self._right_b += int(np.count_nonzero(best_b == labels))

    @property
    def top1(self) -> float:
        """The share of rows on whose best class both agree."""
        return self._top1 / self.rows

    @property
    def top5(self) -> float:
        """The share of rows where the best class of a is among the five best of b."""
        return self._top5 / self.rows

    @property
    def divergence(self) -> float:
        """Mean over the rows of KL(softmax(a) || softmax(b)), in nats."""
        return self._divergence / self.rows

    @property
    def accuracy(self) -> tuple[float, float] | None:
        """The shares of labelled rows that a and b get right; None without labels."""
        return (self._right_a / self.labelled, self._right_b / self.labelled) if self.labelled else None


def _log_probabilities(a: Array, b: Array) -> tuple[Array, Array]:
    if all(len(scores) and scores.min() >= 0 and np.allclose(scores.sum(axis=1), 1, atol=1e-3) for scores in (a, b)):
        floor = np.finfo(np.float64).tiny
        return np.log(np.maximum(a, floor)), np.log(np.maximum(b, floor))
    return log_softmax(a, axis=1), log_softmax(b, axis=1)
