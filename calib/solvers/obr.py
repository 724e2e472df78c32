"""Zeros and few bits at once: what pruning and rounding cost some weights, the others of the row make up for.

Optimal brain restoration (Guo et al. 2025, "Optimal Brain Restoration for Joint Quantization and Sparsification of
LLMs", section 3). With the columns of a row split into those whose error e is given and those R that are still free,
the least error is w_R + H_RR^-1 H_RE e. Used three times: for what a mask removes, for a first share of the columns
that is rounded to the nearest, and, column after column, for the rest (GPTQ).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from secateur.calib.solvers.column_sweep import factor
from secateur.calib.solvers.gptq import Order, Ordered, gptq, order_of
from secateur.calib.solvers.grids import Grid, nearest, spread_out, working
from secateur.calib.solvers.masked_least_squares import masked_least_squares

Floats: TypeAlias = npt.NDArray[Any]
Array: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]
Indices: TypeAlias = npt.NDArray[np.intp]

Scales: TypeAlias = Floats | Callable[[Floats], Floats]
"""Scales [r, n], or what makes them of the weight [r, c] whose zeros are made up for already."""


Finish: TypeAlias = Callable[[Floats, Floats, Grid, int | None, Mask | None], Floats]
"""Rounds a weight: with its scales, grid, block and mask, as `nearest` does."""


@dataclass(frozen=True)
class Compensation:
    """How errors are made up for.

    Attributes:
        share: of the columns that are rounded to the nearest first, 0..1: 0 is GPTQ alone, 1 rounding alone.
        finish: how the rest is rounded: "gptq" or "nearest".
        damping: added to the diagonal of the Gram, relative to its mean.
        order: the columns with the largest inputs first ("activation"), or as they lie ("natural").
        block: columns that share a scale; None for all of a row.
    """

    share: float = 0.5
    finish: Literal["gptq", "nearest"] = "gptq"
    damping: float = 0.01
    order: Order = "activation"
    block: int | None = None


@dataclass(frozen=True)
class Compensated:
    """A weight with zeros on a grid.

    Attributes:
        weight: [r, c] float32 (float64 for such weights), on the grid; zero outside of the mask.
        scale: [r, n].
    """

    weight: Floats
    scale: Floats


def obr(
    weight: Floats,
    gram: Floats,
    scale: Scales,
    grid: Grid,
    mask: Mask,
    how: Compensation | None = None,
) -> Compensated:
    """A weight with given zeros on a grid, whose outputs are near to those of W: small tr((W - Q) H (W - Q)^T).

    Args:
        weight: W [r, c], before anything was removed.
        gram: H [c, c] of the inputs.
        scale: of the weight after step 1, whose range is not that of W.
        grid: what codes can be.
        mask: [r, c] True where an entry may be other than zero.
        how: see `Compensation`.

    Raises:
        ValueError: the shapes do not fit, the share is not within 0..1, a finish or order is unknown, or the Gram is
            none.
    """
    how = how or Compensation()
    if not 0 <= how.share <= 1:
        raise ValueError(f"the share that is rounded first must be within 0..1, got {how.share}")
    if how.finish not in ("gptq", "nearest"):
        raise ValueError(f'the finish is "gptq" or "nearest", got {how.finish!r}')
    pruned = weight if mask.all() else masked_least_squares(gram, weight, mask, ridge=how.damping)
    steps = scale(pruned) if callable(scale) else scale
    order, count = order_of(gram, how.order), int(how.share * weight.shape[1])
    first, rest = order[:count], order[count:]
    spread = spread_out(steps, weight.shape[1], how.block)
    found = np.zeros(weight.shape)
    if len(first):
        found[:, first] = nearest(pruned[:, first], spread[:, first], grid, 1, mask[:, first])
    if len(rest):
        left = made_up_for(weight, gram, found, mask, rest, how.damping) if len(first) else pruned
        finish = nearest if how.finish == "nearest" else _gptq_of(gram, rest, how.damping)
        found[:, rest] = finish(left[:, rest], spread[:, rest], grid, 1, mask[:, rest])
    return Compensated(nearest(found.astype(working(weight.dtype)), steps, grid, how.block), steps)


def made_up_for(weight: Floats, gram: Floats, fixed: Floats, mask: Mask, free: Indices, damping: float = 0.01) -> Array:
    """A weight of which some columns are fixed, and the others the best that they can be then.

    Args:
        weight: W [r, c], what the rows should be.
        gram: H [c, c] of the inputs.
        fixed: [r, c] what the columns are that are not free.
        mask: [r, c] True where an entry may be other than zero.
        free: columns whose entries within the mask are chosen: w_R + H_RR^-1 H_RE (w_E - fixed_E).
        damping: added to the diagonal of the Gram, relative to its mean.

    Returns:
        [r, c] float64.
    """
    chosen = np.zeros(weight.shape, np.bool_)
    chosen[:, free] = mask[:, free]
    at_rest = np.where(_columns(free, weight.shape[1]), 0.0, fixed)
    # What is fixed leaves its errors to the others: they are to be W, these errors.
    return at_rest + masked_least_squares(gram, weight - at_rest, chosen, ridge=damping)


def _columns(columns: Indices, count: int) -> Mask:
    among = np.zeros(count, np.bool_)
    among[columns] = True
    return among


def _gptq_of(gram: Floats, part: Indices, damping: float) -> Finish:
    """GPTQ on some of the columns, in the order given, damped as the whole is."""
    diagonal = gram.diagonal().astype(np.float64)
    own = float(diagonal[part].mean())
    if len(part) < len(gram) and own > 0:
        damping *= float(diagonal.mean()) / own
    made = Ordered(factor(gram[np.ix_(part, part)], damping, np.float32), np.arange(len(part)))

    def finish(weight: Floats, scale: Floats, grid: Grid, block: int | None, mask: Mask | None) -> Floats:
        return gptq(weight, made, scale, grid, block, mask)

    return finish
