"""A decision about a layer that is to give what it gives now: all of it follows from its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from secateur.calib.gram import Moments
from secateur.calib.solvers.column_sweep import Factor, factor
from secateur.passes.layers.problem import Array, Indices, Problem

JUDGED = 64
"""So many outputs, evenly spread, say which of several does best."""


@dataclass(frozen=True)
class OwnProblem(Problem):
    """Its target is the weight itself, as LeCun et al. 1990, Hassibi and Stork 1993 and those after them have it.

    The evidence is of inputs alone, without targets.
    """

    @cached_property
    def moments(self) -> Moments:
        """Of the inputs; there are no others."""
        return self._ordered(self.seen.moments(self.bias is not None))

    @cached_property
    def factor(self) -> Factor:
        """Of H, damped, in float32, as the published sweeps are: what that loses is little beside what they do."""
        name = ("float32", self.bias is not None, self.damping)
        if not self._is_in_order:
            return factor(self.gram, self.damping, np.float32)
        return self.seen.fit.derived(name, lambda: factor(self.gram, self.damping, np.float32))

    @property
    def target(self) -> Array:
        """[outputs, columns] the weight."""
        return self.weight

    def target_at(self, strength: float) -> Array:
        """The same: nothing before it counts as lost."""
        return self.weight

    @property
    def target_mean(self) -> Array:
        """[outputs] means of what it gives."""
        found: Array = self.weight @ self.mean + self._shift
        return found

    @property
    def _shift(self) -> Array:
        """[outputs] the bias that it has."""
        own = self.constant if self.bias is None else self.bias
        return np.zeros(len(self.weight)) if own is None else own

    def errors(self, matrix: Array, bias: Array | None, rows: Indices | None = None) -> Array:
        """[outputs] of `(M - W) H (M - W)^T` the diagonal, on the held-out samples."""
        used = slice(None) if rows is None else rows
        lost = self._unordered(matrix - self.weight[used])
        return self._squares(lost, bias, used, self._judge.spread_of(lost))

    def judge(self, candidates: Sequence[tuple[Array, Array | None]]) -> tuple[int, list[float]]:
        """As of any problem, by some of the outputs."""
        rows = np.unique(np.linspace(0, len(self.weight) - 1, min(JUDGED, len(self.weight))).astype(np.intp))
        weight = self.weight[rows]
        lost = [self._unordered(matrix[rows] - weight) for matrix, _ in candidates]
        # One walk over the moments for all of them.
        everything = self._judge.spread_of(np.concatenate([self._unordered(weight), *lost]))
        spread, *spreads = everything.reshape(-1, len(rows))
        variance, sums = float(np.sum(spread)), []
        for (_, bias), one, its_spread in zip(candidates, lost, spreads, strict=True):
            sums.append(float(np.sum(self._squares(one, None if bias is None else bias[rows], rows, its_spread))))
        found = [one / variance if variance > 0 else float(one > 0) for one in sums]
        return int(np.argmin(found)), found

    def _unordered(self, rows: Array) -> Array:
        """[n, columns] in the evidence's order of columns."""
        if self._is_in_order:
            return np.ascontiguousarray(rows)
        found = np.empty_like(rows)
        found[:, self.order] = rows
        return found

    def _squares(self, lost: Array, bias: Array | None, rows: Indices | slice, spread: Array) -> Array:
        """[n] squared errors of outputs whose weights are off by `lost`, with a spread of so much about their means."""
        shift = 0.0 if bias is None else bias - self._shift[rows]
        offset = lost @ self._judge.mean + shift
        return np.asarray(np.maximum(spread + self._judge.count * np.square(offset), 0.0))
