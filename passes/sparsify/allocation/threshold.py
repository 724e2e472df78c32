"""One threshold for all weights of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.passes.layers.problem import Problem
from secateur.passes.sparsify.allocation import Wishes
from secateur.passes.sparsify.criteria import CRITERIA
from secateur.passes.sparsify.methods import Methods
from secateur.passes.sparsify.patterns import Dense, Pattern, Share

Saliencies: TypeAlias = NDArray[np.float32]

MOST = 0.95
"""No layer loses more than this share: without its last weights, a layer says nothing at all."""


@dataclass(frozen=True)
class Threshold:
    """The least salient weights go, in whichever layer they are; layers get different shares.

    Saliencies count relative to the mean of their layer, so that none outshouts another (as Lee et al. 2021,
    "Layer-adaptive Sparsity for the Magnitude-based Pruning", ICLR, make magnitudes comparable by other means).
    """

    over: Literal["weight", "block", "model"] = "model"
    needs_data: bool = False

    def check(self, wishes: Wishes) -> None:
        """Only shares can differ from layer to layer."""
        if not isinstance(wishes.pattern, Share):
            raise ValueError(f"allocation=global shares out zeros such as 50%, which {wishes.pattern} does not")
        if wishes.ladder or wishes.max_error:
            raise ValueError("ladder and max_error are what allocation=budget goes by")

    def measure(self, problem: Problem, methods: Methods, wishes: Wishes) -> Saliencies:
        """Sorted, divided by their mean."""
        found = CRITERIA[methods.criterion_of(problem)].saliency(problem).reshape(-1)
        finite = found[np.isfinite(found)]
        mean = float(finite.mean()) if len(finite) else 0.0
        relative = np.where(np.isfinite(found), found, 0.0) / (mean or 1.0)
        return np.sort(relative.astype(np.float32))

    def share(self, measured: Sequence[Saliencies], wishes: Wishes) -> list[Pattern]:
        """Each the share of its weights below the threshold, all together exactly what is asked for, caps apart."""
        pattern = wishes.pattern
        assert isinstance(pattern, Share)
        sizes = [len(one) for one in measured]
        goes = np.concatenate([np.zeros(0, np.float32), *(one[: int(MOST * len(one))] for one in measured)])
        owners = np.repeat(np.arange(len(measured)), [int(MOST * size) for size in sizes])
        wanted = min(int(sum(sizes) * pattern.share), len(goes))
        chosen = owners[np.argsort(goes, kind="stable")[:wanted]]
        counts = np.bincount(chosen, minlength=len(measured))
        return [
            Share(Fraction(int(count), size), pattern.scope) if count else Dense()
            for count, size in zip(counts, sizes, strict=True)
        ]


threshold = Threshold()
