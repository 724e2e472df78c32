"""Channels of layers in a row are rescaled until their weights have ranges alike: cross-layer equalization.

Where what lies between two layers is positively homogeneous, f(x / s) = f(x) / s for s > 0 (identity, ReLU, PReLU;
not ReLU6, SiLU or GELU), row j of the first weight and its bias may be divided by s_j and column j of the second
multiplied by it. Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction",
sections 4.1 and 4.2.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[Any]
Array: TypeAlias = npt.NDArray[np.float64]

TOLERANCE, ROUNDS = 1e-6, 1000
"""Pair after pair is done when no scale changes by more than this, relative; the most rounds it takes."""


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
