"""Scales that move what is hard to quantize from activations to weights, or protect the weights that matter.

Input j of a layer is divided by s_j and column j of its weight multiplied by it, which leaves the layer as it was:
W X = (W diag(s)) (diag(s)^-1 X). SmoothQuant (Xiao et al. 2023, "SmoothQuant: Accurate and Efficient Post-Training
Quantization for Large Language Models", section 4) takes what makes both sides' ranges alike, AWQ (Lin et al. 2024,
"AWQ: Activation-aware Weight Quantization", section 3) what makes weights of large inputs round well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
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


def column_ranges(weight: Floats) -> Array:
    """The largest magnitude of each column [c] of a weight [r, c]."""
    largest: Array = np.abs(weight).max(axis=0, initial=0.0).astype(np.float64)
    return largest


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


def awq_scales(sizes: Floats, alpha: float) -> Array:
    """AWQ's scales s = sizes^alpha, over sqrt(max s * min s), so that they lie around 1.

    Args:
        sizes: [c] mean |X_j|, or its root mean square.
        alpha: 0 leaves all as it is.

    Raises:
        ValueError: alpha is not within 0..1, or a size is negative, NaN or infinite.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be within 0..1, got {alpha}")
    sizes = _raised(sizes, "inputs")
    scales = np.where(sizes > 0, sizes, 1.0) ** alpha
    if not len(scales):
        return scales
    found: Array = np.maximum(scales / np.sqrt(scales.max() * scales.min()), _LEAST)
    return found


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


@dataclass(frozen=True)
class Reader:
    """A layer: its weight [r, c], what it reads, and which of the scales each of its columns takes.

    Attributes:
        weight: W.
        inputs: X.
        numbers: [c] places in the scales.
    """

    weight: Floats
    inputs: Inputs
    numbers: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Migration:
    """What a search for scales found.

    Attributes:
        alpha: the exponent.
        scales: [n] that inputs are divided by and columns multiplied by.
        error: of the outputs, over their energy; `before` is that of scales 1.
        before: see `error`.
    """

    alpha: float
    scales: Array
    error: float
    before: float


def best_migration(
    readers: Sequence[Reader],
    candidates: Iterable[tuple[float, Array]],
    rounding: Rounding,
    count: int,
    sample: int | None = None,
) -> Migration:
    """Of scales (exponent, [n]), those that leave the least error of the outputs of all who read them together.

    Scales 1 are held against what is found, so that the error is never more than that of rounding alone.

    Args:
        readers: all that read the scaled inputs.
        candidates: exponents with their scales.
        rounding: how a weight becomes one on the grid, with scales of its own.
        count: n.
        sample: outputs of a layer by which candidates are tried, at most; the best of them is held against scales 1
            by all outputs. None takes all at once.

    Raises:
        ValueError: the shapes do not fit.
    """
    steps = [-(-len(one.weight) // sample) if sample else 1 for one in readers]
    some = [replace(one, weight=one.weight[::step]) for one, step in zip(readers, steps, strict=True)]
    plain = (0.0, np.ones(count))
    alpha, scales = min([plain, *candidates], key=lambda one: _summed(some, one[1], rounding))
    energy = sum(
        float(np.einsum("rc,rc->", one.weight @ one.inputs.gram, one.weight, dtype=np.float64)) for one in readers
    )
    before = _summed(readers, plain[1], rounding) / (energy or 1.0)
    after = before if scales is plain[1] else _summed(readers, scales, rounding) / (energy or 1.0)
    return Migration(alpha, scales, after, before) if after < before else Migration(*plain, before, before)


def _summed(readers: Sequence[Reader], scales: Array, rounding: Rounding) -> float:
    return sum(migration_error(one, scales, rounding) for one in readers)


def migration_error(reader: Reader, scales: Floats, rounding: Rounding) -> float:
    """What rounding a weight and what it reads costs the outputs with columns scaled by s.

    That of the weight is exact, tr(D H D^T) with D = Q(W s) / s - W. Activations are rounded with steps of
    max(ranges / s) / levels, taken as independent errors of step^2 / 12 (Widrow and Kollar 2008, "Quantization Noise",
    chapter 1), which columns of size |W_j| s_j pass on.

    Args:
        reader: the layer.
        scales: [n], of which each column takes its own.
        rounding: how a weight becomes one on the grid.

    Raises:
        ValueError: the weight has not as many columns as the Gram.
    """
    weight, inputs, own = reader.weight, reader.inputs, scales[reader.numbers]
    if weight.shape[1] != len(inputs.gram):
        raise ValueError(f"a weight of shape {weight.shape} does not fit a Gram of {len(inputs.gram)} columns")
    noise = 0.0
    if inputs.levels is not None:
        step = float((inputs.ranges / own).max(initial=0.0)) / inputs.levels
        energies = np.einsum("rc,rc->c", weight, weight, dtype=np.float64)
        noise = inputs.count * step**2 / 12 * float(energies @ own**2)
    scaled = weight * own.astype(weight.dtype)
    # Both of the scaled weight, so that rounding errors of the scaling itself are none of it.
    change = (rounding(scaled) - scaled) / own
    change = change.astype(np.result_type(inputs.gram.dtype, np.float32), copy=False)
    return noise + float(np.einsum("rc,rc->", change @ inputs.gram, change, dtype=np.float64))


def _raised(ranges: Floats, what: str) -> Array:
    """Ranges in float64, none above zero smaller than `FLOOR` times the largest."""
    if not (np.isfinite(ranges) & (ranges >= 0)).all():
        raise ValueError(f"ranges of {what} are negative, NaN or infinite, expected finite numbers >= 0")
    raised = np.maximum(ranges.astype(np.float64), FLOOR * float(ranges.max(initial=0.0)))
    return np.where(ranges > 0, raised, 0.0)
