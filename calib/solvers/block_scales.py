"""Scales of small blocks that are themselves stored in eight bits: NVFP4's two levels, and the powers of two of MX.

NVFP4: blocks of 16 FP4 numbers with a scale in E4M3, and one float32 scale for the whole weight (NVIDIA 2025,
"Pretraining Large Language Models with NVFP4", section 2). MX: blocks of 32 numbers with a power of two (Open Compute
Project 2023, "OCP Microscaling Formats (MX) Specification", version 1.0, section 6.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt

from secateur.calib.solvers.grids import FP4, FP8, Grid, Search, largest_of, symmetric_scale

Floats: TypeAlias = npt.NDArray[Any]

NVFP4_BLOCK, MX_BLOCK = 16, 32
"""Columns that share a scale."""

E8M0 = np.dtype(ml_dtypes.float8_e8m0fnu)
"""The type of powers of two: 2^-127 .. 2^127, no sign, no zero."""

#: Shares of the scale of the range, E4M3 numbers lie up to an eighth apart; 1.5 puts the largest number on the code 4.
_SHARES = (1.5, 1.4, 1.3, 1.2, 1.1, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
#: The smallest E4M3 number, and the smallest tensor scale whose products with it are still normal.
_LEAST = 2.0**-9
_LEAST_TENSOR = 2.0**-117


@dataclass(frozen=True)
class TwoLevels:
    """Scales of a weight [r, c] in blocks: of block and whole weight together, `block[r, n] * tensor`.

    Attributes:
        block: [r, n] float8_e4m3fn, above zero.
        tensor: one number, float32.
    """

    block: npt.NDArray[Any]
    tensor: np.float32

    @property
    def scale(self) -> Floats:
        """[r, n] float32, what numbers of a block are divided by: the product, rounded once, as runtimes do."""
        scale: Floats = self.block.astype(np.float32) * self.tensor
        return scale


def nvfp4_scales(
    weight: Floats, block: int = NVFP4_BLOCK, energies: Floats | None = None, search: bool = False
) -> TwoLevels:
    """NVFP4 scales: tensor = amax / (6 * 448), block = E4M3(amax of the block / (6 * tensor)), 1 for blocks of zeros.

    Args:
        weight: [r, c] floating point.
        block: columns that share an E4M3 scale.
        energies: [c] mean squares of the inputs, for the search; 1 if None.
        search: whether blocks take other E4M3 scales where those leave a smaller sum of energies * (w - Q(w))^2.

    Raises:
        ValueError: the weight is no matrix or holds NaN or infinity, or energies do not fit.
    """
    ranges = largest_of(weight, block)
    whole = symmetric_scale(ranges.max(initial=0.0), np.float32, FP4.largest * FP8.largest)
    tensor = np.float32(np.maximum(whole, _LEAST_TENSOR))

    def stored(wanted: Floats) -> Floats:
        return TwoLevels(_above_zero(wanted / tensor), tensor).scale

    scale = stored(np.where(ranges > 0, ranges / FP4.largest, tensor).astype(np.float32))
    if search:
        scale = Search(FP4, block, _SHARES, stored).improved(weight, scale, energies)
    return TwoLevels(_above_zero(scale / tensor), tensor)


def power_scales(
    weight: Floats,
    grid: Grid = FP8,
    block: int = MX_BLOCK,
    energies: Floats | None = None,
    search: bool = False,
) -> npt.NDArray[Any]:
    """MX scales [r, n] of type E8M0: 2^(floor(log2 amax) - floor(log2 largest)), 1 for blocks of zeros.

    With these, numbers above the largest code saturate: those of E4M3 in 448..512 times the scale.

    Args:
        weight: [r, c] floating point.
        grid: what codes can be.
        block: columns that share a scale.
        energies: [c] mean squares of the inputs, for the search; 1 if None.
        search: whether blocks take the power above or below where that leaves a smaller sum of
            energies * (w - Q(w))^2.

    Raises:
        ValueError: the weight is no matrix or holds NaN or infinity, or energies do not fit.
    """
    ranges = largest_of(weight, block)
    if not np.isfinite(ranges).all():
        raise ValueError("the weight holds NaN or infinity, expected finite numbers")
    exponents = np.frexp(ranges)[1] - np.frexp(grid.largest)[1]
    scale = _powers(np.where(ranges > 0, exponents, 0))
    if search:

        def stored(wanted: Floats) -> Floats:
            return _powers(np.rint(np.log2(wanted)))

        scale = Search(grid, block, (2.0, 0.5), stored).improved(weight, scale, energies)
    return scale.astype(E8M0)


def _above_zero(wanted: Floats) -> npt.NDArray[Any]:
    """The nearest E4M3 numbers above zero."""
    return FP8.codes(np.clip(wanted, _LEAST, FP8.largest))


def _powers(exponents: Floats) -> Floats:
    """Powers of two of float32, neither subnormal nor beyond E8M0."""
    powers: Floats = np.ldexp(np.float32(1), np.clip(exponents, -126, 127).astype(np.int32))
    return powers
