"""What a model costs when dimensions have other sizes, without changing it: parameters, bytes, multiply-accumulates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from secateur.ir.dims.algebra import Dim, Layout, find, leaves
from secateur.ir.dims.analysis import Dimensions
from secateur.ir.dims.axes import Layouts, Use
from secateur.ir.node import Op
from secateur.ir.rules.cost import cost
from secateur.ir.rules.weights import weight_use

Resource: TypeAlias = Literal["params", "bytes", "macs"]
Sizes: TypeAlias = Mapping[Dim, int]
"""Sizes that leaves shall have; others stay as they are."""


@dataclass(frozen=True)
class _Term:
    """Something that costs `amount` now, and in proportion to the product of the sizes of these axes."""

    amount: float
    axes: tuple[Layout, ...]


class Costs:
    """One resource of one model as a function of the sizes of its dimensions.

    Products of two activations cost in proportion to what they give and what they sum over, layers to their weight.
    """

    def __init__(self, dimensions: Dimensions, resource: Resource) -> None:
        terms = _operations(dimensions) if resource == "macs" else _weights(dimensions, resource)
        self._fixed = 0.0
        self._terms: list[_Term] = []
        for term in terms:
            if term.axes:
                self._terms.append(term)
            else:
                self._fixed += term.amount

    def total(self, sizes: Sizes) -> float:
        """What the model costs with these sizes."""
        return self._fixed + sum(term.amount * _share(term.axes, sizes) for term in self._terms)

    def unit(self, dim: Dim) -> float:
        """What one index of a leaf is worth while everything else is as it is."""
        leaf = find(dim)
        assert leaf.size is not None
        mine = [term for term in self._terms if any(leaf in leaves(axis) for axis in term.axes)]
        less = {leaf: leaf.size - 1}
        return sum(term.amount * (1 - _share(term.axes, less)) for term in mine)


def _share(axes: Iterable[Layout], sizes: Sizes) -> float:
    share = 1.0
    for axis in axes:
        before, after = _size(axis, {}), _size(axis, sizes)
        share *= after / before if before else 1.0
    return share


def _size(layout: Iterable[Dim], sizes: Sizes) -> int:
    """Entries of an axis; sizes that nobody knows count as one."""
    count = 1
    for dim in map(find, layout):
        if dim.is_leaf:
            count *= sizes.get(dim, dim.size or 1)
        elif dim.factors:
            count *= _size(dim.factors, sizes)
        else:
            count *= sum(_size((term,), sizes) for term in dim.terms)
    return count


def _free(layouts: Iterable[Layout]) -> tuple[Layout, ...]:
    """The axes that can change."""
    return tuple(layout for layout in layouts if any(leaf.pin is None for leaf in leaves(layout)))


def _weights(dimensions: Dimensions, resource: Resource) -> Iterable[_Term]:
    """Each constant once, as its first reader sees it."""
    seen = set()
    for place, layouts in dimensions.layouts.items():
        if not isinstance(place, Use):
            continue
        value = place.op.inputs[place.port]
        tensor = dimensions.known.constant(value)
        if tensor is None or value in seen or not (tensor.dtype.is_float or tensor.dtype.bits <= 8):
            continue
        seen.add(value)
        amount = tensor.size if resource == "params" else tensor.size * tensor.dtype.bits / 8
        yield _Term(amount, _free(layouts))


def _operations(dimensions: Dimensions) -> Iterable[_Term]:
    for op, macs in cost(dimensions.known).macs.items():
        yield _Term(macs, _free(_involved(dimensions, op)))


def _involved(dimensions: Dimensions, op: Op) -> Layouts:
    """The axes that an op's multiply-accumulates are in proportion to, of those that can shrink."""
    use = weight_use(dimensions.known, op)
    if use is not None and (weight := dimensions.layouts.get(Use(op, use.port))) is not None:
        return weight
    made = next((value for value in op.outputs if value is not None), None)
    read = op.input(0)
    if made is None or read is None:
        return []
    summed = dimensions.layouts.get(read, [])[-1:]
    return [*dimensions.layouts.get(made, []), *summed]
