"""Fewer bits or fewer weights: what either costs, by measure, and at the very least.

Kuzmin et al. 2023, "Pruning vs Quantization: Which is Better?", sections 3 and 4. A weight of 16 bits that is rounded
to b bits is as large as one of which the share b / 16 stays, masks not counted; `stored_bits` counts them too. The
measure is the signal to quantization noise ratio, 10 log10(E w^2 / E (w - w')^2) decibels, of weights or of outputs.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigvalsh
from scipy.stats import kurtosis as _kurtosis

from secateur.calib.solvers.gptq import row_errors
from secateur.calib.solvers.grids import Grid, nearest
from secateur.calib.solvers.masked_least_squares import masked_least_squares

Floats: TypeAlias = npt.NDArray[Any]
Array: TypeAlias = npt.NDArray[np.float64]

FULL_BITS = 16
"""Of a weight before anything is done to it."""

#: Up to so many columns, all masks of a row are tried.
_ENUMERATED = 16


def sqnr(weight: Floats, changed: Floats, gram: Floats | None = None) -> float:
    """Signal to noise in decibels: of weights [r, c], or, with the Gram [c, c] of the inputs, of the outputs.

    Infinite where nothing changed, -infinite where there was nothing.

    Raises:
        ValueError: the shapes do not fit.
    """
    if gram is None:
        if weight.shape != changed.shape:
            raise ValueError(f"weights {weight.shape} and {changed.shape} do not have the same shape")
        signal = float(np.sum(np.square(weight, dtype=np.float64)))
        noise = float(np.sum(np.square(np.subtract(weight, changed, dtype=np.float64))))
    else:
        signal = float(row_errors(gram, weight, np.zeros_like(weight)).sum())
        noise = float(row_errors(gram, weight, changed).sum())
    return decibels(noise / signal) if signal > 0 else (np.inf if noise <= 0 else -np.inf)


def decibels(error: float) -> float:
    """An error relative to the signal, both squared, to a ratio in decibels; infinite for none."""
    return float(-10 * np.log10(error)) if error > 0 else np.inf


def kurtosis(weight: Floats) -> float:
    """Excess kurtosis of all entries, biased (Fisher): 0 of a normal distribution; heavy tails have more.

    The paper's predictor: pruning is ahead where it is large and bits are few. 0 where all entries are equal.
    """
    exact = weight.astype(np.float64).ravel()
    return float(_kurtosis(exact)) if len(exact) and np.ptp(exact) > 0 else 0.0


def same_size(bits: float, stored: bool = False, zeros: float = 0.0) -> float:
    """The share of weights of 16 bits that may stay for these to be as large as all of them in so many bits.

    Args:
        bits: of a quantized weight.
        stored: whether the bitmap of the mask, one bit a weight, is counted; the paper does not.
        zeros: share of the codes that are zero all the same, which a pruned weight would have for nothing: the paper's
            correction for natural sparsity.

    Returns:
        within 0..1.
    """
    return float(np.clip((1 - zeros) * (bits - (1 if stored else 0)) / FULL_BITS, 0, 1))


def stored_bits(
    bits: float = FULL_BITS,
    pattern: tuple[int, int] | None = None,
    share: float | None = None,
    block: int | None = None,
    scale_bits: float = 16,
) -> float:
    """Bits that a weight takes on average, with scales of blocks and where its zeros are.

    Args:
        bits: of what is stored of it.
        pattern: N of M are stored, and 2 bits of place for each (M = 4), log2 M in general.
        share: that is stored anywhere, and a bitmap.
        block: weights that share a scale; None where scales are as few as rows.
        scale_bits: of such a scale.

    Raises:
        ValueError: it has both a pattern and a share.
    """
    if pattern is not None and share is not None:
        raise ValueError("zeros lie in a pattern or anywhere, not both")
    total = float(bits)
    if pattern is not None:
        keep, group = pattern
        total = (bits + np.log2(group)) * keep / group
    elif share is not None:
        total = bits * share + 1
    return float(total + (scale_bits / block if block else 0))


def smallest_energy(gram: Floats | None) -> float:
    """The smallest eigenvalue of a Gram [c, c], less what rounding errors may have added, at least 0; 1 for none.

    Whatever becomes of a row, its error is at least that times the squared change of its weights.
    """
    if gram is None:
        return 1.0
    values = eigvalsh(gram.astype(np.float64))
    return max(float(values[0]) - float(np.finfo(np.float64).eps) * len(values) * float(values[-1]), 0.0)


def least_rounding(smallest: float, weight: Floats, scale: Floats, grid: Grid, block: int | None = None) -> Array:
    """What rounding each row to a grid costs at least [r]: `smallest_energy` times the squared distances to it."""
    exact = weight.astype(np.float64)
    away = exact - nearest(exact, scale, grid, block)
    bound: Array = smallest * np.einsum("rc,rc->r", away, away)
    return bound


def least_pruning(smallest: float, weight: Floats, kept: int) -> Array:
    """What keeping so many weights of each row costs at least [r], whatever mask they have and become.

    `smallest_energy` times the sum of the smallest w^2.

    Raises:
        ValueError: not so many can stay.
    """
    _check_kept(weight, kept)
    squares = np.sort(np.square(weight, dtype=np.float64), axis=1)
    bound: Array = smallest * squares[:, : weight.shape[1] - kept].sum(axis=1)
    return bound


def exact_pruning(gram: Floats, weight: Floats, kept: int) -> Array:
    """The least error of each row [r] over all masks that keep so many weights, each with its least squares.

    Args:
        gram: H [c, c], not damped.
        weight: W [r, c] of at most 16 columns.
        kept: how many of a row stay.

    Raises:
        ValueError: not so many can stay, or there are too many columns.
    """
    _check_kept(weight, kept)
    rows, columns = weight.shape
    if columns > _ENUMERATED:
        raise ValueError(f"all masks of {columns} columns are too many to try, expected at most {_ENUMERATED}")
    least = np.full(rows, np.inf)
    for stay in combinations(range(columns), kept):
        mask = np.zeros(weight.shape, np.bool_)
        mask[:, list(stay)] = True
        best = masked_least_squares(gram, weight, mask, ridge=0.0)
        least = np.minimum(least, row_errors(gram, weight, best))
    return least


def _check_kept(weight: Floats, kept: int) -> None:
    if not 0 <= kept <= weight.shape[1]:
        raise ValueError(f"of {weight.shape[1]} columns, {kept} cannot stay")
