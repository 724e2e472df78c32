"""AdaRound: which of its two neighbours on the grid each weight becomes is learned, from the Gram alone.

Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization", section 3. A weight lies between
its neighbours at down + h (up - down), h = clip(sigmoid(v) 1.2 - 0.1, 0, 1); what is minimised is the error of the
outputs, tr((W' - W) H (W' - W)^T), whose gradient 2 (W' - W) H needs no data, and a term that drives h to 0 or 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit

from secateur.calib.solvers.gptq import better_of
from secateur.calib.solvers.grids import Grid, nearest, spread_out, working

Floats: TypeAlias = npt.NDArray[Any]
Mask: TypeAlias = npt.NDArray[np.bool_]

#: The sigmoid is stretched to -0.1 .. 1.1, so that its ends are reached.
_STRETCH, _SHIFT = 1.2, -0.1
#: Multiples of it, modulo 1, are spread evenly.
_GOLDEN = 0.6180339887498949
#: Of Adam (Kingma and Ba 2015, algorithm 1).
_FIRST, _SECOND, _TINY = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Learning:
    """How rounding is learned.

    Attributes:
        iterations: steps of Adam, each of which takes a product with the Gram. Of the full gradient, so that hundreds
            do what stochastic ones take 10,000 for.
        rate: of Adam.
        weight: of the term that drives h to 0 or 1, lambda; errors count in squares of a mean step and input.
        warm: share of the steps without that term.
        sharpness: of that term, 1 - |2 h - 1|^b: b falls from the first to the second.
        block: columns that share a scale; None for all of a row.
    """

    iterations: int = 400
    rate: float = 0.2
    weight: float = 1.0
    warm: float = 0.2
    sharpness: tuple[float, float] = (20.0, 2.0)
    block: int | None = None


def adaround(
    weight: Floats,
    gram: Floats,
    scale: Floats,
    grid: Grid,
    mask: Mask | None = None,
    how: Learning | None = None,
) -> Floats:
    """A weight each of whose entries is one of its two neighbours on the grid; no row is worse than the nearest.

    Args:
        weight: W [r, c].
        gram: H [c, c] of the inputs.
        scale: [r, n].
        grid: what codes can be.
        mask: [r, c] True where an entry may be other than zero; all of them if None.
        how: see `Learning`.

    Returns:
        [r, c] float32 (float64 for such weights), on the grid; zero outside of the mask.

    Raises:
        ValueError: the shapes do not fit.
    """
    how = how or Learning()
    plain = nearest(weight, scale, grid, how.block, mask)
    if gram.shape != (weight.shape[1],) * 2:
        raise ValueError(f"a weight of shape {weight.shape} does not fit a Gram of shape {gram.shape}")
    if not weight.size or not gram.any():
        return plain
    problem = _Problem.of(weight, gram, scale, grid, how.block)
    problem.width[...] = problem.width if mask is None else np.where(mask, problem.width, 0)
    learned = np.where(_learned(problem, how) >= 0.5, problem.width, 0) + problem.down
    rounded = learned * spread_out(scale.astype(np.float32), weight.shape[1], how.block)
    # On the grid to the last bit.
    rounded = nearest(rounded.astype(working(weight.dtype)), scale, grid, how.block, mask)
    return better_of(gram, weight, [plain, rounded]).weight


@dataclass(frozen=True)
class _Problem:
    """In units of the scale, float32 [r, c]: the neighbour below, how far the one above is from it, and the exact
    number above that below; what an error costs, the Gram [c, c] of unit size; scales [r, c] of unit size."""

    down: Floats
    width: Floats
    exact: Floats
    gram: Floats
    steps: Floats

    @classmethod
    def of(cls, weight: Floats, gram: Floats, scale: Floats, grid: Grid, block: int | None) -> _Problem:
        spread = spread_out(scale.astype(np.float32), weight.shape[1], block)
        values = grid.values().astype(np.float32)
        x = weight.astype(np.float32) / spread
        # What is saturated has itself for a neighbour.
        below = np.clip(np.searchsorted(values, x, "right") - 1, 0, len(values) - 1)
        above = np.where(x < grid.smallest, below, np.minimum(below + 1, len(values) - 1))
        down = values[below]
        unit = gram / float(gram.diagonal().mean())
        return cls(down, values[above] - down, x - down, unit.astype(np.float32), spread / spread.mean())

    def slope(self, share: Floats) -> Floats:
        """The gradient of the error by `share` [r, c], in mean steps and inputs."""
        slope: Floats = ((share * self.width - self.exact) * self.steps) @ self.gram
        slope *= 2 * self.steps * self.width
        return slope


def _learned(problem: _Problem, how: Learning) -> Floats:
    """How near each entry is to its upper neighbour, 0..1."""
    fraction = np.divide(problem.exact, problem.width, out=np.zeros_like(problem.exact), where=problem.width > 0)
    inside = np.clip((np.clip(fraction, 0, 1) - _SHIFT) / _STRETCH, 1e-4, 1 - 1e-4)
    v: Floats = logit(inside).astype(np.float32)
    # Entries that are alike would move alike; a little of the golden ratio's multiples tells them apart.
    v += 0.01 * (np.arange(v.size, dtype=np.float32).reshape(v.shape) * _GOLDEN % 1 - 0.5)
    mean, square = np.zeros_like(v), np.zeros_like(v)
    share = np.clip(fraction, 0, 1)
    warm = int(how.warm * how.iterations)
    for step in range(1, how.iterations + 1):
        sigmoid = expit(v)
        stretched = sigmoid * np.float32(_STRETCH) + np.float32(_SHIFT)
        share = np.clip(stretched, 0, 1)
        slope = problem.slope(share)
        if step > warm:
            slope += how.weight * _drive(share, _sharpness(how, (step - warm) / max(how.iterations - warm, 1)))
        slope *= (stretched > 0) & (stretched < 1)
        slope *= _STRETCH * sigmoid * (1 - sigmoid)
        if not slope.any():
            break
        mean += (1 - _FIRST) * (slope - mean)
        square += (1 - _SECOND) * (slope * slope - square)
        size = how.rate * np.sqrt(1 - _SECOND**step) / (1 - _FIRST**step)
        v -= np.float32(size) * mean / (np.sqrt(square) + np.float32(_TINY))
    return share


def _sharpness(how: Learning, done: float) -> float:
    start, end = how.sharpness
    return float(end + (start - end) * (1 + np.cos(np.pi * done)) / 2)


def _drive(share: Floats, sharpness: float) -> Floats:
    """The gradient of 1 - |2 h - 1|^b by h."""
    away = 2 * share - 1
    drive: Floats = -2 * sharpness * np.sign(away) * np.abs(away) ** np.float32(sharpness - 1)
    return drive
