"""What numbers can be once they are stored in few bits: grids, their scales, and rounding to the nearest.

All grids are symmetric, with zero point 0, so that zeros stay exactly zero: what NVIDIA TensorRT takes. A weight is a
matrix [r, c], its scales are [r, n]: n = 1 for a scale for each row, else n = ceil(c / block), one for every `block`
neighbours of a row. Scales of formats with more than one level, or of powers of two, are in `block_scales`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[Any]
Codes: TypeAlias = npt.NDArray[Any]
Mask: TypeAlias = npt.NDArray[np.bool_]

SMALLEST_SHARE, STEPS = 0.2, 24
"""How far a search for a scale goes down from that of the range, and in how many steps."""

#: Entries that are worked on together, so that they stay in the cache.
_CHUNK = 1 << 16
#: A search ends for a scale whose error has grown to so many times the least.
_GIVE_UP = 4.0
#: An error counts as less where it is by this much, relative: sums in float32 are no better.
_LESS = 1 - 1e-5


@dataclass(frozen=True)
class Grid:
    """What one number can be before its scale.

    Attributes:
        name: as in recipes and reports.
        dtype: of codes, of numpy or ml_dtypes.
        largest: the largest code: a scale is amax / largest.
        smallest: the most negative code.
    """

    name: str
    dtype: np.dtype[Any]
    largest: float
    smallest: float

    def codes(self, x: Floats) -> Codes:
        """Numbers that are divided by their scale already to codes: half to even, saturated, never NaN or infinite."""
        near = self.rounded(x)
        # Integers of a few bits are converted from int8 many times faster than from float.
        return (near if self.mantissa is not None else near.astype(np.int8)).astype(self.dtype, copy=False)

    def rounded(self, x: Floats) -> Floats:
        """What `codes` stand for, as numbers of the type of x (float32 where that is smaller)."""
        near = np.array(x, dtype=working(x.dtype), order="C")
        self.snap(near)
        return near

    def snap(self, x: Floats) -> None:
        """Rounds numbers of float32 or float64 in place, as `rounded`."""
        np.clip(x, self.smallest, self.largest, out=x)
        if self.mantissa is None:
            np.rint(x, out=x)
        else:
            _round_mantissas(x, self.mantissa, self.normal)

    @property
    def mantissa(self) -> int | None:
        """Stored bits of the mantissa; None for integers."""
        return None if _is_integer(self.dtype) else int(ml_dtypes.finfo(self.dtype).nmant)

    @property
    def normal(self) -> float:
        """The smallest normal number: below it, steps stay the same; 1 for integers."""
        return 1.0 if _is_integer(self.dtype) else float(ml_dtypes.finfo(self.dtype).smallest_normal)

    @property
    def bits(self) -> int:
        """How many bits a code takes."""
        return int((ml_dtypes.iinfo if _is_integer(self.dtype) else ml_dtypes.finfo)(self.dtype).bits)

    def values(self) -> npt.NDArray[np.float64]:
        """Every number on the grid, in rising order, once."""
        if _is_integer(self.dtype):
            return np.arange(self.smallest, self.largest + 1)
        all_codes = np.arange(1 << self.bits, dtype=np.uint8).view(self.dtype).astype(np.float64)
        kept: npt.NDArray[np.float64] = np.unique(all_codes[np.isfinite(all_codes)] + 0.0)
        return kept


INT8 = Grid("int8", np.dtype(np.int8), 127.0, -127.0)
INT8_DATA = Grid("int8-data", np.dtype(np.int8), 127.0, -128.0)
INT4 = Grid("int4", np.dtype(ml_dtypes.int4), 7.0, -8.0)
FP8 = Grid("fp8", np.dtype(ml_dtypes.float8_e4m3fn), 448.0, -448.0)
FP4 = Grid("fp4", np.dtype(ml_dtypes.float4_e2m1fn), 6.0, -6.0)

GRIDS = {grid.name: grid for grid in (INT8, INT8_DATA, INT4, FP8, FP4)}
"""All grids by name. Weights of INT8 leave out -128, so that both signs have the same codes."""


def symmetric_scale(amax: npt.ArrayLike, dtype: npt.DTypeLike, largest: float = 127) -> Floats:
    """The step of a grid on which `amax` is the code `largest`, as a number of type `dtype`; 1 for amax 0.

    A step that would be subnormal is raised to the smallest normal number: runtimes flush it to zero otherwise.

    Raises:
        ValueError: an amax is NaN, infinite or negative, or its step too large for the type.
    """
    wanted, limits = np.asarray(amax, np.float64), ml_dtypes.finfo(dtype)
    if not (np.isfinite(wanted) & (wanted >= 0)).all():
        raise ValueError("a range is NaN, infinite or negative: the numbers to be quantized are, expected finite ones")
    scale = np.maximum(wanted / largest, float(limits.smallest_normal))
    if (scale > float(limits.max)).any():
        raise ValueError(f"a scale of {scale.max():.3g} is too large for {np.dtype(dtype).name}; store it in float32")
    stored: Floats = np.where(wanted > 0, scale, 1.0).astype(dtype)
    return stored


def spread_out(scale: Floats, columns: int, block: int | None) -> Floats:
    """The scale of every entry, [r, n] to [r, c], of the same type.

    Raises:
        ValueError: there are not as many scales as blocks.
    """
    if scale.shape[1] != count_blocks(columns, block):
        expected = count_blocks(columns, block)
        raise ValueError(f"scales of shape {scale.shape} do not fit {columns} columns: expected {expected} in each row")
    if scale.shape[1] == 1:
        return np.broadcast_to(scale, (scale.shape[0], columns))
    return np.repeat(scale, block or columns, axis=1)[:, :columns]


def count_blocks(columns: int, block: int | None) -> int:
    """How many scales a row of so many columns has.

    Raises:
        ValueError: a block has no columns.
    """
    if block is not None and block < 1:
        raise ValueError(f"a block has at least one column, got {block}")
    return 1 if block is None else max(-(-columns // block), 1)


def scales_by_range(weight: Floats, grid: Grid, block: int | None = None, dtype: npt.DTypeLike = np.float32) -> Floats:
    """Scales [r, n] on which the largest magnitude is the largest code; 1 where all is zero, and never subnormal.

    Args:
        weight: [r, c] floating point.
        grid: what codes can be.
        block: columns that share a scale; None for all of a row.
        dtype: of the scales: float32, float16 or bfloat16.

    Raises:
        ValueError: the weight is no matrix or holds NaN or infinity, or a scale does not fit its type.
    """
    return symmetric_scale(largest_of(weight, block), dtype, grid.largest)


def largest_of(weight: Floats, block: int | None = None) -> Floats:
    """The largest magnitude of each block [r, n], of weights [r, c]; NaN where there is one."""
    blocks = in_blocks(weight, block)
    if not blocks.size:
        return np.zeros(blocks.shape[:2], working(weight.dtype))
    # Of float16 and bfloat16 too, without a copy.
    largest: Floats = np.maximum(blocks.max(axis=2), -blocks.min(axis=2)).astype(working(weight.dtype))
    return largest


def scales_by_error(
    weight: Floats,
    grid: Grid,
    block: int | None = None,
    energies: Floats | None = None,
    dtype: npt.DTypeLike = np.float32,
    steps: int = STEPS,
) -> Floats:
    """Scales [r, n] that make sum_j energies_j (w_j - Q(w_j))^2 small in each block; never worse than by range.

    Args:
        weight: [r, c] floating point.
        grid: what codes can be.
        block: columns that share a scale; None for all of a row.
        energies: [c] mean squares of the inputs, diag(H): what an error of a column costs; 1 if None.
        dtype: of the scales: float32, float16 or bfloat16. The search is among numbers of this type.
        steps: how many shares of the range are tried, from 1 down to `SMALLEST_SHARE` (FP8: within an octave).

    Raises:
        ValueError: the weight is no matrix or holds NaN or infinity, or a scale does not fit its type; energies do not
            fit the columns or are negative, NaN or infinite; there are no steps.
    """
    if steps < 1:
        raise ValueError(f"at least one share of the range is tried, got steps {steps}")
    scale, limits = scales_by_range(weight, grid, block, dtype), ml_dtypes.finfo(dtype)

    def stored(wanted: Floats) -> Floats:
        return np.clip(wanted, float(limits.smallest_normal), float(limits.max)).astype(dtype).astype(np.float32)

    search = Search(grid, block, _shares(grid, steps), stored)
    return search.improved(weight, scale.astype(np.float32), energies).astype(dtype)


def _shares(grid: Grid, steps: int) -> tuple[float, ...]:
    if grid == FP8:
        # Errors are relative: what counts is where in its octave a scale lies, not how much is clipped.
        return tuple(np.linspace(2.0, 0.8, steps).tolist())
    lower = np.linspace(1.0, SMALLEST_SHARE, steps + 1)[1:].tolist()
    # The codes 4 and 6 of FP4 lie far apart: a block may be better off with its largest on the 4.
    return (1.5, *lower) if grid == FP4 else tuple(lower)


@dataclass(frozen=True)
class Search:
    """For scales that leave less error than those given.

    Shares of what is given are tried, and then the least squares scale of the codes found, sum e w q / sum e q^2, in
    turn with rounding (Lloyd 1982, as in k-means).

    Attributes:
        grid: what codes can be.
        block: columns that share a scale; None for all of a row.
        shares: of the given scales, in the order in which they are tried; a search below 1 ends where errors grow.
        stored: wanted scales of float32 to those that can be, of which the search takes its own.
    """

    grid: Grid
    block: int | None
    shares: tuple[float, ...]
    stored: Callable[[Floats], Floats]

    def improved(self, weight: Floats, scale: Floats, energies: Floats | None = None) -> Floats:
        """Scales [r, n] of float32 for a weight [r, c]: as given, or others where these leave less error.

        Raises:
            ValueError: energies do not fit the columns or are negative, NaN or infinite.
        """
        roots = None if energies is None else in_blocks(_roots(energies, weight.shape[1])[None], self.block)
        found = scale.copy()
        for rows in _row_chunks(weight):
            found[rows] = self._best(in_blocks(weight[rows].astype(np.float32), self.block), scale[rows], roots)
        return found

    def _best(self, blocks: Floats, start: Floats, roots: Floats | None) -> Floats:
        scale = start.copy()
        least, best = self._errors(blocks, scale, roots)
        going = least > 0
        for share in self.shares:
            error = self._take(blocks, start * np.float32(share), roots, (scale, least, best), going)
            if share < 1:
                going &= error < _GIVE_UP * least
            if not going.any():
                break
        for _ in range(2):
            self._take(blocks, _fitted(blocks, best, scale, roots), roots, (scale, least, best), least > 0)
        return scale

    def _take(
        self, blocks: Floats, wanted: Floats, roots: Floats | None, best: tuple[Floats, Floats, Floats], among: Mask
    ) -> Floats:
        """The error of other scales [k, n]; where it is less, they take the place of the best, in place."""
        tried = self.stored(wanted)
        error, near = self._errors(blocks, tried, roots)
        better = among & (error < best[1] * _LESS)
        for place, found in zip(best, (tried, error, near), strict=True):
            place[better] = found[better]
        return error

    def _errors(self, blocks: Floats, scale: Floats, roots: Floats | None) -> tuple[Floats, Floats]:
        """Of each block [k, n, block], sum e (w - Q(w))^2 [k, n], and its codes as numbers."""
        exact = blocks / scale[..., None]
        near = exact.copy()
        self.grid.snap(near)
        exact -= near
        if roots is not None:
            exact *= roots
        # Squares of small scales are no float32.
        return np.einsum("rnb,rnb->rn", exact, exact) * scale.astype(np.float64) ** 2, near


def _fitted(blocks: Floats, near: Floats, scale: Floats, roots: Floats | None) -> Floats:
    """The least squares scales [k, n] of codes [k, n, block]; as they are where these are all zero."""
    weighted = near if roots is None else near * (roots * roots)
    squares = np.einsum("rnb,rnb->rn", weighted, near)
    fitted: Floats = np.divide(np.einsum("rnb,rnb->rn", weighted, blocks), squares, scale.copy(), where=squares > 0)
    return fitted


def codes(weight: Floats, scale: Floats, grid: Grid, block: int | None = None) -> Codes:
    """Weights [r, c] to the nearest codes [r, c] of the type of the grid, divided in float32 as runtimes do.

    Raises:
        ValueError: the weight holds NaN or infinity, or scales do not fit it.
    """
    found = np.empty(weight.shape, grid.dtype)
    for rows, near in _rounded_rows(weight, scale, grid, block):
        found[rows] = grid.codes(near)
    return found


def real(codes: Codes, scale: Floats, block: int | None = None) -> Floats:
    """Codes [r, c] to the float32 numbers that they stand for (float64 for scales of that type)."""
    numbers = codes.astype(working(scale.dtype))
    spread = spread_out(scale.astype(numbers.dtype, copy=False), codes.shape[1], block)
    numbers *= spread
    return numbers


def nearest(weight: Floats, scale: Floats, grid: Grid, block: int | None = None, mask: Mask | None = None) -> Floats:
    """Weights [r, c] rounded to the nearest, as float32 or float64 numbers on the grid; zero outside of the mask."""
    found = np.empty(weight.shape, working(weight.dtype))
    for rows, near in _rounded_rows(weight, scale, grid, block):
        np.multiply(near, spread_out(scale[rows].astype(found.dtype), weight.shape[1], block), out=found[rows])
    if mask is not None:
        found[~mask] = 0
    return found


def working(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """The type in which numbers of a type are worked on: float64 stays, all else becomes float32."""
    return np.dtype(np.float64 if np.dtype(dtype) == np.float64 else np.float32)


def in_blocks(matrix: Floats, block: int | None) -> Floats:
    """[r, c] as [r, n, block], filled up with zeros; a view where that is possible.

    Raises:
        ValueError: it is no matrix, or a block has no columns.
    """
    if matrix.ndim != 2:
        raise ValueError(f"expected a matrix [r, c], got shape {matrix.shape}")
    rows, columns = matrix.shape
    count = count_blocks(columns, block)
    size = columns if block is None else block
    if count * size != columns:
        matrix = np.pad(matrix, ((0, 0), (0, count * size - columns)))
    return matrix.reshape(rows, count, size)


def _is_integer(dtype: np.dtype[Any]) -> bool:
    return dtype in (np.dtype(np.int8), np.dtype(ml_dtypes.int4))


def _round_mantissas(x: Floats, mantissa: int, normal: float) -> None:
    """Rounds in place to a mantissa of so many bits, half to even; numbers below `normal` to its step."""
    kept = np.finfo(x.dtype).nmant
    whole = np.dtype(f"i{x.dtype.itemsize}").type
    exponents = whole(int(np.asarray(np.inf, x.dtype).view(whole)))
    powers = np.bitwise_and(x.view(whole), exponents, out=np.empty(x.shape, whole)).view(x.dtype)
    np.maximum(powers, normal, out=powers)
    # One and a half of this power is where floating point numbers lie as far apart as those of the grid at x.
    powers *= 1.5 * 2.0 ** (kept - mantissa)
    x += powers
    x -= powers


def _rounded_rows(weight: Floats, scale: Floats, grid: Grid, block: int | None) -> Iterator[tuple[slice, Floats]]:
    """Which rows, and the codes [k, c] of these, as numbers."""
    columns, dtype = weight.shape[1], working(weight.dtype)
    if len(scale) != len(weight):
        raise ValueError(f"scales of shape {scale.shape} do not fit a weight of shape {weight.shape}")
    for rows in _row_chunks(weight):
        near = weight[rows].astype(dtype) / spread_out(scale[rows].astype(dtype, copy=False), columns, block)
        if not np.isfinite(near.sum()) and not np.isfinite(weight[rows].astype(dtype)).all():
            raise ValueError("the weight holds NaN or infinity, expected finite numbers")
        grid.snap(near)
        yield rows, near


def _row_chunks(weight: Floats) -> Iterator[slice]:
    size = max(_CHUNK // max(weight.shape[1], 1), 1)
    for start in range(0, len(weight), size):
        yield slice(start, min(start + size, len(weight)))


def _roots(energies: Floats, columns: int) -> Floats:
    """Roots of energies [c], of any size, as float32 of which the largest is 1."""
    if energies.shape != (columns,):
        raise ValueError(f"energies of shape {energies.shape} do not fit {columns} columns")
    if not (np.isfinite(energies) & (energies >= 0)).all():
        raise ValueError("energies are NaN, infinite or negative, where mean squares are expected")
    largest = float(energies.max(initial=0.0)) or 1.0
    return np.sqrt(energies.astype(np.float64) / largest).astype(np.float32)
