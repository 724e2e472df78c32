"""Shares of zeros that are learned from Gram matrices: what a layer errs by itself has a gradient in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.passes.layers.problem import Problem
from secateur.passes.sparsify.allocation import Wishes
from secateur.passes.sparsify.allocation.rates import (
    CANDIDATES,
    Array,
    Belief,
    cuts,
    descend,
    penalty,
    ranks_of,
    slopes_at_beta,
)
from secateur.passes.sparsify.allocation.target import check_target, chosen, parse_said, pick, share_out
from secateur.passes.sparsify.criteria import CRITERIA
from secateur.passes.sparsify.methods import Methods
from secateur.passes.sparsify.patterns import Pattern, Share

PULL = 5.0
"""What missing the share of zeros costs, beside the errors of layers, as `besa` has it."""
STEPS, RATE = 300, 0.1
"""Of Adam: a step costs next to nothing."""
EVERY = 5
"""Gradients are taken at masks of every fifth rate."""


@dataclass(frozen=True)
class Curve:
    """What is known of a layer: how many weights it has, and at masks of some rates its error and gradient.

    Attributes:
        errors: [points] tr((W' - W) H (W' - W)^T) / tr(W H W^T).
        slopes: [points, candidates] straight-through gradients at beta; empty for N:M.
    """

    size: int
    errors: Array
    slopes: Array


Curves: TypeAlias = Sequence[Curve]


@dataclass(frozen=True)
class ClosedForm:
    """The layer-wise cousin of BESA (Xu et al. 2024): the same beliefs, but each layer errs by itself.

    Where J = tr((W' - W) H (W' - W)^T) with W' = W * M, dJ/dM_ij = 2 W_ij ((W' - W) H)_ij: no torch is needed, one look
    at the Gram matrix of each layer does. What errors of several layers come to together, which BESA's blocks are
    about, is not seen; they are added up over the whole model, each relative to what its layer gives. With N:M
    patterns the sum of errors is smallest where the layers that cost least for their size have it, dearest last.

    Attributes:
        target: the mean share of zeros, for N:M.
    """

    over: Literal["weight", "block", "model"] = "model"
    needs_data: bool = True
    target: float | None = None

    def check(self, wishes: Wishes) -> None:
        """A share is asked for, or N:M and a target."""
        check_target("closed-form", wishes, self.target)

    def measure(self, problem: Problem, methods: Methods, wishes: Wishes) -> Curve:
        """Errors and gradients at masks; nothing errs where the data shows nothing of what the layer reads."""
        gram = np.eye(problem.weight.shape[1]) if problem.evidence is None else problem.gram
        weight = problem.weight
        if not isinstance(wishes.pattern, Share):
            error = layer_error(weight, methods.mask(problem, wishes.pattern), gram)
            return Curve(weight.size, np.array([error]), np.zeros((1, 0)))
        saliency = CRITERIA[methods.criterion_of(problem)].saliency(problem)
        ranks = ranks_of(saliency if wishes.pattern.scope == "row" else saliency.reshape(1, -1))
        points = [layer_slope(weight, ranks >= cut, gram) for cut in cuts(ranks.shape[1])[::EVERY]]
        slopes = [slopes_at_beta(ranks, at_mask.reshape(ranks.shape)).sum(axis=0) for _, at_mask in points]
        return Curve(weight.size, np.array([error for error, _ in points]), np.stack(slopes))

    def share(self, measured: Curves, wishes: Wishes) -> list[Pattern]:
        """Descends, or sorts."""
        sizes = [curve.size for curve in measured]
        if not measured:
            return []
        if isinstance(wishes.pattern, Share):
            return share_out(learned(measured, wishes.pattern.zeros), sizes, wishes.pattern)
        assert self.target is not None
        price = np.array([curve.errors[0] / curve.size for curve in measured])
        return chosen(pick(-price, sizes, wishes.pattern, self.target), wishes.pattern)


def layer_error(weight: Array, mask: NDArray[Any], gram: Array) -> float:
    """tr((W' - W) H (W' - W)^T) / tr(W H W^T) with W' = W * M; 0 where the layer gives nothing anyway."""
    return layer_slope(weight, mask, gram)[0]


def layer_slope(weight: Array, mask: NDArray[Any], gram: Array) -> tuple[float, Array]:
    """The same, and its gradient [outputs, columns] at the mask.

    Args:
        weight: [outputs, columns].
        mask: as many entries, in the same order.
        gram: [columns, columns] H.
    """
    missing = weight * (mask.reshape(weight.shape) - 1.0)
    moved = missing @ gram
    total = float(np.sum((weight @ gram) * weight))
    if total <= 0:
        return 0.0, np.zeros_like(weight)
    return float(np.sum(moved * missing)) / total, 2 * weight * moved / total


def learned(curves: Curves, target: float) -> Array:
    """The share of zeros of each layer."""
    sizes = np.array([curve.size for curve in curves], np.float64)
    points = CANDIDATES[::EVERY]

    def slope(belief: Belief, step: int) -> Array:
        shares = belief.shares
        nearest = np.abs(points[:, None] - shares).argmin(axis=0)
        found = np.stack([curve.slopes[point] for curve, point in zip(curves, nearest, strict=True)]) / len(curves)
        wanted: Array = found + PULL * penalty(shares, sizes, target)[1][:, None] * CANDIDATES
        return wanted

    return descend(Belief.at(target, len(curves)), slope, STEPS, RATE).shares


closed_form = ClosedForm()


def aimed(text: str) -> ClosedForm:
    """The allocation with a mean share of zeros: `closed-form:30%`."""
    return ClosedForm(target=parse_said(text).target)
