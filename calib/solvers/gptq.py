"""GPTQ: columns are rounded one after another, and those that follow make up for it.

Frantar et al. 2023, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", section 3, on
`column_sweep`. Scales are fixed before ("static groups"), so that columns can be taken in the order of the size of
their inputs ("act-order") while blocks stay neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from secateur.calib.solvers.column_sweep import Factor, both, column_sweep, factor, fixed, rounded
from secateur.calib.solvers.grids import Grid, count_blocks, nearest, working

Floats: TypeAlias = npt.NDArray[Any]
Mask: TypeAlias = npt.NDArray[np.bool_]
Indices: TypeAlias = npt.NDArray[np.intp]

Order: TypeAlias = Literal["activation", "natural"]
"""Columns with the largest inputs first, while many are left to make up for them; or as they lie."""


@dataclass(frozen=True)
class Ordered:
    """The Gram of a layer's inputs, factorized for sweeps in some order of the columns, for all that reads them.

    Attributes:
        factor: of the Gram with its columns in that order.
        order: [c] the columns, in the order in which they are rounded.
    """

    factor: Factor
    order: Indices


def ordered(
    gram: Floats, order: Order = "activation", damping: float = 0.01, dtype: npt.DTypeLike = np.float32
) -> Ordered:
    """Factorizes a Gram [c, c] for `gptq`.

    Args:
        gram: H = X X^T of the inputs.
        order: of the columns.
        damping: what is added to the diagonal, relative to its mean.
        dtype: float32, or float64 for half the speed; which weights come out differs where two codes are as good.

    Raises:
        ValueError: the order is unknown, or it is no Gram (see `column_sweep.factor`).
    """
    columns = order_of(gram, order)
    return Ordered(factor(gram if order == "natural" else gram[np.ix_(columns, columns)], damping, dtype), columns)


def order_of(gram: Floats, order: Order) -> Indices:
    """The columns [c] of a Gram in an order; of equals the earlier comes first.

    Raises:
        ValueError: the order is unknown.
    """
    if order not in ("activation", "natural"):
        raise ValueError(f'the order is "activation" or "natural", got {order!r}')
    if order == "natural":
        return np.arange(len(gram))
    return np.argsort(-gram.diagonal(), kind="stable")


def gptq(
    weight: Floats,
    gram: Floats | Ordered,
    scale: Floats,
    grid: Grid,
    block: int | None = None,
    mask: Mask | None = None,
) -> Floats:
    """A weight on a grid whose outputs are near to what they were: small tr((W - Q) H (W - Q)^T).

    It is no least error, not even always less than that of rounding to the nearest: see `better_of`.

    Args:
        weight: W [r, c].
        gram: H [c, c], or what `ordered` made of it, once for all weights that read the same inputs.
        scale: [r, n] of each row or each `block` of columns.
        grid: what codes can be.
        block: columns that share a scale; None for all of a row.
        mask: [r, c] True where an entry may be other than zero; all of them if None.

    Returns:
        [r, c] float32 (float64 for such weights), on the grid; zero outside of the mask.

    Raises:
        ValueError: the shapes do not fit, a weight is not finite, or it is no Gram.
    """
    made = gram if isinstance(gram, Ordered) else ordered(gram)
    columns = weight.shape[-1]
    if len(made.order) != columns or scale.shape != (len(weight), count_blocks(columns, block)):
        raise ValueError(
            f"a weight of shape {weight.shape}, scales {scale.shape} and a Gram of {len(made.order)} columns do not fit"
        )
    choice = rounded(_rounding(scale, grid, made.order // block if block else np.zeros_like(made.order), made.factor))
    if mask is not None:
        choice = both(fixed(mask[:, made.order]), choice)
    swept = column_sweep(weight[:, made.order], made.factor, choice)
    found = np.empty(weight.shape, working(weight.dtype))
    found[:, made.order] = swept.weight
    # On the grid to the last bit, whatever the sweep calculated in.
    return nearest(found, scale, grid, block)


def _rounding(scale: Floats, grid: Grid, groups: Indices, made: Factor) -> Callable[[Floats, int], Floats]:
    """What a column of values [r] becomes that is the n-th to be rounded; `groups` [c] says whose scale it has."""
    steps = np.ascontiguousarray(scale.T, dtype=made.lower.dtype)

    def round_column(values: Floats, column: int) -> Floats:
        step = steps[groups[column]]
        near: Floats = values / step
        grid.snap(near)
        near *= step
        return near

    return round_column


@dataclass(frozen=True)
class Best:
    """The best of several weights, row by row.

    Attributes:
        weight: [r, c].
        which: [r] the candidate that each row is of.
        errors: [r] (w - q) H (w - q)^T.
    """

    weight: Floats
    which: Indices
    errors: npt.NDArray[np.float64]


def better_of(gram: Floats, weight: Floats, candidates: Sequence[Floats]) -> Best:
    """Of each row the candidate that leaves the least error (w - q) H (w - q)^T; of equals the earlier.

    Rows do not share inputs' errors, so that each may be of another candidate. Where candidates have scales of their
    own, these are to be taken of `which` as well.

    Args:
        gram: H [c, c] of the inputs, not damped.
        weight: W [r, c] what the rows should be.
        candidates: [r, c] each.

    Raises:
        ValueError: there is no candidate, or the shapes do not fit.
    """
    if not candidates:
        raise ValueError("there is no candidate to choose from")
    errors = np.stack([row_errors(gram, weight, candidate) for candidate in candidates])
    which = np.argmin(errors, axis=0)
    best = np.array(candidates[0])
    for number, candidate in enumerate(candidates[1:], start=1):
        best[which == number] = candidate[which == number]
    return Best(best, which, np.min(errors, axis=0))


def row_errors(gram: Floats, weight: Floats, rounded: Floats) -> npt.NDArray[np.float64]:
    """(w - q) H (w - q)^T of each row [r], in the precision of the Gram.

    Raises:
        ValueError: the shapes do not fit.
    """
    if weight.shape != rounded.shape or gram.shape != (weight.shape[-1],) * 2:
        raise ValueError(f"weights {weight.shape} and {rounded.shape} do not fit a Gram of shape {gram.shape}")
    change = np.subtract(weight, rounded, dtype=working(gram.dtype))
    errors: npt.NDArray[np.float64] = np.einsum("rc,rc->r", change @ gram, change, dtype=np.float64)
    return errors
