"""What rounding weights does to the mean of outputs, and the bias that takes it back.

Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2 and appendix B.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

Floats: TypeAlias = npt.NDArray[Any]
Array: TypeAlias = npt.NDArray[np.float64]


def bias_shift(before: Floats, after: Floats, means: Floats) -> Array:
    """What is to be added to the bias [r] so that the mean output stays: (before - after) E[x].

    Args:
        before: [r, c] the weight as it was.
        after: [r, c] as it is used now.
        means: [c] E[x], of the inputs as they are now.
    """
    shift: Array = (before.astype(np.float64) - after) @ means.astype(np.float64)
    return shift


def clipped_mean(mean: Floats, deviation: Floats, lower: float = 0.0, upper: float = np.inf) -> Array:
    """E[clip(x, lower, upper)] [n] of normal x: behind a batch normalization (beta, gamma) and a ReLU or ReLU6.

    Args:
        mean: [n] beta.
        deviation: [n] gamma, of either sign; 0 for a constant.
        lower: 0 for a ReLU, -infinity for none.
        upper: infinity for a ReLU, 6 for a ReLU6.
    """
    center, spread = mean.astype(np.float64), np.abs(deviation).astype(np.float64)
    safe = np.where(spread > 0, spread, 1.0)
    low, high = (lower - center) / safe, (upper - center) / safe
    inside = norm.cdf(high) - norm.cdf(low)
    found = center * inside + safe * (norm.pdf(low) - norm.pdf(high))
    # Nothing lies beyond infinity; infinity times zero would be NaN.
    if np.isfinite(lower):
        found = found + lower * norm.cdf(low)
    if np.isfinite(upper):
        found = found + upper * norm.sf(high)
    return np.where(spread > 0, found, np.clip(center, lower, upper))
