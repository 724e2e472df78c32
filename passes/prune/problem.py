"""One decision of structured pruning as arrays: what criteria choose from, and what repairs mend. No graph in here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateur.ir.rules.known import Known
from secateur.passes.layers.evidence import Evidence
from secateur.passes.layers.matrix import bias_of, matrix_of
from secateur.passes.prune.units import Units


@dataclass(frozen=True)
class Layer:
    """A layer that loses inputs.

    Attributes:
        matrix: [outputs, channels * taps] float64, so that `rows @ matrix.T + bias` is what the layer gives.
        bias: [outputs] float64; None where the layer takes none.
        unit: [channels] the unit that each input channel belongs to, -1 for none.
        evidence: moments of its inputs and targets; None without data.
    """

    matrix: NDArray[np.float64]
    bias: NDArray[np.float64] | None
    unit: NDArray[np.int64]
    evidence: Evidence | None

    @property
    def taps(self) -> int:
        """Columns for each input channel."""
        return int(self.matrix.shape[1]) // len(self.unit)

    def columns(self, kept: NDArray[np.int64]) -> NDArray[np.int64]:
        """The columns that stay with the kept units, those that belong to no unit among them."""
        return spread(np.flatnonzero(np.isin(self.unit, kept) | (self.unit < 0)), self.taps)


@dataclass(frozen=True)
class Problem:
    """Which of `size` units to keep.

    Attributes:
        layers: those that read them.
        makers: for each weight that makes them, [size] the sum of squares of what belongs to each unit.
        random: a generator of this decision's own, seeded by the run and the group.
    """

    size: int
    layers: tuple[Layer, ...]
    makers: tuple[NDArray[np.float64], ...]
    random: np.random.Generator


def problem_of(known: Known, units: Units, evidence: Sequence[Evidence] | None, random: np.random.Generator) -> Problem:
    """The arrays of a group, with the weights that the graph has now.

    Without evidence the layers that read the units are looked at only where no weight makes them.
    """
    readers = units.readers if evidence is not None or not units.makers else ()
    layers = tuple(
        Layer(matrix_of(reader.use), bias_of(reader.use), reader.unit, None if evidence is None else evidence[index])
        for index, reader in enumerate(readers)
    )
    makers: list[NDArray[np.float64]] = []
    for maker in units.makers:
        tensor = known.constant(maker.occurrence.weight)
        assert tensor is not None
        entries = np.moveaxis(tensor.numpy().astype(np.float64), maker.occurrence.axis, 0)
        energy, inside = np.square(entries.reshape(len(entries), -1)).sum(axis=1), maker.unit >= 0
        makers.append(np.bincount(maker.unit[inside], energy[inside], units.group.size).astype(np.float64))
    return Problem(units.group.size, layers, tuple(makers), random)


def spread(channels: NDArray[np.int64], taps: int) -> NDArray[np.int64]:
    """The columns that belong to input channels."""
    return (channels[:, None] * taps + np.arange(taps)).reshape(-1)
