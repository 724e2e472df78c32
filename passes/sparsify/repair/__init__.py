"""The repair axis: new numbers for the weights that a mask keeps. One small file for each way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from secateur.passes.layers.problem import Array, Mask, Problem
from secateur.passes.prune.choices import Choices


@dataclass(frozen=True)
class Repaired:
    """What a layer has when only some of its weights stay.

    Attributes:
        matrix: [outputs, columns], zero outside the mask.
        bias: [outputs], or None where the layer takes none or the repair leaves it alone.
        error: squared error on the held-out samples divided by the variance of the target, 1 - R²; None without data.
        unrepaired: the same without any repair.
    """

    matrix: Array
    bias: Array | None
    error: float | None = None
    unrepaired: float | None = None


Repair: TypeAlias = Callable[[Problem, Mask], Repaired]
"""(problem, mask) to what the layer has from then on."""


def masked(problem: Problem, mask: Mask) -> Array:
    """The weights as they were, zero outside the mask."""
    return np.where(mask, problem.weight, 0.0)


def judged(problem: Problem, mask: Mask, candidates: Sequence[tuple[Array, Array | None]]) -> Repaired:
    """The candidate (matrix, bias) that does best on the held-out samples.

    The old weights and bias are always among them; without data they stay.
    """
    everything = [*candidates, (masked(problem, mask), problem.bias)]
    if problem.evidence is None:
        return Repaired(*everything[-1])
    which, errors = problem.judge(everything)
    return Repaired(*everything[which], errors[which], errors[-1])


_TABLE: Mapping[str, str] = MappingProxyType(
    {
        "bias": "secateur.passes.sparsify.repair.bias:bias",
        "least-squares": "secateur.passes.sparsify.repair.least_squares:refit",
        "none": "secateur.passes.sparsify.repair.none:none",
        "scale": "secateur.passes.sparsify.repair.scale:scale",
        "sweep": "secateur.passes.sparsify.repair.sweep:sweep",
    }
)

REPAIRS: Choices[Repair] = Choices("sparsify_repair", _TABLE)
"""By name; other packages add theirs under the entry point group `secateur.sparsify_repair`."""

DATA_FREE = frozenset({"none"})
"""Those that look at weights only."""

LEAVES_BIAS = frozenset({"none", "sweep"})
"""Those that touch no bias, so that the means of inputs have to be made up for by weights."""
