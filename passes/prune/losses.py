"""What removing units costs where it was not fitted on: losses that groups can be compared by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError, cholesky, solve_triangular

from secateur.passes.prune.criteria.saliency import informed, target_energy
from secateur.passes.prune.problem import Array, Indices, Layer, Problem
from secateur.passes.prune.ranking import Ranking

SIZES = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
"""The shares of units left at which losses are measured."""

STRENGTHS = (1.0, 10.0, 100.0)
"""Pulls towards the old weights that are tried, times the damping."""

_LEAST_DAMPING = 1e-8


def held_out(problem: Problem, ranking: Ranking) -> Ranking:
    """The same order, with losses that least squares leaves on the held-out samples in place of in-sample ones.

    A layer with more inputs than independent rows of data can be refitted to these rows whatever is removed: in sample,
    the widest layers seem the cheapest, and an allocation by loss empties them. Held-out error (Stone 1974,
    "Cross-Validatory Choice and Assessment of Statistical Predictions") does not fall for that. It is measured at some
    sizes; between them it rises as the criterion says. Samples are those of the dense model: targets are what the
    layers give themselves.

    Where no samples were held out, or no layer is informed, the ranking stays as it is.
    """
    layers = [layer for layer in informed(problem) if layer.seen.held_out.count]
    removed = len(ranking.order)
    if not layers or not removed:
        return ranking
    stops = sorted({round((1 - share) * problem.size) for share in SIZES} | {removed})
    stops = [stop for stop in stops if 0 < stop <= removed]
    shares = [_errors(layer, ranking.order, stops, problem.damping) / _energy(layer) for layer in layers]
    # Held-out error may fall by chance where more goes; what is lost does not.
    total = np.maximum.accumulate(np.mean(shares, axis=0))
    return Ranking(ranking.order, _spread(ranking.loss, stops, total))


def _energy(layer: Layer) -> float:
    """What errors of held-out samples are shares of: as `target_energy`, which is of the fitted ones."""
    return target_energy(layer) * layer.seen.held_out.count / layer.seen.fit.count


def _spread(loss: Array, stops: Sequence[int], total: Array) -> Array:
    """Losses of single removals with these sums at the stops, between them in proportion to `loss`."""
    made, start, before = np.zeros(len(loss)), 0, 0.0
    for stop, after in zip(stops, total, strict=True):
        part = np.maximum(loss[start:stop], 0.0)
        whole = float(part.sum())
        weights = part / whole if whole > 0 else np.full(len(part), 1 / len(part))
        made[start:stop] = (after - before) * weights
        start, before = stop, float(after)
    return made


def _errors(layer: Layer, order: Indices, stops: Sequence[int], damping: float) -> Array:
    """[stops] the least squared error on the held-out samples after so many units of `order` went and a refit."""
    size = int(max(layer.unit.max(initial=0), order.max(initial=0))) + 1
    turn = np.full(size, len(order))
    turn[order] = np.arange(len(order))
    turns = np.where(layer.column_unit < 0, len(order), turn[layer.column_unit])
    # What goes last comes first: what is left is always a leading block, and one factor serves all sizes.
    columns = np.argsort(-turns, kind="stable")
    left = [int(np.count_nonzero(turns >= stop)) for stop in stops]
    path = _Path.of(layer, columns)
    errors: Array = np.min([path.errors(max(damping * one, _LEAST_DAMPING), left) for one in STRENGTHS], axis=0)
    return errors


@dataclass(frozen=True)
class _Path:
    """Refits of one layer on fewer and fewer of its columns, the last of which go first.

    Attributes:
        weight: [columns, outputs] all of it, which is right.
        fitted: [columns, columns] moments of the samples to fit.
        judging: the same of those held out, about their own means where there is a bias.
        shift: [columns] by how much the two means differ; zero where there is no bias.
        count: samples held out.
    """

    weight: Array
    fitted: Array
    judging: Array
    shift: Array
    count: float

    @classmethod
    def of(cls, layer: Layer, columns: Indices) -> _Path:
        seen, with_bias, inside = layer.seen, layer.bias is not None, np.ix_(columns, columns)
        judging = seen.held_out.centered() if with_bias else seen.held_out.raw()
        shift = (seen.held_out.mean - seen.fit.mean)[columns] * with_bias
        fitted = seen.moments(with_bias).xx[inside]
        return cls(layer.matrix[:, columns].T, fitted, judging.xx[inside], shift, judging.count)

    def errors(self, strength: float, left: Sequence[int]) -> list[float]:
        """The squared error on the held-out samples with so many columns left."""
        ridge = strength * float(np.mean(self.fitted.diagonal()))
        try:
            factor = cholesky(self.fitted + ridge * np.eye(len(self.fitted)), lower=True, check_finite=False)
        except LinAlgError:
            return [np.inf] * len(left)
        found = []
        for size in left:
            change = -self.weight
            change[:size] = self._made_up(factor[:size, :size], size)
            # The error of the centred outputs, and that of their means.
            offset = self.shift @ change
            squared = float(np.vdot(change, self.judging @ change))
            found.append(squared + self.count * float(offset @ offset))
        return found

    def _made_up(self, factor: Array, size: int) -> Array:
        """[size, outputs] what the columns that are left gain."""
        wanted = self.fitted[:size, size:] @ self.weight[size:]
        half = solve_triangular(factor, wanted, lower=True, check_finite=False)
        gain: Array = solve_triangular(factor, half, lower=True, trans="T", check_finite=False)
        return gain
