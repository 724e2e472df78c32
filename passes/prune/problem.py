"""One decision of structured pruning as arrays: what criteria choose from, and what repairs mend. No graph in here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from secateur.calib.gram import Moments
from secateur.ir.rules.known import Known
from secateur.ir.tensor import Tensor
from secateur.passes.layers.evidence import Evidence
from secateur.passes.layers.matrix import bias_of, clip_of, matrix_of
from secateur.passes.prune.affine import Affine, affine_of
from secateur.passes.prune.experts import Routing
from secateur.passes.prune.pairing import Pairing
from secateur.passes.prune.units import Units

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Layer:
    """A layer that loses inputs.

    Attributes:
        matrix: [outputs, channels * taps] float64, so that `rows @ matrix.T + bias` is what the layer gives.
        bias: [outputs] float64; None where the layer takes none.
        unit: [channels] the unit that each input channel belongs to, -1 for none.
        evidence: moments of its inputs and targets; None without data.
        clip: the least and the greatest output that what follows lets through, where that is a Relu or Clip.
        stake: what its errors count relative to; None for the energy of its targets.
    """

    matrix: Array
    bias: Array | None
    unit: Indices
    evidence: Evidence | None
    clip: tuple[float, float] | None = None
    stake: float | None = None

    @property
    def taps(self) -> int:
        """Columns for each input channel."""
        return int(self.matrix.shape[1]) // len(self.unit)

    @property
    def seen(self) -> Evidence:
        """The evidence, for those who cannot do without."""
        assert self.evidence is not None, "a criterion or repair that needs data was run without"
        return self.evidence

    @cached_property
    def column_unit(self) -> Indices:
        """[channels * taps] the unit that each column belongs to, -1 for none."""
        return np.repeat(self.unit, self.taps)

    def columns(self, kept: Indices) -> Indices:
        """The columns that stay with the kept units, those that belong to no unit among them."""
        return np.flatnonzero(np.isin(self.column_unit, kept) | (self.column_unit < 0))

    def gone(self, kept: Indices) -> Indices:
        """The columns that go when only these units stay."""
        return np.flatnonzero(~np.isin(self.column_unit, kept) & (self.column_unit >= 0))

    def members(self, size: int) -> list[Indices]:
        """For each of the units its columns, in their order. Units may have different numbers of them."""
        return members_of(self.column_unit, size)

    def by_unit(self, columns: Array, size: int) -> Array:
        """[size] sums over the columns [channels * taps] of each unit."""
        inside = self.column_unit >= 0
        return np.bincount(self.column_unit[inside], columns[inside], size).astype(np.float64)

    def energy(self, size: int) -> Array:
        """[size] sum of squares of what the layer reads each unit with."""
        return self.by_unit(np.einsum("nd,nd->d", self.matrix, self.matrix), size)

    def about_units(self) -> tuple[Moments, Indices]:
        """Moments of the columns that belong to units, the target less what the other columns contribute; and these."""
        moments = self.seen.moments(with_bias=self.bias is not None)
        columns = np.flatnonzero(self.column_unit >= 0)
        others = np.flatnonzero(self.column_unit < 0)
        if not len(others):
            return moments, columns
        fixed = self.matrix[:, others].T
        xx, xy = moments.xx[np.ix_(columns, columns)], moments.xy[columns]
        crossed = moments.xx[np.ix_(others, others)] @ fixed
        yy = moments.yy + np.einsum("dn,dn->n", fixed, crossed - 2 * moments.xy[others])
        left = xy - moments.xx[np.ix_(columns, others)] @ fixed
        return Moments(moments.count, xx, left, np.maximum(yy, 0.0)), columns


@dataclass(frozen=True)
class Made:
    """A weight that makes units: its entries along `axis` belong to the units that `unit` says, -1 for none."""

    tensor: Tensor
    axis: int
    unit: Indices
    size: int

    @cached_property
    def energy(self) -> Array:
        """[size] the sum of squares of what belongs to each unit."""
        squares = np.einsum("ij,ij->i", self._rows, self._rows, dtype=np.float64)
        inside = self.unit >= 0
        return np.bincount(self.unit[inside], squares[inside], self.size).astype(np.float64)

    @cached_property
    def rows(self) -> Array:
        """[size, entries] float64, all that belongs to each unit in one row; short ones end in zeros."""
        return _padded([self._rows[members].reshape(-1) for members in members_of(self.unit, self.size)])

    @property
    def _rows(self) -> NDArray[np.floating]:
        array = self.tensor.numpy()
        array = array if array.dtype.kind == "f" else array.astype(np.float64)
        return np.moveaxis(array, self.axis, 0).reshape(array.shape[self.axis], -1)


@dataclass(frozen=True)
class Problem:
    """Which of `size` units to keep.

    Attributes:
        layers: those that read them.
        makers: the weights that make them, of rank 2 or more.
        scales: [size] each, the factors that normalisations multiply them by afterwards.
        random: a generator of this decision's own, seeded by the run and the group.
        damping: what is added to the diagonal of Gram matrices, relative to its mean.
        affine: what makes the units, where that is asked for and is one affine map.
        routing: what the data says of experts, where the units are experts whose shares can be seen.
        gates: [samples, size] gradients of the model's surprise at its own answers with respect to gates that multiply
            the units (`secateur.passes.prune.gates`), where those were asked for.
        pairing: the layers that make the units, with what they read, where that is asked for and units are made so.
    """

    size: int
    layers: tuple[Layer, ...]
    makers: tuple[Made, ...]
    scales: tuple[Array, ...]
    random: np.random.Generator
    damping: float
    affine: Affine | None = None
    routing: Routing | None = None
    gates: Array | None = None
    pairing: Pairing | None = None

    @property
    def rows(self) -> list[Array]:
        """[size, entries] for each weight that makes the units; for each that reads them where none makes them."""
        if self.makers:
            return [maker.rows for maker in self.makers]
        return [
            _padded([layer.matrix[:, columns].reshape(-1) for columns in layer.members(self.size)])
            for layer in self.layers
        ]


def members_of(unit: Indices, size: int) -> list[Indices]:
    """For each of `size` units the places where `unit` names it."""
    order = np.argsort(unit, kind="stable")
    bounds = np.searchsorted(unit[order], np.arange(size + 1))
    return [order[start:end] for start, end in pairwise(bounds)]


def _padded(rows: Sequence[NDArray[np.floating]]) -> Array:
    """Rows of different lengths as one float64 array, filled up with zeros."""
    padded = np.zeros((len(rows), max(map(len, rows), default=0)))
    for into, row in zip(padded, rows, strict=True):
        into[: len(row)] = row
    return padded


def problem_of(
    known: Known,
    units: Units,
    evidence: Sequence[Evidence] | None,
    random: np.random.Generator,
    damping: float,
    with_affine: bool = False,
) -> Problem:
    """The arrays of a group, with the weights that the graph has now.

    Without evidence the layers that read the units are looked at only where no weight makes them, or where these are
    wanted as an affine map.
    """
    readers = units.readers if evidence is not None or not units.makers or with_affine else ()
    layers = tuple(
        Layer(
            matrix_of(reader.use),
            bias_of(reader.use, known.graph),
            reader.unit,
            None if evidence is None else evidence[index],
            clip_of(known.graph, reader.use),
        )
        for index, reader in enumerate(readers)
    )
    makers, scales = [], []
    for maker in units.makers:
        tensor = known.constant(maker.occurrence.weight)
        assert tensor is not None
        makers.append(Made(tensor, maker.occurrence.axis, maker.unit, units.group.size))
    if any(units.branches):
        makers.append(_branches(units))
    for scale in units.scales:
        tensor = known.constant(scale.occurrence.weight)
        assert tensor is not None
        factors, inside = np.abs(tensor.numpy().astype(np.float64)).reshape(-1), scale.unit >= 0
        scales.append(np.bincount(scale.unit[inside], factors[inside], units.group.size).astype(np.float64))
    affine = affine_of(known, units) if with_affine else None
    return Problem(units.group.size, layers, tuple(makers), tuple(scales), random, damping, affine)


def _branches(units: Units) -> Made:
    """All weights of each unit's ops in one row, filled up with zeros."""
    tensors = [[value.const for value in branch if value.const is not None] for branch in units.branches]
    rows = np.zeros((len(tensors), max(sum(tensor.size for tensor in some) for some in tensors)), np.float32)
    for row, some in zip(rows, tensors, strict=True):
        numbers = [tensor.numpy().astype(np.float32).reshape(-1) for tensor in some]
        row[: sum(map(len, numbers))] = np.concatenate([*numbers, rows[0, :0]])
    return Made(Tensor(rows), 0, np.arange(len(rows)), units.group.size)
