"""Scales that move what is hard to quantize from activations to weights, or protect the weights that matter.

Input j of a layer is divided by s_j and column j of its weight multiplied by it, which leaves the layer as it was:
W X = (W diag(s)) (diag(s)^-1 X). SmoothQuant (Xiao et al. 2023, "SmoothQuant: Accurate and Efficient Post-Training
Quantization for Large Language Models", section 4) takes what makes both sides' ranges alike, AWQ (Lin et al. 2024,
"AWQ: Activation-aware Weight Quantization", section 3) what makes weights of large inputs round well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[Any]
Array: TypeAlias = npt.NDArray[np.float64]

ALPHAS = tuple(round(0.05 * step, 2) for step in range(20))
"""The exponents that AWQ tries: 20 from 0 below 1."""

FLOOR = 1e-5
"""What ranges are raised to, relative to the largest: a channel that hardly ever fires is not blown up."""

#: Least scale of AWQ.
_LEAST = 1e-4

Rounding: TypeAlias = Callable[[Floats], Floats]
"""A weight [r, c] to what it becomes on its grid, as real numbers [r, c]."""


def column_ranges(weights: Sequence[Floats]) -> Array:
    """The largest magnitude of each column [c] over all the weights [r_i, c] that read it."""
    largest = [np.abs(weight).max(axis=0, initial=0.0).astype(np.float64) for weight in weights]
    return np.asarray(np.max(largest, axis=0))


def smooth_scales(inputs: Floats, weights: Floats, alpha: float = 0.5) -> Array:
    """SmoothQuant's scales s = inputs^alpha / weights^(1 - alpha), 1 for channels that are always zero on a side.

    With alpha 0.5 both sides get the range sqrt(inputs * weights); with 1, all inputs get the range 1; with 0, all
    columns of the weights.

    Args:
        inputs: [c] max |X_j| over the calibration data.
        weights: [c] max |W_ij| over all that read it (`column_ranges`).
        alpha: how much of the difficulty moves to the weights, 0..1.

    Raises:
        ValueError: alpha is not within 0..1, the shapes differ, or a range is negative, NaN or infinite.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be within 0..1, got {alpha}")
    inputs, weights = _raised(inputs, "inputs"), _raised(weights, "weights")
    if inputs.shape != weights.shape:
        raise ValueError(f"{inputs.shape} ranges of inputs do not fit {weights.shape} of weights")
    alive = (inputs > 0) & (weights > 0)
    return np.where(alive, np.where(alive, inputs, 1) ** alpha / np.where(alive, weights, 1) ** (1 - alpha), 1.0)


def awq_scales(sizes: Floats, alpha: float, weights: Floats | None = None) -> Array:
    """AWQ's scales s = sizes^alpha, over sqrt(max s * min s), so that they lie around 1.

    Args:
        sizes: [c] mean |X_j|, or its root mean square.
        alpha: 0 leaves all as it is.
        weights: [c] ranges of columns, for s = sizes^alpha / weights^(1 - alpha); None leaves them out.

    Raises:
        ValueError: alpha is not within 0..1, the shapes differ, or a size is negative, NaN or infinite.
    """
    if weights is not None:
        scales = smooth_scales(sizes, weights, alpha)
    else:
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be within 0..1, got {alpha}")
        sizes = _raised(sizes, "inputs")
        scales = np.where(sizes > 0, sizes, 1.0) ** alpha
    if not len(scales):
        return scales
    found: Array = np.maximum(scales / np.sqrt(scales.max() * scales.min()), _LEAST)
    return found


@dataclass(frozen=True)
class Migration:
    """What a search for scales found.

    Attributes:
        alpha: the exponent.
        scales: [c] that inputs are divided by and columns multiplied by.
        error: of the outputs, in the search's own measure; `before` is that of scales 1.
        before: see `error`.
    """

    alpha: float
    scales: Array
    error: float
    before: float


