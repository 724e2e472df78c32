"""Both layers around the units, fitted together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from secateur.calib.solvers.two_layers import Rows as Matrix
from secateur.calib.solvers.two_layers import Sample, TwoLayers
from secateur.passes.layers.rows import Rows
from secateur.passes.prune.pairing import First
from secateur.passes.prune.problem import Array, Indices, Layer, Problem
from secateur.passes.prune.repair import Repaired, filled
from secateur.passes.prune.repair.least_squares import refit

PULLS = (3000.0, 1000.0, 300.0, 100.0, 30.0)
"""Of the first layers towards what they are, times the damping: a round for each, until one gains nothing."""
TURNS = 6
"""Of conjugate gradients, in each round."""
SECOND = 100.0
"""Pull of the second layer towards what it is, times the damping."""

_SAME = 1e-3
"""The rows that were kept of either layer are the same ones if the one gives what the other read, but for this."""


def alternating(problem: Problem, layer: Layer, kept: Indices) -> Repaired:
    """Alternating least squares of the layer that reads the units and of those that make them, for the layer's target.

    From the ordinary refit on, by Gauss-Newton through the activation (`secateur.calib.solvers.two_layers`), on a
    sample of the rows: what is left of the units learns to stand in for those that went. Rows that were held out judge
    each round; where none does better there than the refit, that stays, and then nothing but the layer changes.
    """
    pairing, rows, judge = problem.pairing, layer.seen.rows, layer.seen.held_out_rows
    if pairing is None:
        return _instead(problem, layer, kept, "not one plain layer reads what plain layers make, unit by unit")
    if not len(rows) or not len(judge):
        return _instead(problem, layer, kept, "there are too few samples to hold some out")
    if any(len(one.evidence.rows) != len(rows) for one in pairing.first):
        return _instead(problem, layer, kept, "what makes the units cannot be followed row by row")
    fitted, held_out = (_sample(pairing.first, layer, which) for which in (False, True))
    linear = refit(problem, layer, kept, on_everything=False)
    second = linear.matrix[:, kept].T
    start = TwoLayers(tuple(_weights(one, kept) for one in pairing.first), second, linear.bias)

    def between(made: Sequence[Matrix]) -> Matrix:
        return pairing.between([_spread(one, kept, problem.size) for one in made])[:, kept]

    if not _is_same(start.hidden(held_out, between), judge, kept):
        return _instead(problem, layer, kept, "what makes the units cannot be followed row by row")
    best, least = start, start.error(held_out, between)
    for pull in PULLS:
        moved = best.first_refitted(fitted, between, pull * problem.damping, TURNS)
        both = [moved, moved.second_refitted(fitted, between, SECOND * problem.damping)]
        errors = [one.error(held_out, between) for one in both]
        if min(errors) >= least:
            break
        best, least = both[int(np.argmin(errors))], min(errors)
    if best is start:
        return _instead(problem, layer, kept, "it does no better than least squares on what was held out")
    best = best.second_refitted(_joined(fitted, held_out), between, SECOND * problem.damping)
    variance = float(np.sum(np.square(held_out.target - held_out.target.mean(axis=0)), dtype=np.float64))
    firsts = tuple(_written(one, weights, kept) for one, weights in zip(pairing.first, best.first, strict=True))
    return Repaired(filled(layer, kept, best.second), best.bias, least / variance, linear.unrepaired, first=firsts)


def _instead(problem: Problem, layer: Layer, kept: Indices, why: str) -> Repaired:
    return replace(refit(problem, layer, kept), note=f"least squares of the reader alone: {why}")


def _sample(first: Sequence[First], layer: Layer, held_out: bool) -> Sample:
    """The rows that belong together: what the first layers read, with a column of ones for a bias, and the target."""
    own = layer.seen.held_out_rows if held_out else layer.seen.rows
    inputs = []
    for one in first:
        rows = (one.evidence.held_out_rows if held_out else one.evidence.rows).x.astype(np.float32)
        inputs.append(rows if one.bias is None else np.column_stack([rows, np.ones(len(rows), np.float32)]))
    return Sample(tuple(inputs), own.y.astype(np.float32))


def _joined(one: Sample, other: Sample) -> Sample:
    inputs = tuple(np.concatenate(both) for both in zip(one.inputs, other.inputs, strict=True))
    return Sample(inputs, np.concatenate([one.target, other.target]))


def _weights(one: First, kept: Indices) -> Matrix:
    """[columns (and 1 for a bias), kept] what makes the kept units."""
    both = one.matrix[kept] if one.bias is None else np.column_stack([one.matrix[kept], one.bias[kept]])
    return both.T.astype(np.float32)


def _written(one: First, weights: Matrix, kept: Indices) -> tuple[Array, Array | None]:
    """The matrix and bias of a layer, with other numbers for the kept units."""
    matrix, bias = one.matrix.copy(), one.bias
    if bias is not None:
        bias = bias.copy()
        bias[kept] = weights[-1]
        weights = weights[:-1]
    matrix[kept] = weights.T
    return matrix, bias


def _spread(rows: Matrix, kept: Indices, size: int) -> Matrix:
    """Columns of the kept units among zeros for those that went."""
    whole = np.zeros((len(rows), size), np.float32)
    whole[:, kept] = rows
    return whole


def _is_same(found: Matrix, seen: Rows, kept: Indices) -> bool:
    difference = np.square(found - seen.x[:, kept]).mean()
    return bool(difference <= _SAME**2 * np.square(found).mean())
