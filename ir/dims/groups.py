"""Groups: the dimensions that weights have, each with every place where it occurs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
    """

    dim: Dim
    size: int
    weights: tuple[Occurrence, ...]
    parameters: int
    pin: str | None
    inexact: str | None

    @property
    def name(self) -> str:
        """The first weight that makes it and the axis: stable across runs."""
        first = self.weights[0]
        return f"{first.weight.name}:{first.axis}" + (f"/{first.stride}" if first.stride > 1 else "")

    @property
    def ops(self) -> list[Op]:
        """The ops whose weights have it, each once."""
        return list(dict.fromkeys(occurrence.use.op for occurrence in self.weights))


def groups(dimensions: Dimensions) -> list[Group]:
    """All dimensions of two indices or more that floating-point constants have, in the order of the ops."""
    found: dict[Dim, list[Occurrence]] = {}
    parameters: dict[Dim, int] = {}
    for place, layouts in dimensions.layouts.items():
        if not isinstance(place, Use) or not _is_weight(dimensions, place):
            continue
        total = size_of(dim for layout in layouts for dim in layout) or 0
        for axis, layout in enumerate(layouts):
            for leaf, stride in _with_strides(layout):
                found.setdefault(leaf, []).append(Occurrence(place, axis, stride))
                parameters[leaf] = parameters.get(leaf, 0) + _share(total, layout, leaf)
    return [
        Group(dim, dim.size, tuple(weights), parameters[dim], dim.pin, dim.inexact)
        for dim, weights in found.items()
        if dim.size is not None and dim.size > 1
    ]


def _is_weight(dimensions: Dimensions, use: Use) -> bool:
    tensor = dimensions.known.constant(use.op.inputs[use.port])
    return tensor is not None and (tensor.dtype.is_float or tensor.dtype.bits <= 8)


def _with_strides(layout: Layout) -> Iterator[tuple[Dim, int]]:
    """Each leaf of a layout, once, with the number of entries behind it that belong to one index."""
    seen: set[Dim] = set()
    stride = 1
    for dim in reversed([find(dim) for dim in layout]):
        for leaf, inner in _inside(dim):
            if leaf not in seen:
                seen.add(leaf)
                yield leaf, stride * inner
        stride *= dim.size or 1


def _inside(dim: Dim) -> Iterator[tuple[Dim, int]]:
    if dim.is_leaf:
        yield dim, 1
    elif dim.factors:
        yield from _with_strides(dim.factors)
    else:
        for term in dim.terms:
            yield from _inside(find(term))


def _share(total: int, layout: Layout, leaf: Dim) -> int:
    """Elements of a weight that go with one index of a leaf in one of its axes."""
    whole = size_of(layout) or 1
    return total // whole * _entries(layout, leaf)


def _entries(layout: Layout, leaf: Dim) -> int:
    """Entries of an axis that go with one index of a leaf."""
    count, rest = 0, 1
    for dim in map(find, layout):
        inside = (
            1
            if dim is leaf
            else _entries(dim.factors, leaf)
            if dim.factors
            else sum(_entries((term,), leaf) for term in dim.terms)
        )
        count, rest = count * (dim.size or 1) + inside * rest, rest * (dim.size or 1)
    return count
