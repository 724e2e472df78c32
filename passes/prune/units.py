"""The units of a group as layers see them: who sums over them, who makes them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateur.ir.dims.algebra import Layout, expand, owners
from secateur.ir.dims.analysis import Dimensions
from secateur.ir.dims.groups import Group, Occurrence
from secateur.ir.node import Value
from secateur.ir.rules.scales import scale_of
from secateur.ir.rules.weights import WeightUse, weight_use

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Reader:
    """A layer that sums over the units. `unit[i]` is the unit that its input channel i belongs to, -1 for none."""

    use: WeightUse
    unit: Indices


@dataclass(frozen=True)
class Maker:
    """A weight of rank 2 or more that has entries for each unit along an axis, other than to sum over them."""

    occurrence: Occurrence
    unit: Indices


@dataclass(frozen=True)
class Units:
    """A group and the layers around it, in the order of the ops; `scales` are the factors of normalisations.

    Of experts, `branches` are the weights that go with each, where these lie in ops of their own.
    """

    group: Group
    readers: tuple[Reader, ...]
    makers: tuple[Maker, ...]
    scales: tuple[Maker, ...]
    branches: tuple[tuple[Value, ...], ...] = ()
    are_experts: bool = False


def units_of(dimensions: Dimensions, group: Group) -> Units:
    """Looks up the readers and makers of a group. Weights are those that the graph has now."""
    known = dimensions.known
    readers: list[Reader] = []
    makers: list[Maker] = []
    scales: list[Maker] = []
    owned: dict[Layout, Indices] = {}

    def unit_of(occurrence: Occurrence) -> Indices:
        layout = tuple(expand(dimensions.layouts[occurrence.use][occurrence.axis]))
        if layout not in owned:
            owned[layout] = owners(layout, group.dim)
        return owned[layout]

    for occurrence in group.weights:
        op, port = occurrence.use.op, occurrence.use.port
        use = weight_use(known, op)
        if use is not None and use.port == port and use.contracted == occurrence.axis:
            if use.groups == 1 and not use.is_transposed and use.has_samples_first:
                readers.append(Reader(use, unit_of(occurrence)))
            continue
        tensor = known.constant(occurrence.weight)
        if tensor is None:
            continue
        if len(tensor.shape) > 1:
            makers.append(Maker(occurrence, unit_of(occurrence)))
        elif scale_of(op) is occurrence.weight:
            scales.append(Maker(occurrence, unit_of(occurrence)))
    branches = tuple(branch.weights for branch in dimensions.branches.get(group.dim, ()))
    return Units(
        group, tuple(readers), tuple(makers), tuple(scales), branches, are_experts=group.dim in dimensions.experts
    )


def step_of(units: Units, align: int) -> int:
    """Units must be kept in multiples of this for every axis that they are part of to be a multiple of `align`.

    Experts may be of any number: no kernel sums over them.
    """
    step = 1
    if units.are_experts:
        return step
    for unit in [*(reader.unit for reader in units.readers), *(maker.unit for maker in units.makers)]:
        entries = int(np.count_nonzero(unit == 0))
        step = math.lcm(step, align // math.gcd(align, entries))
    return step
