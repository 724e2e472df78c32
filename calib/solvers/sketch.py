"""What chance alone achieves: a row of weights kept by importance sampling, as a sanity check for masks.

Finding a mask for a linear layer is approximating the product w X from few of its terms (Bar, Litman and Giryes 2023,
"Pruning at Initialization - A Sketching Perspective"; Drineas, Kannan and Mahoney 2006, "Fast Monte Carlo Algorithms
for Matrices I", section 3.1): with s draws of j in proportion to p_j = |w_j| ||x_j|| / sum, the mean of
w_j x_j / p_j is right on the mean, with the least variance. A mask with fitted values that is worse is broken.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]


def expected_error(weight: Array, gram: Array, draws: int) -> Array:
    """[r] the expected squared error of `sketch` with so many draws: ((sum |w_j| ||x_j||)^2 - ||w X||^2) / draws.

    Args:
        weight: [r, c].
        gram: [c, c] X X^T of the inputs.
        draws: of each row, >= 1.

    Raises:
        ValueError: the shapes do not fit, or there are no draws.
    """
    importance = _importance(weight, gram, draws)
    energy = np.einsum("rc,rc->r", weight @ gram, weight)
    error: Array = np.maximum(importance.sum(axis=1) ** 2 - energy, 0.0) / draws
    return error


def sketch(weight: Array, gram: Array, draws: int, seed: int = 0) -> Array:
    """[r, c] each row from `draws` of its entries, with replacement, scaled so that the mean is the weight itself.

    At most `draws` entries of a row are not zero. Arguments as for `expected_error`.
    """
    importance, random = _importance(weight, gram, draws), np.random.default_rng(seed)
    total = importance.sum(axis=1, keepdims=True)
    share = np.divide(importance, total, out=np.zeros_like(importance), where=total > 0)
    # Rows without any effect have nothing to draw from.
    counts = np.zeros(weight.shape)
    some = np.flatnonzero(total[:, 0] > 0)
    counts[some] = random.multinomial(draws, share[some])
    sampled: Array = np.divide(counts * weight, draws * share, out=np.zeros(weight.shape), where=share > 0)
    return sampled


def randomized(saliency: Array, seed: int = 0) -> Array:
    """Saliencies whose largest k are k entries drawn without replacement, in proportion to those given, one by one.

    Efraimidis and Spirakis 2006, "Weighted random sampling with a reservoir": log u / saliency, with u uniform. Masks
    that were the best become masks that are probable; entries of saliency zero come last, the earlier first.

    Raises:
        ValueError: a saliency is negative or not finite.
    """
    if not (np.isfinite(saliency).all() and (saliency >= 0).all()):
        raise ValueError("saliencies to draw by must be finite and >= 0")
    waits = np.random.default_rng(seed).exponential(size=saliency.shape)
    np.negative(waits, out=waits)
    keys: Array = np.divide(waits, saliency, out=np.full(saliency.shape, -np.inf), where=saliency > 0)
    return keys


def _importance(weight: Array, gram: Array, draws: int) -> Array:
    if weight.ndim != 2 or gram.shape != (weight.shape[1], weight.shape[1]):
        raise ValueError(f"a weight of shape {weight.shape} does not fit a Gram of shape {gram.shape}")
    if draws < 1:
        raise ValueError(f"a sketch needs at least one draw, got {draws}")
    importance: Array = np.abs(weight) * np.sqrt(np.maximum(gram.diagonal(), 0.0))
    return importance
