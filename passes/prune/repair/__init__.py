"""The repair axis: new numbers for a layer that lost inputs. One small file for each way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from secateur.passes.prune.choices import Choices
from secateur.passes.prune.problem import Array, Indices, Layer, Problem


@dataclass(frozen=True)
class Repaired:
    """What a layer has when only some units stay.

    Attributes:
        matrix: [outputs, channels * taps], zero in the columns of removed units.
        bias: [outputs], or None where the layer takes none.
        error: squared error on the held-out samples divided by the variance of the target, 1 - R²; None without data.
        unrepaired: the same without any repair.
        note: why something else was done than what the repair is for; empty where it was not.
        first: weights and biases of the layers that make the units, as `Problem.pairing` has them; empty where they
            stay.
    """

    matrix: Array
    bias: Array | None
    error: float | None = None
    unrepaired: float | None = None
    note: str = ""
    first: tuple[tuple[Array, Array | None], ...] = ()


Repair: TypeAlias = Callable[[Problem, Layer, Indices], Repaired]
"""(problem, one of its layers, kept units) to what the layer has from then on."""


def filled(layer: Layer, columns: Indices, coefficients: Array) -> Array:
    """[kept columns, outputs] as a matrix [outputs, all columns]."""
    matrix = np.zeros(layer.matrix.shape)
    matrix[:, columns] = coefficients.T
    return matrix


def judged(
    layer: Layer, columns: Indices, candidates: Sequence[tuple[Array, Array | None]], note: str = ""
) -> Repaired:
    """The candidate (coefficients [kept columns, outputs], bias) that does best on the held-out samples.

    The old weights and bias are always among them; without data the first candidate is taken.
    """
    everything = [*candidates, (layer.matrix[:, columns].T, layer.bias)]
    if layer.evidence is None:
        coefficients, bias = everything[0]
        return Repaired(filled(layer, columns, coefficients), bias, note=note)
    which, error = layer.evidence.judge(everything, columns)
    coefficients, bias = everything[which]
    unrepaired = layer.evidence.error(*everything[-1], columns)
    return Repaired(filled(layer, columns, coefficients), bias, error, unrepaired, note)


_TABLE: Mapping[str, str] = MappingProxyType(
    {
        "alternating": "secateur.passes.prune.repair.alternating:alternating",
        "bias": "secateur.passes.prune.repair.bias:bias",
        "fold": "secateur.passes.prune.repair.own_output:fold",
        "least-squares": "secateur.passes.prune.repair.least_squares:refit",
        "merge": "secateur.passes.prune.repair.merge:udfc",
        "neuron-merging": "secateur.passes.prune.repair.merge:neuron_merging",
        "none": "secateur.passes.prune.repair.none:none",
        "obs": "secateur.passes.prune.repair.own_output:obs",
        "relu-aware": "secateur.passes.prune.repair.relu_aware:relu_aware",
    }
)

REPAIRS: Choices[Repair] = Choices("repair", _TABLE)
"""By name; other packages add theirs under the entry point group `secateur.repair`."""

FROM_MAKERS = frozenset({"merge", "neuron-merging"})
"""Those that look at what makes the units."""

DATA_FREE = frozenset({"none"}) | FROM_MAKERS
"""Those that look at weights only."""

REFITS = frozenset({"alternating", "least-squares", "relu-aware"})
"""Those that solve for new weights, and judge them on held-out samples."""

OF_PAIRS = frozenset({"alternating"})
"""Those that give the layers that make the units new numbers, too."""

FROM_ROWS = frozenset({"relu-aware"}) | OF_PAIRS
"""Those that need rows of the data, which moments cannot stand in for."""

ROWS = 8192
"""How many rows these get."""
