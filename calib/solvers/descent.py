"""A rounded weight made better one column at a time, all others held: coordinate descent on the grid.

The error tr((W - Q) H (W - Q)^T) is a parabola in each entry of Q; its least on the grid is the code nearest to
q_j - g_j / H_jj, with g = (q - w) H. Behdin et al. 2023, "QuantEase: Optimization-based Quantization for Language
Models", section 3. The error never grows, zeros of a mask stay, and the result is one that no change of a single code
makes better: what GPTQ or OBR found is a start, rounding to the nearest another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from secateur.calib.solvers.grids import Grid, count_blocks, nearest, working

Floats: TypeAlias = npt.NDArray[Any]
Mask: TypeAlias = npt.NDArray[np.bool_]

#: Columns whose changes reach the others at once, so that most of the work is products of matrices.
_PANEL = 64


@dataclass(frozen=True)
class Descent:
    """How far the descent goes.

    Attributes:
        passes: over all columns, at most; it ends where nothing changes any more.
        block: columns that share a scale; None for all of a row.
        damping: added to the diagonal of the Gram, relative to its mean: what is hardly determined is left near W. More
            than for GPTQ: on inputs that were not measured, this is what leaves less error.
        dtype: in which is calculated.
    """

    passes: int = 4
    block: int | None = None
    damping: float = 0.1
    dtype: npt.DTypeLike = np.float32


def descended(
    weight: Floats,
    gram: Floats,
    start: tuple[Floats, Floats],
    grid: Grid,
    mask: Mask | None = None,
    how: Descent | None = None,
) -> Floats:
    """A weight on the grid that leaves no more error than the one that it starts from, and mostly less.

    That is the error on the damped Gram; where it has to hold on the Gram itself, see `gptq.better_of`.

    Args:
        weight: W [r, c] what the rows should be.
        gram: H [c, c] of the inputs.
        start: Q [r, c] on the grid, and its scales [r, n].
        grid: what codes can be.
        mask: [r, c] True where an entry may be other than zero; all of them if None.
        how: see `Descent`.

    Returns:
        [r, c] float32 (float64 for such weights), on the grid with the scales given.

    Raises:
        ValueError: the shapes do not fit.
    """
    how = how or Descent()
    found, scale = start
    rows, columns = weight.shape
    if found.shape != weight.shape or gram.shape != (columns, columns):
        raise ValueError(f"weights {weight.shape} and {found.shape} do not fit a Gram of shape {gram.shape}")
    if scale.shape != (rows, count_blocks(columns, how.block)):
        raise ValueError(f"scales of shape {scale.shape} do not fit a weight of shape {weight.shape}")
    dtype = np.dtype(how.dtype)
    # Of unit size, so that float32 can hold it.
    damped = np.array(gram / (float(gram.diagonal().mean()) or 1.0), dtype=dtype)
    np.einsum("ii->i", damped)[...] += how.damping
    exact, now = np.ascontiguousarray(weight.T, dtype=dtype), np.ascontiguousarray(found.T, dtype=dtype)
    stay = None if mask is None else np.ascontiguousarray(~mask.T)
    steps = np.ascontiguousarray(scale.T, dtype=dtype)
    for _ in range(how.passes):
        # Anew in each pass: sums of changes would drift.
        slope = damped @ (now - exact)
        moved = False
        for first in range(0, columns, _PANEL):
            panel = slice(first, min(first + _PANEL, columns))
            scales = [steps[column // how.block if how.block else 0] for column in range(first, panel.stop)]
            zeros = None if stay is None else stay[panel]
            change = _descend(now[panel], slope[panel], damped[panel, panel], scales, (grid, zeros))
            if change.any():
                moved = True
                slope[panel.stop :] += damped[panel.stop :, panel] @ change
        if not moved:
            break
    return nearest(now.T.astype(working(weight.dtype)), scale, grid, how.block, mask)


def _descend(now: Floats, slope: Floats, gram: Floats, scales: list[Floats], rules: tuple[Grid, Mask | None]) -> Floats:
    """One column [r] of a panel [k, r] after another to its best, in place; how much each has changed [k, r]."""
    grid, stay = rules
    changes = np.zeros_like(now)
    for column, scale in enumerate(scales):
        curvature = gram[column, column]
        if curvature <= 0:
            continue
        best = gram[column, :column] @ changes[:column]
        best += slope[column]
        best /= -curvature
        best += now[column]
        best /= scale
        grid.snap(best)
        best *= scale
        if stay is not None:
            best[stay[column]] = 0
        np.subtract(best, now[column], out=changes[column])
        now[column] = best
    return changes
