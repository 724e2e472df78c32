"""One decision about the entries of a weight as arrays: what criteria choose from, what repairs and roundings mend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.calib.gram import Gram, Moments
from secateur.calib.solvers.column_sweep import Choice, Factor, Swept, column_sweep, factor, fixed
from secateur.calib.solvers.least_squares import solve_positive
from secateur.calib.solvers.ridge import UNSURE
from secateur.passes.layers.evidence import Evidence

Array: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.intp]
Mask: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True)
class Gradients:
    """Scores at the weights [outputs, columns] (`secateur.passes.sparsify.gradients`), over draws of answers.

    Attributes:
        mean: of the scores; about zero, for the answers are the model's own.
        absolute: mean of their magnitudes.
        square: mean of their squares, the diagonal of the Fisher information.
    """

    mean: Array
    absolute: Array
    square: Array


@dataclass(frozen=True)
class Problem:
    """Which weights of a layer to keep, and what they are to be then.

    Every method makes `tr((W - T) H (W - T)^T)` small over matrices W that are zero outside a mask (LeCun et al. 1990,
    "Optimal Brain Damage"; Hassibi and Stork 1993). H is the Gram matrix of what the layer reads now. T is what the
    layer should be: its dense weights, moved so that they make up for what layers before it lost.

    Attributes:
        name: of the weight.
        weight: [outputs, columns] float64, so that `rows @ weight.T + bias` is what the layer gives. Columns count
            kernel taps slowest and input channels fastest, so that N:M groups are neighbours.
        bias: [outputs] where the layer takes one and the repair may change it, else None.
        order: [columns] the place of each column among those of the evidence.
        evidence: moments of its inputs and targets; None without data.
        channels: input channels of the matrix; columns are that many for each kernel tap.
        random: a generator of this decision's own.
        damping: what is added to the diagonal of the Gram matrix, relative to its mean.
        gradients: of the weights, where they were asked for.
        constant: [outputs] the bias that the layer has and keeps, where `bias` is None; None for none.
    """

    name: str
    weight: Array
    bias: Array | None
    order: Indices
    evidence: Evidence | None
    channels: int
    random: np.random.Generator
    damping: float
    gradients: Gradients | None = None
    constant: Array | None = None

    @property
    def seen(self) -> Evidence:
        """The evidence, for those who cannot do without."""
        assert self.evidence is not None, "what needs data was run without"
        return self.evidence

    @cached_property
    def moments(self) -> Moments:
        """Of the inputs in this problem's order of columns; about the means where a bias takes those up."""
        found = self.seen.moments(self.bias is not None)
        xy, yy = found.xy, found.yy
        if self.bias is None and self.constant is not None:
            # What the bias gives is not for the weights to make.
            mean, target_mean = self.seen.fit.mean, self.seen.fit.target_mean
            xy = xy - found.count * np.outer(mean, self.constant)
            yy = yy - found.count * self.constant * (2 * target_mean - self.constant)
        return self._ordered(Moments(found.count, found.xx, xy, yy))

    @cached_property
    def _is_in_order(self) -> bool:
        return np.array_equal(self.order, np.arange(len(self.order)))

    def _ordered(self, moments: Moments) -> Moments:
        """Moments of the evidence in this problem's order of columns."""
        if self._is_in_order:
            return moments
        return Moments(moments.count, moments.xx[np.ix_(self.order, self.order)], moments.xy[self.order], moments.yy)

    @property
    def gram(self) -> Array:
        """[columns, columns] H."""
        return self.moments.xx

    @cached_property
    def scale(self) -> float:
        """The mean of the diagonal of H, which strengths of pulls are relative to."""
        return float(np.mean(self.gram.diagonal()))

    @cached_property
    def energies(self) -> Array:
        """[columns] sums of squares of the inputs, about zero."""
        return self.seen.fit.diagonal[self.order]

    @cached_property
    def mean(self) -> Array:
        """[columns] means of the inputs."""
        return self.seen.fit.mean[self.order]

    @cached_property
    def variance(self) -> Array:
        """[columns] variances of the inputs."""
        return self.seen.fit.variance[self.order]

    @cached_property
    def target(self) -> Array:
        """[outputs, columns] T, pulled to the dense weights as `damping` says."""
        return self.target_at(self.damping)

    def target_at(self, strength: float) -> Array:
        """W + (XY - XX W^T)^T (XX + ridge)^-1: the layer that gives what the dense one did, of what it reads now.

        What layers before it lost differs more from data to data than what it loses itself, so the pull is stronger
        than `strength` by `secateur.calib.solvers.ridge.UNSURE`.
        """
        if not self._has_drifted:
            return self.weight
        ridge = UNSURE * strength * self.scale
        damped = self.gram + ridge * np.eye(len(self.gram))
        found: Array = solve_positive(damped, self.moments.xy + ridge * self.weight.T).T
        return found

    @cached_property
    def _has_drifted(self) -> bool:
        """Whether the weights as they are give something else than the targets, but for rounding.

        A random sum of the outputs tells.
        """
        signs = np.random.default_rng(0).choice([-1.0, 1.0], len(self.weight))
        drift = self.moments.xy @ signs - self.gram @ (signs @ self.weight)
        sums = np.abs(self.moments.xy).sum(axis=1)
        return bool(np.abs(drift).max(initial=0) > 1e-9 * sums.max(initial=0))

    @cached_property
    def factor(self) -> Factor:
        """Of H, damped, for sweeps over the columns."""
        if not self._is_in_order:
            return factor(self.gram, self.damping)
        name = ("factor", self.bias is not None, self.damping)
        return self.seen.fit.derived(name, lambda: factor(self.gram, self.damping))

    @cached_property
    def _sweeps(self) -> list[Swept]:
        return []

    def swept(self, choice: Choice, block: int) -> Swept:
        """A sweep over the columns of the target, with which the mask is chosen that it leaves."""
        found = column_sweep(self.target, self.factor, choice, block)
        self._sweeps.append(found)
        return found

    def swept_for(self, mask: Mask) -> Swept:
        """A sweep that ends in a mask: that which chose it, if one did."""
        same = (found for found in self._sweeps if np.array_equal(found.mask, mask))
        return next(same, None) or column_sweep(self.target, self.factor, fixed(mask))

    def damped(self, strength: float) -> Array:
        """H with a ridge, `strength` times its mean diagonal."""
        return self.gram + strength * self.scale * np.eye(len(self.gram))

    def compensated(self, matrix: Array) -> Array | None:
        """The bias [outputs] with which the mean output is that of the targets; None where the layer takes none."""
        return None if self.bias is None else self.target_mean - matrix @ self.mean

    @property
    def target_mean(self) -> Array:
        """[outputs] means of the targets."""
        return self.seen.fit.target_mean

    def errors(self, matrix: Array, bias: Array | None, rows: Indices | None = None) -> Array:
        """[outputs] squared errors on the held-out samples (on the fitted ones where none were held out).

        With `rows`, matrix and bias are those of these outputs only.
        """
        gram, held_out = self._judge, self._held_out
        outputs = np.arange(len(self.weight)) if rows is None else rows
        if bias is None and self.constant is not None:
            bias = self.constant[outputs]
        offset = gram.target_mean[outputs] - matrix @ gram.mean[self.order] - (0.0 if bias is None else bias)
        squares = held_out.yy[outputs] - 2 * np.einsum("rc,cr->r", matrix, held_out.xy[:, outputs])
        squares += np.einsum("rc,rc->r", matrix @ held_out.xx, matrix) + gram.count * np.square(offset)
        found: Array = np.maximum(squares, 0.0)
        return found

    def judge(self, candidates: Sequence[tuple[Array, Array | None]]) -> tuple[int, list[float]]:
        """Which (matrix, bias) does best on what was held out (of equals the first), and the error of each, 1 - R²."""
        variance = float(np.sum(self._held_out.yy))
        sums = [float(np.sum(self.errors(matrix, bias))) for matrix, bias in candidates]
        found = [one / variance if variance > 0 else float(one > 0) for one in sums]
        return int(np.argmin(found)), found

    @property
    def _judge(self) -> Gram:
        return self.seen.held_out if self.seen.held_out.count else self.seen.fit

    @cached_property
    def _held_out(self) -> Moments:
        """About the means: the squared error splits into that of the centred outputs and that of the means."""
        return self._ordered(self._judge.centered())

    def on_everything(self) -> Problem:
        """The same with the held-out samples to fit on as well."""
        together = self.seen.together()
        return replace(self, evidence=Evidence(together, Gram(together.width, together.target_width)))
