"""What to give a model in place of a block that is gone: a constant, or a linear map, found from what flows past.

Where a block goes, what entered it stands in for what left it. The mean of the difference is the best constant to make
up for it: of the expected squared error, E |d|², it leaves the variance of d. A linear map of what enters takes up what
depends on that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from secateur.calib.gram import Gram
from secateur.calib.solvers.least_squares import intercept, residual
from secateur.calib.solvers.ridge import RidgePath, strongest_pull
from secateur.ir.errors import DataError

Array: TypeAlias = npt.NDArray[np.float64]

HELD_OUT = 5
"""One sample in this many is not fitted on, but judges the fit."""
STRENGTHS = tuple(10.0**power for power in range(-6, 3))
"""The pulls towards no change that are tried, relative to the variance of what enters."""
TOLERANCE = 0.01
"""A stronger pull is preferred where its error exceeds the least by no more than this share."""
POSITIONS = 1024
"""How many positions of a sample count for a linear map; for a constant all do."""


@dataclass(frozen=True)
class Bridge:
    """`exit = entry + entry @ matrix + bias`, along the channels.

    Attributes:
        bias: [channels].
        matrix: [channels, channels]; None for a constant alone.
        before: mean squared error of the entry as it is, on the samples held out, over the variance of the exit in each
            channel; the mean over channels.
        after: the same with the bridge.
    """

    bias: Array
    matrix: Array | None
    before: float
    after: float

    @property
    def kind(self) -> str:
        """What it is: none where it changes nothing."""
        if self.matrix is not None:
            return "linear"
        return "bias" if self.bias.any() else "none"


class Drift:
    """How what stands in for a block's exit differs from what the dense block gave, over all batches.

    A `PairAccumulator` (`secateur.calib.capture`): its update takes the stand-in and the exit.

    Attributes:
        dtype: of the stand-in.
        rank: of the stand-in.
    """

    def __init__(self, axis: int, *, linear: bool, seed: int = 0) -> None:
        """Args:
        axis: which axis is that of the channels.
        linear: whether a linear map will be asked for.
        seed: of the positions that are drawn for it.
        """
        self.axis = axis
        self.linear = linear
        self.dtype: np.dtype[Any] = np.dtype(np.float32)
        self.rank = 0
        self._seed = seed
        self._seen = 0
        self._fit = self._held_out = self._exits = Gram(1)

    def update(self, array: npt.NDArray[Any], target: npt.NDArray[Any], weight: float) -> None:
        """Adds one batch.

        Raises:
            DataError: the shapes differ.
        """
        if array.shape != target.shape:
            raise DataError(
                f"what enters a block is {array.shape} and what leaves it {target.shape}: nothing can make up for it",
                hint="ask for compensate=none",
            )
        if not self.rank:
            width = array.shape[self.axis]
            self._fit, self._held_out = (Gram(width if self.linear else 1, width) for _ in range(2))
            self._exits = Gram(1, width)
            self.dtype, self.rank = array.dtype, array.ndim
        samples = len(array)
        entry, end = (_rows(each, self.axis) for each in (array, target))
        if self.linear and entry.shape[1] > POSITIONS:
            random = np.random.default_rng([self._seed, self._seen])
            chosen = np.sort(random.permutation(entry.shape[1])[:POSITIONS])
            entry, end = entry[:, chosen], end[:, chosen]
        is_held_out = np.arange(self._seen, self._seen + samples) % HELD_OUT == HELD_OUT - 1
        for gram, chosen in ((self._fit, ~is_held_out), (self._held_out, is_held_out)):
            if chosen.any():
                x, y = (each[chosen].reshape(-1, each.shape[-1]).astype(np.float64) for each in (entry, end))
                gram.update(x if self.linear else np.zeros((len(x), 1)), y - x, weight)
                self._exits.update(np.zeros((len(y), 1)), y, weight)
        self._seen += samples

    def bridges(self) -> list[Bridge]:
        """What there is, each better on the samples held out than the one before: nothing, a constant, a linear map.

        With fewer than five samples none are held out: a constant is judged by those that it is made from, and a linear
        map is not made.
        """
        width = self._fit.target_width
        nothing, bias = np.zeros(width), self._fit.target_mean
        before = self._error(None, nothing)
        found = [Bridge(nothing, None, before, before)]
        # Rounding errors of a block that does nothing are no reason to touch the model.
        if before > np.finfo(np.float32).eps ** 2 and (error := self._error(None, bias)) < before:
            found.append(Bridge(bias, None, before, error))
            if self.linear and self._held_out.count:
                matrix, offset, error = self._map()
                if error < found[-1].after:
                    found.append(Bridge(offset, matrix, before, error))
        return found

    def _map(self) -> tuple[Array, Array, float]:
        """Ridge regression of the difference on what enters, pulled to no change as strongly as does no harm.

        What enters and what leaves is taken in units of its own standard deviation in each channel.
        """
        moments, units = self._fit.centered(), self._units
        sizes = np.sqrt(moments.xx.diagonal() / moments.count)
        scales = np.divide(1.0, sizes, out=np.zeros_like(sizes), where=sizes > 0)
        xy = moments.xy * scales[:, None] * units
        path = RidgePath.of(moments.xx * np.outer(scales, scales), xy, np.zeros_like(xy))
        back = np.divide(1.0, units, out=np.zeros_like(units), where=units > 0)
        found = {}
        for strength in STRENGTHS:
            matrix = path.at(strength) * scales[:, None] * back
            offset = intercept(matrix, self._fit.mean, self._fit.target_mean)
            found[strength] = (matrix, offset, self._error(matrix, offset))
        errors = np.array([error for _, _, error in found.values()])
        return found[strongest_pull(STRENGTHS, errors, TOLERANCE)]

    @property
    def _units(self) -> Array:
        """[channels] 1 over the standard deviation of the exit; 0 where that is constant."""
        sizes = np.sqrt(self._exits.target_variance)
        return np.divide(1.0, sizes, out=np.zeros_like(sizes), where=sizes > 0)

    def _error(self, matrix: Array | None, bias: Array) -> float:
        """Mean squared error over the variance of the exit, the mean over channels.

        Of the samples held out; of all where there are none. A few channels of a language model are larger than all
        others together (Sun et al. 2024, "Massive Activations in Large Language Models"): each counts the same here.
        """
        gram, units = self._held_out if self._held_out.count else self._fit, self._units
        moments = gram.with_targets_scaled(units).centered()
        offset = gram.target_mean - bias
        squared = float(np.sum(moments.yy))
        if matrix is not None:
            offset = offset - gram.mean @ matrix
            squared = residual(moments.xx, moments.xy, moments.yy, None, matrix * units)
        scaled = offset * units
        return (squared / gram.count + float(scaled @ scaled)) / max(1, int(np.count_nonzero(units)))


def _rows(array: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
    """[samples, positions, channels]."""
    moved = np.moveaxis(array, axis, -1)
    return moved.reshape(len(moved), -1, moved.shape[-1])
