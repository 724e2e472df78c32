"""How large the values of a tensor get, and from that the range `amax` that a symmetric integer grid should cover.

`Range` and `Histogram` are streamed and merged like a `Gram`. The `amax_*` functions read them; a grid of b bits then
has the scale `amax / (2**(b - 1) - 1)`. All of them scale with the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from secateur.calib.finite import check_finite
from secateur.ir.errors import DataError

Array: TypeAlias = npt.NDArray[np.float64]
AnyArray: TypeAlias = npt.NDArray[Any]

#: A histogram has more bins than this, up to twice as many.
BINS = 2048
#: The smallest number of bins that a clipped range may keep: the 2**7 levels of |x| in eight bits.
_FIRST = 128
#: So many ranges are tried at most, from there to all bins, in steps of the same ratio.
_TRIED = 400
#: The share of values that a range by entropy clips at most.
_CLIPPED = 0.01


class Range:
    """Smallest, largest and largest absolute value of a tensor, or of each channel along one axis.

    Attributes:
        axis: the channel axis; None for one range of the whole tensor.
        count: how many values came in (for each channel).
        minimum, maximum: float64, of shape () or [channels]; +inf and -inf before the first value.
    """

    def __init__(self, axis: int | None = None) -> None:
        self.axis = axis
        self.count = 0
        self.minimum: Array = np.full((), np.inf)
        self.maximum: Array = np.full((), -np.inf)

    def update(self, x: npt.ArrayLike, weight: float = 1.0) -> None:
        """Adds the values of a tensor. A weight makes no difference: an extreme is one however seldom it comes.

        Raises:
            DataError: x holds NaN or infinity.
            ValueError: x has another number of channels than what came before.
        """
        values = np.asarray(x)
        if values.size == 0:
            return
        kept = None if self.axis is None else self.axis % values.ndim
        others = tuple(axis for axis in range(values.ndim) if axis != kept)
        channels = 1 if kept is None else values.shape[kept]
        minimum, maximum = values.min(axis=others), values.max(axis=others)
        if not (np.isfinite(minimum) & np.isfinite(maximum)).all():  # one NaN makes both NaN
            check_finite(values, "the tensor")
        self._join(minimum, maximum, values.size // channels)

    def merge(self, other: Range) -> None:
        """Adds the values of another range of the same axis."""
        if self.axis != other.axis:
            raise ValueError(f"cannot merge ranges along axis {self.axis} and axis {other.axis}")
        if other.count:
            self._join(other.minimum, other.maximum, other.count)

    def _join(self, minimum: AnyArray, maximum: AnyArray, count: int) -> None:
        if self.count and np.shape(minimum) != self.minimum.shape:
            raise ValueError(f"ranges of shape {np.shape(minimum)} do not join ranges of shape {self.minimum.shape}")
        self.minimum = np.asarray(np.minimum(self.minimum, minimum), dtype=np.float64)
        self.maximum = np.asarray(np.maximum(self.maximum, maximum), dtype=np.float64)
        self.count += count

    @property
    def absmax(self) -> Array:
        """Largest |x|, of shape () or [channels]; 0 before the first value."""
        return np.asarray(np.maximum(np.abs(self.minimum), np.abs(self.maximum)) if self.count else np.zeros(()))

    def state(self) -> dict[str, AnyArray]:
        """Everything, as arrays that can be saved; `from_state` takes them back."""
        axis = np.asarray([] if self.axis is None else [self.axis], dtype=np.int64)
        return {"axis": axis, "count": np.asarray(self.count), "minimum": self.minimum, "maximum": self.maximum}

    @classmethod
    def from_state(cls, state: Mapping[str, AnyArray]) -> Range:
        """The range that gave this `state`."""
        axis = np.asarray(state["axis"])
        result = cls(int(axis[0]) if axis.size else None)
        if int(state["count"]):
            result._join(np.asarray(state["minimum"]), np.asarray(state["maximum"]), int(state["count"]))
        return result


class Histogram:
    """Counts of |x| in bins of equal width from zero up.

    The width is always a power of two, and doubles, joining bins in pairs, when a value lies beyond the last bin.
    Doubling is exact, so the counts depend on the values alone: not on their order, nor on batches and merges.

    Attributes:
        width: of a bin; 0 as long as all values are zero.
        counts: [n] values in `i * width <= |x| < (i + 1) * width`; the last bin holds the largest, so that
            `BINS < n <= 2 * BINS`, or n = 1 for zeros alone.
        absmax: largest |x|, exact.
    """

    def __init__(self) -> None:
        self.width = 0.0
        self.counts: npt.NDArray[np.int64] = np.zeros(1, dtype=np.int64)
        self.absmax = 0.0

    def update(self, x: npt.ArrayLike, weight: float = 1.0) -> None:
        """Adds the values of a tensor; each counts once, whatever its weight.

        Raises:
            DataError: x holds NaN or infinity.
        """
        values = np.asarray(x)
        if values.size == 0:
            return
        sizes = np.abs(values if values.dtype == np.float32 else values.astype(np.float64)).ravel()
        largest = float(sizes.max())
        if not np.isfinite(largest):
            check_finite(values, "the tensor")
        self._grow(largest)
        if self.width == 0:
            self.counts[0] += sizes.size
            return
        if self.width < np.finfo(sizes.dtype).tiny:
            sizes = sizes.astype(np.float64)
        # The width is a power of two, so that float32 has the quotient exactly, too.
        bins = (sizes / sizes.dtype.type(self.width)).astype(np.int64)
        self.counts += np.bincount(bins, minlength=len(self.counts))

    def merge(self, other: Histogram) -> None:
        """Adds the values of another histogram."""
        self._grow(other.absmax)
        self.counts += _rebinned(other.counts, other.width, self.width, len(self.counts))

    def _grow(self, absmax: float) -> None:
        """Makes room for a value: afterwards the bins are those of the largest value so far."""
        if absmax <= self.absmax:
            return
        self.absmax = absmax
        # absmax = fraction * 2**exponent with fraction in [1/2, 1), so that absmax / width lies in [BINS, 2 * BINS).
        width = max(float(np.ldexp(0.5 / BINS, int(np.frexp(self.absmax)[1]))), float(np.finfo(np.float64).tiny))
        length = int(self.absmax / width) + 1
        self.counts = _rebinned(self.counts, self.width, width, length)
        self.width = width

    @property
    def edges(self) -> Array:
        """[n + 1] the bounds of the bins."""
        edges: Array = np.arange(len(self.counts) + 1) * np.float64(self.width)
        return edges

    def state(self) -> dict[str, AnyArray]:
        """Everything, as arrays that can be saved; `from_state` takes them back."""
        return {"absmax": np.asarray(self.absmax), "counts": self.counts.copy()}

    @classmethod
    def from_state(cls, state: Mapping[str, AnyArray]) -> Histogram:
        """The histogram that gave this `state`.

        Raises:
            DataError: the counts are not as many as the largest value asks for.
        """
        result = cls()
        result._grow(float(state["absmax"]))
        counts = np.asarray(state["counts"], dtype=np.int64)
        if counts.shape != result.counts.shape:
            expected = len(result.counts)
            raise DataError(f"a histogram has bins {counts.shape}, expected {expected}", hint="capture it again")
        result.counts = counts.copy()
        return result


def _rebinned(counts: npt.NDArray[np.int64], width: float, wider: float, length: int) -> npt.NDArray[np.int64]:
    """The same counts in `length` bins that are `wider / width` times as wide, a power of two."""
    ratio = width / wider if wider else 0.0
    indices = np.floor(np.arange(len(counts)) * ratio).astype(np.int64)
    rebinned: npt.NDArray[np.int64] = np.bincount(indices, weights=counts, minlength=length).astype(np.int64)
    return rebinned


def amax_max(statistics: Range | Histogram) -> Array:
    """The largest |x|: nothing is clipped. Of shape () or [channels]."""
    return np.asarray(statistics.absmax, dtype=np.float64)


def amax_percentile(histogram: Histogram, percentile: float = 99.99) -> float:
    """The smallest bin edge that at least `percentile` percent of the values lie below; 100 gives the largest |x|."""
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile must be in (0, 100], got {percentile}")
    if percentile == 100:
        return histogram.absmax
    below = np.cumsum(histogram.counts)
    index = int(np.searchsorted(below, percentile / 100 * below[-1]))
    return min(float(histogram.edges[index + 1]), histogram.absmax)


def amax_mse(histogram: Histogram, bits: int = 8) -> float:
    """The range whose grid of b bits has the smallest squared error: rounding inside against clipping outside.

    minimises sum_j counts[j] * (quantized(center[j]) - center[j])**2 over bin centers from the 128th up, every one at
    first and then such that one is not 1 % above the one before.

    All bins that a level q takes have the error sum counts * center**2 - 2 q sum counts * center + q**2 sum counts, so
    that prefix sums give those of every range: no loop over bins, nor over ranges.
    """
    size = len(histogram.counts)
    if size <= _FIRST:
        return histogram.absmax
    # In units of the width: numbers too small to be squared are no exception.
    centers, counts = np.arange(size) + 0.5, histogram.counts.astype(np.float64)
    tried = np.unique(np.geomspace(_FIRST, size - 1, _TRIED).astype(np.int64))
    number, first = (_prefix(part) for part in (counts, counts * centers))
    levels = 2 ** (bits - 1) - 1
    amax = centers[tried, None]
    # Level k is nearest from (k - 1/2) steps on: the first bin whose center lies there. The last level takes the rest.
    edges = (np.arange(1, levels + 1) - 0.5) * (amax / levels)
    starts = np.minimum(np.ceil(edges - 0.5).astype(np.int64), size)
    starts = np.pad(starts, ((0, 0), (0, 1)), constant_values=size)
    level = np.arange(1, levels + 1) * (amax / levels)
    errors = np.sum(level * (level * np.diff(number[starts], axis=1) - 2 * np.diff(first[starts], axis=1)), axis=1)
    return min(float(amax[int(np.argmin(errors)), 0] * histogram.width), histogram.absmax)


def amax_entropy(histogram: Histogram, bits: int = 8) -> float:
    """The range that keeps most of the information: the smallest KL divergence of the values from their quantized form.

    For i from 128 up, P is the first i bins with all that lies beyond added to the last of them, and Q the same bins
    without what lies beyond, joined to 2**(bits - 1) cells, each of which spreads its counts evenly over its bins that
    are not empty. The i with the smallest KL(P || Q) wins, the largest of equals, and its upper edge is the range. Bin
    0 counts as much as bin 1, or zeros, which every grid holds exactly, would decide; and no range clips more than a
    hundredth of the values, or a bin that is full by itself (the background of pictures, a padding) would hide in the
    last bin all that lies beyond. Migacz 2017, "8-bit Inference with TensorRT", GTC 2017, describes the method without
    the last three rules.

    P log Q is constant in a cell, so all sums come from prefix sums: one row of cells for each i, no loop over bins.
    """
    size = len(histogram.counts)
    if size <= _FIRST:
        return histogram.absmax
    counts = histogram.counts.astype(np.float64)
    counts[0] = counts[1]
    total, tops = counts.sum(), np.arange(_FIRST, size + 1)
    inside, filled, information = (_prefix(part) for part in (counts, counts > 0, _x_log_x(counts)))
    cells = 2 ** (bits - 1)
    # Bin j of the first i lies in cell floor(j * cells / i): the cell starts at the first j for which that holds.
    starts = -(-np.arange(cells + 1)[None, :] * tops[:, None] // cells)
    mass, bins = np.diff(inside[starts], axis=1), np.diff(filled[starts], axis=1)
    beyond, last = total - inside[tops], counts[tops - 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.where(mass > 0, np.log(mass / bins), 0.0)
        cross = np.sum(mass * spread, axis=1) + beyond * spread[:, -1]
        own = information[tops - 1] + _x_log_x(last + beyond)
        divergence = (own - cross) / total - np.log(total) + np.log(inside[tops])
    # An empty last bin gets the mass beyond it in P and nothing in Q: the divergence is infinite.
    divergence[(last == 0) & (beyond > 0)] = np.inf
    divergence[beyond > _CLIPPED * total] = np.inf
    best = len(tops) - 1 - int(np.argmin(divergence[::-1]))
    return min(float(histogram.edges[tops[best]]), histogram.absmax)


def _prefix(values: AnyArray) -> Array:
    """[n + 1] sums of the first 0, 1, ..., n values."""
    return np.concatenate([np.zeros(1), np.cumsum(values, dtype=np.float64)])


def _x_log_x(values: Array) -> Array:
    return values * np.log(np.where(values > 0, values, 1.0))
