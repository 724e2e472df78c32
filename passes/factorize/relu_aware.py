"""The second of two factors, fitted to what comes out of the Relu behind it."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.calib.solvers.clipped import Clipped
from secateur.passes.factorize.rewrite import Factors
from secateur.passes.layers.evidence import Evidence
from secateur.passes.layers.rows import Rows

Array: TypeAlias = NDArray[np.float64]


def relu_aware(
    factors: Factors, between: Array, clip: tuple[float, float], evidence: Evidence, damping: float
) -> Factors | None:
    """The factors with another second one and bias; None where they do no better behind the Relu on held-out rows.

    Zhang et al. 2016, "Accelerating Very Deep Convolutional Networks for Classification and Detection", section 3.2,
    with the first factor as it is.

    Args:
        factors: fitted to what the layer gives.
        between: [channels * taps, columns] from what the layer reads to what the second factor does.
        clip: the least and the greatest output that counts.
        evidence: with rows.
        damping: pull towards the second factor as it is, relative to the mean square of what it reads.
    """
    if factors.bias is None or not len(evidence.rows) or not len(evidence.held_out_rows):
        return None
    start = factors.up.reshape(len(factors.up), -1).T
    found, bias = _seen(evidence.rows, between, clip).refit(start, factors.bias, damping)
    judge = _seen(evidence.held_out_rows, between, clip)
    if judge.error(found, bias) >= judge.error(start, factors.bias):
        return None
    return replace(factors, up=found.T.reshape(factors.up.shape), bias=bias)


def _seen(rows: Rows, between: Array, clip: tuple[float, float]) -> Clipped:
    return Clipped(rows.x.astype(np.float64) @ between, rows.y.astype(np.float64), *clip)
