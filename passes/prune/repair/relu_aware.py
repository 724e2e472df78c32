"""Least squares behind the ReLU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from secateur.calib.solvers.clipped import Clipped
from secateur.passes.layers.rows import Rows
from secateur.passes.prune.problem import Array, Indices, Layer, Problem
from secateur.passes.prune.repair import Repaired, filled
from secateur.passes.prune.repair.least_squares import refit


def relu_aware(problem: Problem, layer: Layer, kept: Indices) -> Repaired:
    """Least squares of what the activation behind the layer gives (He et al. 2017, section 3.3).

    From the ordinary refit on, on a sample of the rows. What is worse behind the activation, on rows that were held
    out, is not taken. Where the layer does not go straight into a Relu or a Clip from 0, the ordinary refit stays.
    """
    rows, judge, columns = layer.seen.rows, layer.seen.held_out_rows, layer.columns(kept)
    if layer.clip is None or layer.bias is None:
        return _instead(problem, layer, kept, "no Relu follows, or the layer takes no bias")
    if not len(rows) or not len(judge):
        return _instead(problem, layer, kept, "there are too few samples to hold some out")
    linear = refit(problem, layer, kept, on_everything=False)
    start, bias = linear.matrix[:, columns].T, linear.bias
    assert bias is not None
    found = _clipped(rows, columns, layer.clip).refit(start, bias, problem.damping)
    held_out = _clipped(judge, columns, layer.clip)
    if held_out.error(*found) >= held_out.error(start, bias):
        return _instead(problem, layer, kept, "it does no better than least squares on what was held out")
    error = layer.seen.error(found[0], found[1], columns)
    return Repaired(filled(layer, columns, found[0]), found[1], error, linear.unrepaired)


def _instead(problem: Problem, layer: Layer, kept: Indices, why: str) -> Repaired:
    return replace(refit(problem, layer, kept), note=f"least squares instead of relu-aware: {why}")


def _clipped(rows: Rows, columns: Indices, clip: tuple[float, float]) -> Clipped:
    x: Array = rows.x[:, columns].astype(np.float64)
    return Clipped(x, rows.y.astype(np.float64), *clip)
