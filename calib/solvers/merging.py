"""Units as combinations of others, from the weights that make them: what pruning without data repairs with.

Unit i is activation(v_i . x + c_i), with rows v [size, entries] and shifts c [size]. What comes out are shares
[removed, kept]: how much of each kept unit stands in for a removed one.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from secateur.calib.solvers.least_squares import solve_positive

Array: TypeAlias = npt.NDArray[np.float64]
Indices: TypeAlias = npt.NDArray[np.int64]


def combinations(
    rows: Array, shifts: Array, removed: Indices, kept: Indices, shift_weight: float = 0.01, ridge: float = 0.008
) -> Array:
    """S [removed, kept] that minimises ||V - S V_K||^2 + shift_weight ||c - S c_K||^2 + ridge ||S||^2, in closed form.

    Bai et al. 2023, "Unified Data-Free Compression: Pruning and Quantization without Fine-Tuning", ICCV, with the
    weights of its experiments as defaults; `ridge` is relative to the mean square norm of the rows, so that S does not
    depend on their scale. Exact for linear activations: that of a sum is not the sum of activations.
    """
    both = np.concatenate([rows, np.sqrt(shift_weight) * shifts[:, None]], axis=1)
    basis = both[kept]
    gram = basis @ basis.T
    damped = gram + ridge * float(np.mean(gram.diagonal())) * np.eye(len(gram))
    shares: Array = solve_positive(damped, basis @ both[removed].T).T
    return shares


def best_matches(
    rows: Array, shifts: Array, removed: Indices, kept: Indices, blend: float = 0.85, threshold: float = 0.1
) -> Array:
    """S [removed, kept] with one positive share in each row at most: the ratio of norms to the most alike unit.

    Kim et al. 2020, "Neuron Merging: Compensating for Pruned Neurons", NeurIPS, section 3.2: alike is what differs
    little in direction (`blend`) and, scaled, in the shift (the rest). Positive shares go through a ReLU unharmed.
    Units that are less alike in direction than `threshold` are not merged.
    """
    norms = np.linalg.norm(rows, axis=1)
    safe = np.where(norms > 0, norms, 1.0)
    cosine = (rows[removed] / safe[removed, None]) @ (rows[kept] / safe[kept, None]).T
    ratio = norms[removed, None] / safe[kept]
    apart = np.abs(shifts[removed, None] - ratio * shifts[kept]) / safe[removed, None]
    distance = np.where(cosine >= threshold, blend * (1 - cosine) + (1 - blend) * apart, np.inf)
    distance[:, norms[kept] == 0] = np.inf
    shares = np.zeros(cosine.shape)
    if not distance.size:
        return shares
    best = np.argmin(distance, axis=1)
    found = np.flatnonzero(np.isfinite(distance[np.arange(len(best)), best]))
    shares[found, best[found]] = ratio[found, best[found]]
    return shares
