"""Where scales can move from data into weights: before matrix products, with what takes up the scale there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.ir.build import emit
from secateur.ir.dims.analysis import Dimensions
from secateur.ir.graph import Graph
from secateur.ir.node import Value
from secateur.ir.rules.weights import WeightUse, strangers, weight_uses
from secateur.ir.tensor import Tensor
from secateur.passes.context import Context
from secateur.passes.scale.region import Region, Side
from secateur.passes.scale.rescale import rescale
from secateur.passes.scale.walk import region_of

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Place:
    """A region with matrix products among its readers, or one of those products alone, behind an op of its own.

    Attributes:
        region: see `Region`.
        multiplied: the data that gets a Mul in front of its readers; None where parameters take the scale up.
    """

    region: Region
    multiplied: Value | None = None

    @property
    def products(self) -> list[Side]:
        """The readers that are matrix products."""
        return [side for side in self.region.readers if not side.use.taps]

    @property
    def data(self) -> list[Value]:
        """What these read, each once."""
        return list(dict.fromkeys(side.use.data for side in self.products))

    @property
    def title(self) -> str:
        """The names of what is scaled, as reports have them."""
        return ", ".join(value.name for value in self.data)

    def by_number(self, values: dict[Value, Array]) -> Array:
        """[count] the largest of numbers [channels] of each data, over all channels that have one scale."""
        found = np.zeros(self.region.count)
        for side in self.products:
            np.maximum.at(found, side.numbers, values[side.use.data])
        return found

    def apply(self, graph: Graph, context: Context, found: Dimensions, scale: Array) -> bool:
        """Gives the place its scales [count], the first of them one; false where a number would overflow."""
        if reason := rescale(graph, found.known, self.region, scale):
            context.note(f"{self.title} keeps its scale: {reason}")
            return False
        if self.multiplied is not None:
            _multiply(graph, self.multiplied, self.region.readers, scale)
        return True


def free_regions(found: Dimensions, context: Context, wanted: Callable[[WeightUse], bool]) -> Iterator[Region | Value]:
    """The regions with free scales that layers read, each once; and the data of layers whose scales are all held."""
    seen: set[Value] = set()
    for use in weight_uses(found.known):
        if use.data in seen or not wanted(use) or found.known.constant(use.data) is not None:
            continue
        seen.add(use.data)
        region = region_of(found, use)
        if region.is_free:
            seen.update(region.values)
            yield region
        else:
            if use.tensor.dtype.is_float:
                context.note(f"{use.data.name} keeps its scale: {region.reason}")
            yield use.data


def places_of(found: Dimensions, context: Context, *, insert: bool) -> list[Place]:
    """All places before matrix products; with `insert` also those where nothing takes the scale up."""
    places = []
    readers: dict[Value, list[WeightUse]] = {}
    for use in weight_uses(found.known):
        readers.setdefault(use.data, []).append(use)
    for one in free_regions(found, context, _is_product):
        if isinstance(one, Region):
            places.append(Place(one))
        elif insert and (place := _behind_an_op(found, one, readers[one])) is not None:
            places.append(place)
    return [place for place in places if place.products]


def _is_product(use: WeightUse) -> bool:
    return use.op.key in {("", "Gemm"), ("", "MatMul")} and use.slabs == 1


def _behind_an_op(found: Dimensions, data: Value, uses: Sequence[WeightUse]) -> Place | None:
    """All matrix products that read a value, as a region of their own."""
    sides: list[Side] = []
    for use in uses if found.known.rank(data) else []:
        plain = _is_product(use) and use.tensor.dtype.is_float and not use.batch and len(use.rows) <= 1
        alike = not sides or sides[0].use.data_axis == use.data_axis
        if plain and alike and use.op.inputs.count(data) == 1 and not strangers(found.known.graph, use.weight, [use]):
            sides.append(Side(use, np.arange(1, use.inputs + 1)))
    return Place(Region({}, [], sides, [], sides[0].use.inputs + 1, None), data) if sides else None


def _multiply(graph: Graph, data: Value, readers: Sequence[Side], scale: Array) -> None:
    first = readers[0].use
    behind = 0
    if first.data_axis >= 0 and first.output_axis >= 0:
        behind = max(first.data_axis, first.output_axis) - first.data_axis
    factors = scale[readers[0].numbers].astype(first.tensor.dtype.numpy).reshape(-1, *[1] * behind)
    constant = graph.add_constant(f"{data.name}_scale", Tensor(factors))
    scaled = emit(graph, "Mul", [data, constant], outputs=[f"{data.name}_scaled"]).output
    for side in readers:
        op = side.use.op
        graph.set_inputs(op, [scaled if one is data else one for one in op.inputs])


def with_number_one(scale: Array) -> Array:
    """Scales [count] by number, of those that are free [count - 1]: the first, of what cannot be scaled, is one."""
    return np.concatenate([[1.0], scale])
