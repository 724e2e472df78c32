"""The repair axis: new numbers for layers that lost inputs. A repair is a function of a layer and its kept units."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.calib.solvers.least_squares import least_squares
from secateur.passes.prune.problem import Layer

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Repaired:
    """What a layer has when only some units stay.

    Attributes:
        matrix: [outputs, channels * taps], zero in the columns of removed units.
        bias: [outputs], or None where the layer takes none.
        error: squared error on the held-out samples divided by the variance of the target, 1 - R²; None without data.
        unrepaired: the same without any repair.
    """

    matrix: Array
    bias: Array | None
    error: float | None = None
    unrepaired: float | None = None


Repair: TypeAlias = Callable[[Layer, NDArray[np.int64], float], Repaired]
"""(layer, kept units, damping) to what the layer has from then on."""


def none(layer: Layer, kept: NDArray[np.int64], damping: float) -> Repaired:
    """The weights as they were, without those of the removed units."""
    columns = layer.columns(kept)
    masked = _filled(layer, columns, layer.matrix[:, columns].T)
    if layer.evidence is None:
        return Repaired(masked, layer.bias)
    error = layer.evidence.error(masked.T, layer.bias)
    return Repaired(masked, layer.bias, error, error)


def refit(layer: Layer, kept: NDArray[np.int64], damping: float) -> Repaired:
    """Least squares from what is left to what the dense model gives, with intercept (He et al. 2017, section 3.1).

    Pulled towards the weights that were there, so that what the data does not show stays as it was. Where the fit is
    worse on the held-out samples than the old weights, with or without a corrected bias, those stay.
    """
    evidence = layer.evidence
    assert evidence is not None
    columns, with_bias = layer.columns(kept), layer.bias is not None
    sliced, moments = layer.matrix[:, columns].T, evidence.moments(with_bias)
    solved = least_squares(moments.xx, moments.xy, columns, damping=damping, prior=sliced)
    candidates = [(one, evidence.bias(one, columns) if with_bias else None) for one in (solved, sliced)]
    candidates.append((sliced, layer.bias))
    coefficients, bias, error = evidence.best(candidates, columns)
    return Repaired(_filled(layer, columns, coefficients), bias, error, evidence.error(sliced, layer.bias, columns))


def _filled(layer: Layer, columns: NDArray[np.int64], coefficients: Array) -> Array:
    """[kept columns, outputs] as a matrix of all columns."""
    matrix = np.zeros(layer.matrix.shape)
    matrix[:, columns] = coefficients.T
    return matrix


REPAIRS: Mapping[str, Repair] = MappingProxyType({"none": none, "least-squares": refit})