def awq_search(
    gram: Floats, sizes: Floats, weights: Sequence[Floats], rounding: Rounding, alphas: Sequence[float] = ALPHAS
) -> Migration:
    """The exponent of AWQ whose scales leave the least error of the outputs, sum tr(D H D^T), D = Q(W s) / s - W.

    Scales 1 are always among those tried, so that the error is never more than that of rounding alone.

    Args:
        gram: H [c, c] of the inputs.
        sizes: [c] mean |X_j|.
        weights: [r_i, c] of all that read the inputs.
        rounding: how a weight becomes one on the grid, with scales of its own.
        alphas: exponents that are tried.

    Raises:
        ValueError: the shapes do not fit, an exponent is not within 0..1, or a size is negative, NaN or infinite.
    """
    before = rounding_error(gram, weights, np.ones(len(gram)), rounding)
    best = Migration(0.0, np.ones(len(gram)), before, before)
    for alpha in alphas:
        scales = awq_scales(sizes, alpha)
        error = rounding_error(gram, weights, scales, rounding) if alpha else before
        if error < best.error:
            best = Migration(alpha, scales, error, before)
    return best


@dataclass(frozen=True)
class Inputs:
    """What is known of the inputs X [c, N] of layers.

    Attributes:
        gram: H = X X^T [c, c].
        count: N.
        ranges: [c] max |X_j|.
        levels: codes on one side of the grid of the activations, one scale for all of X: 127 for INT8. None where
            they stay floating point.
    """

    gram: Floats
    count: float
    ranges: Floats
    levels: float | None = 127.0


def smooth_search(
    inputs: Inputs, weights: Sequence[Floats], rounding: Rounding, alphas: Sequence[float] = ALPHAS
) -> Migration:
    """The exponent of SmoothQuant that leaves the least error of the outputs, of weights and of activations together.

    That of the weights is exact on the Gram, as in `awq_search`. Activations are rounded with steps of
    max(ranges / s) / levels, taken as independent errors of step^2 / 12 (Widrow and Kollar 2008, "Quantization Noise",
    chapter 1), which columns of size |W_j| s_j pass on. Scales 1 are always among those tried.

    Raises:
        ValueError: the shapes do not fit, an exponent is not within 0..1, or a range is negative, NaN or infinite.
    """
    columns = column_ranges(weights)
    before = migration_error(inputs, weights, np.ones(len(columns)), rounding)
    best = Migration(0.0, np.ones(len(columns)), before, before)
    for alpha in alphas:
        scales = smooth_scales(inputs.ranges, columns, alpha)
        found = migration_error(inputs, weights, scales, rounding)
        if found < best.error:
            best = Migration(alpha, scales, found, before)
    return best


def migration_error(inputs: Inputs, weights: Sequence[Floats], scales: Floats, rounding: Rounding) -> float:
    """What rounding weights and activations costs the outputs with columns scaled by s, as `smooth_search` counts it.

    Raises:
        ValueError: a weight has not as many columns as the Gram.
    """
    noise = 0.0
    if inputs.levels is not None:
        energies = np.sum([np.einsum("rc,rc->c", weight, weight, dtype=np.float64) for weight in weights], axis=0)
        step = float((inputs.ranges / scales).max(initial=0.0)) / inputs.levels
        noise = inputs.count * step**2 / 12 * float(energies @ scales**2)
    return noise + rounding_error(inputs.gram, weights, scales, rounding)


def rounding_error(gram: Floats, weights: Sequence[Floats], scales: Floats, rounding: Rounding) -> float:
    """sum_i tr(D_i H D_i^T) with D_i = Q(W_i s) / s - W_i: what rounding costs the outputs with columns scaled by s.

    Raises:
        ValueError: a weight has not as many columns as the Gram.
    """
    total = 0.0
    for weight in weights:
        if weight.shape[1] != len(gram):
            raise ValueError(f"a weight of shape {weight.shape} does not fit a Gram of {len(gram)} columns")
        scaled = weight * scales.astype(weight.dtype)
        # Both of the scaled weight, so that rounding errors of the scaling itself are none of it.
        change = (rounding(scaled) - scaled) / scales
        change = change.astype(np.result_type(gram.dtype, np.float32), copy=False)
        total += float(np.einsum("rc,rc->", change @ gram, change, dtype=np.float64))
    return total


def _raised(ranges: Floats, what: str) -> Array:
    """Ranges in float64, none above zero smaller than `FLOOR` times the largest."""
    if not (np.isfinite(ranges) & (ranges >= 0)).all():
        raise ValueError(f"ranges of {what} are negative, NaN or infinite, expected finite numbers >= 0")
    raised = np.maximum(ranges.astype(np.float64), FLOOR * float(ranges.max(initial=0.0)))
    return np.where(ranges > 0, raised, 0.0)
