"""Groups: the dimensions that weights have, each with every place where it occurs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from secateur.ir.dims.algebra import Dim, Layout, find, size_of
from secateur.ir.dims.analysis import Dimensions
from secateur.ir.dims.axes import Use
from secateur.ir.node import Op, Value


@dataclass(frozen=True, slots=True)
class Occurrence:
    """A weight's axis in which a dimension occurs.

    Attributes:
        use: which use of which constant.
        axis: non-negative.
        stride: entries of the axis that follow each other and belong to one index, where the dimension is a factor.
    """

    use: Use
    axis: int
    stride: int

    @property
    def weight(self) -> Value:
        """The constant."""
        value = self.use.op.inputs[self.use.port]
        assert value is not None
        return value


@dataclass(frozen=True)
class Group:
    """A dimension whose indices can be removed one by one, unless it is pinned.

    Attributes:
        dim: the leaf that stands for it.
        size: number of indices.
        weights: where it occurs in weights, in the order of the ops.
        parameters: weight elements that go with one index.
        pin: why none may go; None where they may.
        inexact: why removing is more than masking; None where it is not.
        name: its first weight and the axis, the stride where there is one, and a number where ops that share a weight
            have several groups there: unique, and stable across runs.
    """

    dim: Dim
    size: int
    weights: tuple[Occurrence, ...]
    parameters: int
    pin: str | None
    inexact: str | None
    name: str

    @property
    def ops(self) -> list[Op]:
        """The ops whose weights have it, each once."""
        return list(dict.fromkeys(occurrence.use.op for occurrence in self.weights))


def groups(dimensions: Dimensions) -> list[Group]:
    """All dimensions of two indices or more that floating-point constants have, in the order of the ops."""
    found: dict[Dim, list[Occurrence]] = {}
    parameters: dict[Dim, int] = {}
    counted: dict[Dim, _Parts] = {}
    for place, layouts in dimensions.layouts.items():
        if not isinstance(place, Use) or not _is_weight(dimensions, place):
            continue
        total = size_of(dim for layout in layouts for dim in layout) or 0
        for axis, layout in enumerate(layouts):
            beside = total // (size_of(layout) or 1)
            for leaf, (stride, entries) in _parts(layout, counted).items():
                found.setdefault(leaf, []).append(Occurrence(place, axis, stride))
                parameters[leaf] = parameters.get(leaf, 0) + beside * entries
    for dim, branches in dimensions.branches.items():
        weights = [value.const.size for branch in branches for value in branch.weights if value.const is not None]
        parameters[dim] = parameters.get(dim, 0) + sum(weights) // (dim.size or 1)
    named: Counter[str] = Counter()
    made = []
    for dim, occurrences in found.items():
        if dim.size is not None and dim.size > 1:
            name = _place(occurrences[0])
            named[name] += 1
            name += f"#{named[name]}" if named[name] > 1 else ""
            made.append(Group(dim, dim.size, tuple(occurrences), parameters[dim], dim.pin, dim.inexact, name))
    return made


def _place(first: Occurrence) -> str:
    return f"{first.weight.name}:{first.axis}" + (f"/{first.stride}" if first.stride > 1 else "")


def _is_weight(dimensions: Dimensions, use: Use) -> bool:
    tensor = dimensions.known.constant(use.op.inputs[use.port])
    return tensor is not None and (tensor.dtype.is_float or tensor.dtype.bits <= 8)


_Parts: TypeAlias = Mapping[Dim, tuple[int, int]]
"""Each leaf, innermost first, with the entries behind it that belong to one index, and all that go with one index."""


def _parts(layout: Layout, counted: dict[Dim, _Parts]) -> _Parts:
    """The leaves of an axis; a stride is that of the innermost factor. What is shared is counted once."""
    if len(layout) == 1:
        return _inside(find(layout[0]), counted)
    found: dict[Dim, tuple[int, int]] = {}
    whole = math.prod(find(dim).size or 1 for dim in layout)
    stride = 1
    for dim in reversed([find(dim) for dim in layout]):
        size = dim.size or 1
        for leaf, (inner, entries) in _inside(dim, counted).items():
            first, present = found.get(leaf, (stride * inner, 0))
            found[leaf] = first, present + entries * (whole // size)
        stride *= size
    return found


def _inside(dim: Dim, counted: dict[Dim, _Parts]) -> _Parts:
    if dim.is_leaf:
        return {dim: (1, 1)}
    if dim not in counted:
        found: dict[Dim, tuple[int, int]] = {}
        for term in dim.terms:
            for leaf, (inner, entries) in _inside(find(term), counted).items():
                first, present = found.get(leaf, (inner, 0))
                found[leaf] = first, present + entries
        counted[dim] = found if dim.terms else _parts(dim.factors, counted)
    return counted[dim]
