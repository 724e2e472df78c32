"""Channels of layers in a row are rescaled until their weights have ranges alike: cross-layer equalization.

Where what lies between two layers is positively homogeneous, f(x / s) = f(x) / s for s > 0 (identity, ReLU, PReLU;
not ReLU6, SiLU or GELU), row j of the first weight and its bias may be divided by s_j and column j of the second
multiplied by it. Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction",
sections 4.1 and 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[Any]
Array: TypeAlias = npt.NDArray[np.float64]

TOLERANCE, ROUNDS = 1e-6, 1000
"""A chain is done when no scale changes by more than this, relative; the most rounds it takes."""


def pair_scales(first: Floats, second: Floats) -> Array:
    """Scales [n] that give both sides the range sqrt(first * second); 1 for channels that are zero on a side.

    Args:
        first: [n] max |W1_j,:|, over all layers that write the channels.
        second: [n] max |W2_:,j|, over all that read them.

    Raises:
        ValueError: the shapes differ, or a range is negative, NaN or infinite.
    """
    first, second = _checked(first, second)
    alive = (first > 0) & (second > 0)
    return np.sqrt(np.where(alive, first, 1.0) / np.where(alive, second, 1.0))


def triplet_scales(first: Floats, depthwise: Floats, last: Floats) -> tuple[Array, Array]:
    """Scales s1, s2 [n] for a layer, a depthwise one and a layer: W1 / s1, W2 * s1 / s2, W3 * s2.

    All three ranges become (first * depthwise * last)^(1/3); channels that are zero anywhere keep theirs.

    Raises:
        ValueError: the shapes differ, or a range is negative, NaN or infinite.
    """
    first, depthwise, last = _checked(first, depthwise, last)
    alive = (first > 0) & (depthwise > 0) & (last > 0)
    one, two, three = (np.where(alive, ranges, 1.0) for ranges in (first, depthwise, last))
    return np.cbrt(one**2 / (two * three)), np.cbrt(one * two / three**2)


def chain_scales(weights: Sequence[Floats], tolerance: float = TOLERANCE, rounds: int = ROUNDS) -> list[Array]:
    """Scales of all channels between the layers of a chain, pair after pair until none of them changes.

    Args:
        weights: in order, |W| or W of each layer: [outputs, inputs], or [n] for a depthwise layer, the largest over its
            taps. What a layer writes, the next one reads.
        tolerance: the relative change of a scale below which it counts as settled.
        rounds: after so many, what is there is taken.

    Returns:
        s_i [n_i] for each two neighbours: rows of weight i are divided by s_i, columns of weight i + 1 multiplied.

    Raises:
        ValueError: a layer does not read as many channels as the one before writes, a weight is no matrix or vector,
            or is NaN or infinite.
    """
    sizes = [np.abs(weight).astype(np.float64) for weight in weights]
    for number, (before, after) in enumerate(pairwise(sizes)):
        if before.ndim not in (1, 2) or after.ndim not in (1, 2):
            raise ValueError(f"weights are matrices or vectors, got {before.shape} and {after.shape}")
        if before.shape[0] != after.shape[-1]:
            raise ValueError(f"layer {number} writes {before.shape[0]} channels, the next one reads {after.shape[-1]}")
    scales = [np.ones(len(weight)) for weight in sizes[:-1]]
    for _ in range(rounds):
        largest = 0.0
        for number, scale in enumerate(scales):
            before, after = sizes[number], sizes[number + 1]
            first = before if before.ndim == 1 else before.max(axis=1, initial=0.0)
            second = after if after.ndim == 1 else after.max(axis=0, initial=0.0)
            step = pair_scales(first, second)
            scale *= step
            before /= step if before.ndim == 1 else step[:, None]
            after *= step
            largest = max(largest, float(np.abs(np.log(step)).max(initial=0.0)))
        if largest < tolerance:
            break
    return scales


def powers_of_two(scales: Floats) -> Array:
    """The nearest powers of two, in ratio: with these, rescaled layers calculate exactly what they did before."""
    powers: Array = np.exp2(np.rint(np.log2(scales.astype(np.float64))))
    return powers


def absorbed(mean: Floats, deviation: Floats, deviations: float = 3.0) -> Array:
    """How much of each channel before a ReLU may move on into the next bias: max(0, mean - 3 deviation) [n].

    Exact wherever the channel stays above it, and where the next layer does not pad with zeros: b1 -= c, b2 += W2 c
    (`moved_on`). Nagel et al. 2019, section 4.1.3.

    Args:
        mean: [n] of the channel: beta of a batch normalization, or measured.
        deviation: [n] its standard deviation: gamma, of either sign.
        deviations: how many of them are left.
    """
    return np.maximum(mean.astype(np.float64) - deviations * np.abs(deviation), 0.0)


def moved_on(amount: Floats, weight: Floats) -> Array:
    """What the bias of the next layer gains [r] when its inputs lose `amount` [n]: W2 c.

    Args:
        amount: [n] as `absorbed` gives it.
        weight: [r, n, ...] of the next layer; taps are summed.
    """
    gained: Array = weight.reshape(*weight.shape[:2], -1).sum(axis=2, dtype=np.float64) @ amount.astype(np.float64)
    return gained


def _checked(*ranges: Floats) -> list[Array]:
    if len({one.shape for one in ranges}) > 1:
        raise ValueError(f"ranges have shapes {[one.shape for one in ranges]}, expected one for each channel")
    for one in ranges:
        if not (np.isfinite(one) & (one >= 0)).all():
            raise ValueError("ranges are negative, NaN or infinite, expected finite numbers >= 0")
    return [one.astype(np.float64) for one in ranges]
