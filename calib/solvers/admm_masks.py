"""Masks found together with the values they leave: the alternating direction method of multipliers.

Weights W minimise the error tr((W - T) H (W - T)^T), their copy Z fits the pattern, and a multiplier U pulls the two
together, harder from round to round (Boyd et al. 2011, "Distributed Optimization and Statistical Learning via the
Alternating Direction Method of Multipliers", section 9.1; for pruned weights Boza 2024, "Fast and Effective Weight
Update for Pruned Large Language Models", section 3, and Meng et al. 2024, "ALPS", section 3.2). Whether an entry stays
thus depends on what all others make up for, which neither a score nor a sweep from left to right sees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from secateur.calib.solvers.obs import damped_inverse

Array: TypeAlias = npt.NDArray[np.float64]
Floats: TypeAlias = npt.NDArray[Any]
Mask: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Schedule:
    """How hard copies are pulled together.

    Attributes:
        rounds: solves and projections.
        first: strength of the first, relative to the mean square of each input.
        growth: what it is multiplied by.
        every: rounds between two strengths; each needs an inverse of its own.
    """

    rounds: int = 40
    first: float = 0.2
    growth: float = 1.4
    every: int = 5


DEFAULT = Schedule()


def admm_mask(
    gram: Floats,
    target: Floats,
    keep: Callable[[Floats], Mask],
    start: Mask | None = None,
    ridge: float = 0.01,
    schedule: Schedule = DEFAULT,
) -> Mask:
    """The mask [r, c] for which `masked_least_squares`, with the same arguments, leaves a small error.

    Not the smallest there is, and not always smaller than that of `start`: compare both after the fit.

    Args:
        gram: H [c, c] of what the layer reads.
        target: T [r, c] what its rows should be.
        keep: from saliencies [r, c] the mask of a pattern: `element_masks.keep_of` or `keep_share` with its options.
        start: the mask that the copy begins with; None for what `keep` takes by Wanda's score.
        ridge: relative to the mean square of the inputs.
        schedule: rounds and strengths.

    Raises:
        ValueError: the shapes do not fit, or a number is NaN or infinite.
    """
    gram, target = np.asarray(gram), np.asarray(target)
    if target.ndim != 2 or gram.shape != (target.shape[1],) * 2:
        raise ValueError(f"a target of shape {target.shape} does not fit a Gram of shape {gram.shape}")
    for name, values in (("Gram", gram), ("target", target)):
        if not np.isfinite(values).all():
            raise ValueError(f"the {name} holds NaN or infinity, expected finite numbers")
    # Inputs of unit size: the magnitude of a weight is then Wanda's score.
    diagonal = gram.diagonal() + ridge * float(np.mean(gram.diagonal()))
    scale = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    system = gram / scale / scale[:, None]
    np.einsum("ii->i", system)[...] = 1.0
    # What is never read is worth nothing, however it is damped.
    target = np.where(gram.diagonal() > 0, target, 0.0)
    wanted = (target * scale).astype(np.float32)
    pull = ((target * scale) @ system).astype(np.float32)
    mask = keep(np.abs(wanted)) if start is None else start
    copy, multiplier, strength = wanted * mask, np.zeros_like(wanted), schedule.first
    for done in range(schedule.rounds):
        if done % schedule.every == 0:
            if done:
                strength *= schedule.growth
                multiplier /= schedule.growth
            inverse = _shifted_inverse(system, strength)
        np.subtract(copy, multiplier, out=copy)
        copy *= np.float32(strength)
        copy += pull
        # W + U, of which the copy is the nearest that fits the pattern.
        multiplier += copy @ inverse
        mask = keep(np.abs(multiplier))
        np.multiply(multiplier, mask, out=copy)
        multiplier -= copy
    return mask


def _shifted_inverse(system: Array, strength: float) -> npt.NDArray[np.float32]:
    shifted = system.copy()
    np.einsum("ii->i", shifted)[...] += strength
    return damped_inverse(shifted, 0.0).astype(np.float32)
