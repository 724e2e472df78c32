"""Two layers with a function of each hidden unit between them, fitted together: alternating least squares.

    y = f(X_1 A_1, X_2 A_2, ...) B + b

The second layer is linear in B: ridge regression. The first ones are not, but nearly so close by: with the slopes
D_i = df/du_i at each row, moving A_i by M_i moves y by (D_i * (X_i M_i)) B, and the best M is a linear least squares
problem again (Gauss and Newton; the variable projection of Golub and Pereyra 1973 is its relative). It has as many
unknowns as A has numbers, so that it is solved by conjugate gradients, where the inverse of a Kronecker product, of the
inputs' moments and of what each unit weighs in the output, is the preconditioner (Martens and Grosse 2015, "Optimizing
Neural Networks with Kronecker-factored Approximate Curvature", section 4). A gate beside a branch is but another A_i.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve

from secateur.calib.solvers.least_squares import intercept, least_squares

Array: TypeAlias = npt.NDArray[np.float64]
Rows: TypeAlias = npt.NDArray[np.float32]
Between: TypeAlias = Callable[[Sequence[Rows]], Rows]
"""What the first layers give, [n, k] each, to the hidden units [n, k]; each from its own column alone."""

STEP = 1e-2
"""Slopes are differences over this share of the root mean square of what a first layer gives, to both sides."""
SHORTEST = 1 / 16
"""Steps are halved until they help, down to this share."""


@dataclass(frozen=True)
class Sample:
    """Rows of what the first layers read, [n, d_i] each, and of what the second should give, [n, m]."""

    inputs: tuple[Rows, ...]
    target: Rows

    def __len__(self) -> int:
        return len(self.target)


@dataclass(frozen=True)
class TwoLayers:
    """The weights: `first[i]` [d_i, k] (where a layer has a bias, its last input is 1), `second` [k, m], `bias` [m].

    Without a bias of its own the second layer has None.
    """

    first: tuple[Rows, ...]
    second: Array
    bias: Array | None

    def hidden(self, sample: Sample, between: Between) -> Rows:
        """[n, k] the hidden units."""
        return between(self._before(sample))

    def error(self, sample: Sample, between: Between) -> float:
        """The sum of squared errors."""
        return float(np.sum(np.square(self._residual(sample, self.hidden(sample, between)), dtype=np.float64)))

    def second_refitted(self, sample: Sample, between: Between, pull: float) -> TwoLayers:
        """With the second layer fitted to the sample, pulled to what it was by `pull` times the mean square."""
        hidden = self.hidden(sample, between).astype(np.float64)
        target = sample.target.astype(np.float64)
        means = (hidden.mean(axis=0), target.mean(axis=0)) if self.bias is not None else None
        if means is not None:
            hidden, target = hidden - means[0], target - means[1]
        fitted = least_squares(hidden.T @ hidden, hidden.T @ target, damping=pull, prior=self.second)
        return replace(self, second=fitted, bias=None if means is None else intercept(fitted, *means))

    def first_refitted(self, sample: Sample, between: Between, pull: float, turns: int) -> TwoLayers:
        """With the first layers moved by a Gauss-Newton step, halved until it helps; as they are if it never does.

        Args:
            sample: what to fit.
            between: the function between the layers.
            pull: strength of the pull to what they were, relative to the curvature of each unit.
            turns: of conjugate gradients.
        """
        before = self._before(sample)
        residual = self._residual(sample, between(before))
        slopes = [_slope(between, before, which) for which in range(len(before))]
        moves = _gauss_newton(_Linear(sample.inputs, slopes, self.second.astype(np.float32)), residual, pull, turns)
        least = float(np.sum(np.square(residual, dtype=np.float64)))
        share = 1.0
        while share >= SHORTEST:
            first = tuple(one + np.float32(share) * move for one, move in zip(self.first, moves, strict=True))
            moved = replace(self, first=first)
            if moved.error(sample, between) < least:
                return moved
            share /= 2
        return self

    def _before(self, sample: Sample) -> list[Rows]:
        return [rows @ weights for rows, weights in zip(sample.inputs, self.first, strict=True)]

    def _residual(self, sample: Sample, hidden: Rows) -> Rows:
        made = hidden @ self.second.astype(np.float32)
        return sample.target - (made if self.bias is None else made + self.bias.astype(np.float32))


def _slope(between: Between, before: Sequence[Rows], which: int) -> Rows:
    """[n, k] the derivative of each hidden unit by what one of the first layers gives, by central differences."""
    size = float(np.sqrt(np.mean(np.square(before[which], dtype=np.float64))))
    step = np.float32(STEP * size or STEP)
    sides = [between([one + sign * (at == which) for at, one in enumerate(before)]) for sign in (step, -step)]
    slope: Rows = (sides[0] - sides[1]) / (2 * step)
    return slope


@dataclass(frozen=True)
class _Linear:
    """The map from moves of the first layers to what the second one gives, (D_i * (X_i M_i)) B summed, and back."""

    inputs: Sequence[Rows]
    slopes: Sequence[Rows]
    second: Rows

    def forward(self, moves: Sequence[Rows]) -> Rows:
        """[n, m] how the output moves."""
        hidden = np.zeros_like(self.slopes[0])
        for rows, slope, move in zip(self.inputs, self.slopes, moves, strict=True):
            hidden += slope * (rows @ move)
        return hidden @ self.second

    def backward(self, outputs: Rows) -> list[Rows]:
        """The transpose: [d_i, k] each."""
        hidden = outputs @ self.second.T
        return [rows.T @ (slope * hidden) for rows, slope in zip(self.inputs, self.slopes, strict=True)]


def _gauss_newton(linear: _Linear, residual: Rows, pull: float, turns: int) -> list[Rows]:
    """The moves that least squares asks for, after some turns of preconditioned conjugate gradients."""
    weight = np.square(linear.second).sum(axis=1)
    curvatures = [weight * np.square(slope).mean(axis=0) for slope in linear.slopes]
    floors = [np.float32(1e-6 * float(one.mean()) or 1.0) for one in curvatures]
    curvatures = [one + floor for one, floor in zip(curvatures, floors, strict=True)]
    grams = [rows.T.astype(np.float64) @ rows.astype(np.float64) for rows in linear.inputs]
    ridges = [max(pull, 1e-6) * float(np.mean(gram.diagonal())) or 1.0 for gram in grams]
    factors = [cho_factor(gram + ridge * np.eye(len(gram))) for gram, ridge in zip(grams, ridges, strict=True)]
    weights = [np.float32(ridge) * one for ridge, one in zip(ridges, curvatures, strict=True)]

    def conditioned(gradients: Sequence[Rows]) -> list[Rows]:
        pairs = zip(factors, gradients, curvatures, strict=True)
        return [(cho_solve(factor, gradient) / one).astype(np.float32) for factor, gradient, one in pairs]

    gradients = linear.backward(residual)
    moves = [np.zeros_like(one) for one in gradients]
    along = towards = conditioned(gradients)
    size = _dot(gradients, towards)
    for _ in range(turns):
        if not size > 0:
            break
        bent = linear.backward(linear.forward(along))
        bent = [one + weight * direction for one, weight, direction in zip(bent, weights, along, strict=True)]
        length = np.float32(size / _dot(along, bent))
        moves = [move + length * direction for move, direction in zip(moves, along, strict=True)]
        gradients = [gradient - length * one for gradient, one in zip(gradients, bent, strict=True)]
        towards = conditioned(gradients)
        size, before = _dot(gradients, towards), size
        along = [one + np.float32(size / before) * two for one, two in zip(towards, along, strict=True)]
    return moves


def _dot(one: Sequence[Rows], other: Sequence[Rows]) -> float:
    return sum(float(np.vdot(a, b)) for a, b in zip(one, other, strict=True))
