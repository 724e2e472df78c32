"""The repair axis: new numbers for layers that lost inputs. A repair is a function of a layer and its kept channels."""

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
    """What a layer has for the channels that stay.

    Attributes:
        weight: [outputs, kept, taps].
        bias: [outputs], or None where the layer takes none.
        error: squared error on the held-out samples divided by the variance of the target, 1 - R²; None without data.
        unrepaired: the same without any repair.
    """

    weight: Array
    bias: Array | None
    error: float | None = None
    unrepaired: float | None = None


Repair: TypeAlias = Callable[[Layer, NDArray[np.int64], float], Repaired]
"""(layer, kept channels, damping) to what the layer has from then on."""


def none(layer: Layer, kept: NDArray[np.int64], damping: float) -> Repaired:
    """The weights as they were, without those of the removed channels."""
    sliced = layer.weight[:, kept]
    if layer.evidence is None:
        return Repaired(sliced, layer.bias)
    error = layer.evidence.error(_coefficients(sliced), layer.bias, layer.columns(kept))
    return Repaired(sliced, layer.bias, error, error)


def refit(layer: Layer, kept: NDArray[np.int64], damping: float) -> Repaired:
    """Least squares from what is left to what the dense model gives, with intercept (He et al. 2017, section 3.1).

    Pulled towards the weights that were there, so that what the data does not show stays as it was. Where the fit is
    worse on the held-out samples than the old weights, with or without a corrected bias, those stay.
    """
    evidence = layer.evidence
    assert evidence is not None
    columns, with_bias = layer.columns(kept), layer.bias is not None
    sliced, moments = _coefficients(layer.weight[:, kept]), evidence.moments(with_bias)
    solved = least_squares(moments.xx, moments.xy, columns, damping=damping, prior=sliced)
    candidates = [(one, evidence.bias(one, columns) if with_bias else None) for one in (solved, sliced)]
    candidates.append((sliced, layer.bias))
    coefficients, bias, error = evidence.best(candidates, columns)
    weight = coefficients.T.reshape(len(layer.weight), len(kept), layer.taps)
    return Repaired(weight, bias, error, evidence.error(sliced, layer.bias, columns))


def _coefficients(weight: Array) -> Array:
    """[outputs, kept, taps] as [kept * taps, outputs]."""
    return weight.reshape(len(weight), -1).T


REPAIRS: Mapping[str, Repair] = MappingProxyType({"none": none, "least-squares": refit})
