"""Rounding without data whose errors cancel: what a kernel, and a row, sums to is kept to within half a step.

What layers read has means, and neighbouring positions resemble each other: errors of one sign add up where the inputs
are alike. Guo et al. 2022, "SQuant: On-the-Fly Data-Free Quantization via Diagonal Hessian Approximation", sections 3
and 4: of the nearest codes, those that are nearest to the other side are moved there, first within each kernel until
its errors sum to half a step at most, then within each row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from secateur.calib.solvers.grids import Grid, in_blocks, spread_out, working

Floats: TypeAlias = npt.NDArray[Any]
Mask: TypeAlias = npt.NDArray[np.bool_]

_CHUNK = 1 << 20
"""Weights that are worked on at once."""


def balanced(
    weight: Floats, scale: Floats, grid: Grid, block: int | None = None, taps: int = 1, mask: Mask | None = None
) -> Floats:
    """Weights [r, c] on a grid of integers, each at one of the two codes next to it, so that errors cancel.

    Of each kernel, and of each row (each block of it where blocks have scales of their own), the errors in steps sum to
    within -1/2..1/2, unless there is no other code to move to: at the ends of the grid, or where all are exact.

    Args:
        weight: real numbers; what is zero stays zero.
        scale: [r, n] as `grids.nearest` takes it.
        grid: of integers.
        block: columns that share a scale; None for all of a row.
        taps: columns of a kernel, which are neighbours.
        mask: [r, c] True where a weight may be other than zero; None where all may.

    Raises:
        ValueError: the grid is not of integers, or the scales or kernels do not fit.
    """
    if grid.mantissa is not None:
        raise ValueError(f"steps of {grid.name} are not alike, so that errors in steps cannot cancel")
    if taps < 1 or weight.shape[1] % taps:
        raise ValueError(f"kernels of {taps} do not fit {weight.shape[1]} columns")
    found = np.empty(weight.shape, working(weight.dtype))
    for rows in _chunks(weight):
        spread = spread_out(scale[rows].astype(found.dtype), weight.shape[1], block)
        exact = weight[rows].astype(found.dtype) / spread
        if mask is not None:
            exact *= mask[rows]
        near = grid.rounded(exact)
        if taps > 1 and block is None:
            _balance(exact.reshape(-1, taps), near.reshape(-1, taps), grid)
        size = weight.shape[1] if block is None else block
        pieces = in_blocks(exact, size), in_blocks(near, size)
        _balance(pieces[0].reshape(-1, size), pieces[1].reshape(-1, size), grid)
        np.multiply(pieces[1].reshape(len(near), -1)[:, : weight.shape[1]], spread, out=found[rows])
    return found


def _balance(exact: Floats, near: Floats, grid: Grid) -> None:
    """Moves codes [n, k], in place, until the errors of each row sum to half a step at most."""
    errors = near - exact
    sums = errors.sum(axis=1, dtype=np.float64)
    sign = np.sign(sums).astype(near.dtype)[:, None]
    # A code that was rounded the way that there is too much of, and that has another one behind it.
    gain = errors * sign
    gain[(gain <= 0) | np.where(sign > 0, near <= grid.smallest, near >= grid.largest)] = 0
    wanted = np.rint(np.abs(sums)).astype(np.int64)
    most = int(wanted.max(initial=0))
    if most == 0:
        return
    first = np.argpartition(-gain, most - 1, axis=1)[:, :most]
    gains = np.take_along_axis(gain, first, axis=1)
    order = np.argsort(-gains, axis=1, kind="stable")
    first, gains = np.take_along_axis(first, order, axis=1), np.take_along_axis(gains, order, axis=1)
    moved = (np.arange(most) < wanted[:, None]) & (gains > 0)
    codes = np.take_along_axis(near, first, axis=1) - sign * moved
    np.put_along_axis(near, first, codes, axis=1)


def _chunks(weight: Floats) -> Iterator[slice]:
    size = max(_CHUNK // max(weight.shape[1], 1), 1)
    for start in range(0, len(weight), size):
        yield slice(start, min(start + size, len(weight)))
