"""How much a weight is of its row and of its column."""

from __future__ import annotations

from functools import partial

import numpy as np

from secateur.passes.layers.problem import Array, Problem
from secateur.passes.sparsify.criteria import Ranked

POWER = 0.5
"""Of the norms of inputs, as published."""


def relative_importance(weight: Array) -> Array:
    """|w_ij| / sum_i |w_ij| + |w_ij| / sum_j |w_ij| [outputs, columns]; a row or column of zeros is worth nothing."""
    sizes = np.abs(weight)
    columns, rows = sizes.sum(axis=0, keepdims=True), sizes.sum(axis=1, keepdims=True)
    found: Array = sizes / np.where(columns > 0, columns, 1.0) + sizes / np.where(rows > 0, rows, 1.0)
    return found


def _ri(problem: Problem) -> Array:
    return relative_importance(problem.weight)


def _ria(problem: Problem, power: float) -> Array:
    return _ri(problem) * np.sqrt(problem.energies) ** power


ri = Ranked(_ri, needs_data=False)
"""Relative importance without activations."""


def powered(text: str) -> Ranked:
    """RIA with the norms of the inputs to another power: `ria:0.25`.

    Raises:
        ValueError: it is no power.
    """
    try:
        power = float(text)
    except ValueError:
        power = -1.0
    if not 0 <= power <= 4:
        raise ValueError(f"behind ria: a power from 0 to 4 is expected, got {text!r}")
    return Ranked(partial(_ria, power=power))


ria = powered(str(POWER))
"""Relative importance times ||x_j||^0.5.

Zhang et al. 2024, "Plug-and-Play: An Efficient Post-training Pruning Method for Large Language Models", ICLR.
"""
