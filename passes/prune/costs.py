"""What a model costs when dimensions have other sizes, without changing it: parameters, bytes, operations, time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

from secateur.ir.dims.algebra import Dim, Layout, find, leaves
from secateur.ir.dims.analysis import Dimensions
from secateur.ir.dims.axes import Layouts, Use
from secateur.ir.node import Op
from secateur.ir.rules.cost import cost
from secateur.ir.rules.weights import weight_use

RECURRENT = frozenset({("", "LSTM"), ("", "GRU"), ("", "RNN")})

Resource: TypeAlias = Literal["params", "bytes", "macs", "latency"]
Sizes: TypeAlias = Mapping[Dim, int]
"""Sizes that leaves shall have; others stay as they are."""


@dataclass(frozen=True)
class Term:
    """Something that costs `amount` now, and in proportion to the product of the sizes of these axes."""

    amount: float
    axes: tuple[Layout, ...]

    def at(self, sizes: Sizes) -> float:
        """What it costs with these sizes."""
        return self.amount * math.prod(share(axis, sizes) for axis in self.axes)


class Costs:
    """One resource of one model as a function of the sizes of its dimensions.

    Products of two activations cost in proportion to what they give and what they sum over, layers to their weight.
    """

    def __init__(self, dimensions: Dimensions, resource: Resource, measured: Iterable[Term] = ()) -> None:
        """Looks up what costs what; of latency, that is what was `measured`."""
        terms = measured
        if resource != "latency":
            terms = _operations(dimensions) if resource == "macs" else _weights(dimensions, resource)
        self._fixed = 0.0
        self._terms: list[Term] = []
        for term in terms:
            if term.axes:
                self._terms.append(term)
            else:
                self._fixed += term.amount

    def total(self, sizes: Sizes) -> float:
        """What the model costs with these sizes."""
        return self._fixed + sum(term.at(sizes) for term in self._terms)

    def unit(self, dim: Dim) -> float:
        """What one index of a leaf is worth while everything else is as it is."""
        leaf = find(dim)
        assert leaf.size is not None
        less = {leaf: leaf.size - 1}
        return sum(term.amount - term.at(less) for term in self._of.get(leaf, ()))

    @cached_property
    def _of(self) -> Mapping[Dim, list[Term]]:
        """For each leaf the terms that it is part of."""
        found: dict[Dim, list[Term]] = {}
        for term in self._terms:
            for leaf in dict.fromkeys(leaf for axis in term.axes for leaf in leaves(axis)):
                found.setdefault(leaf, []).append(term)
        return found


def share(axis: Layout, sizes: Sizes) -> float:
    """The size of an axis relative to what it is now."""
    before, after = _size(axis, {}), _size(axis, sizes)
    return after / before if before else 1.0


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


def free(layouts: Iterable[Layout]) -> tuple[Layout, ...]:
    """The axes that can change."""
    return tuple(layout for layout in layouts if any(leaf.pin is None for leaf in leaves(layout)))


def _weights(dimensions: Dimensions, resource: Resource) -> Iterable[Term]:
    """Each constant once, as its first reader sees it."""
    seen, experts = set(), _experts(dimensions)
    for place, layouts in dimensions.layouts.items():
        if not isinstance(place, Use):
            continue
        value = place.op.inputs[place.port]
        tensor = dimensions.known.constant(value)
        if tensor is None or value in seen or not (tensor.dtype.is_float or tensor.dtype.bits <= 8):
            continue
        seen.add(value)
        amount = tensor.size if resource == "params" else tensor.size * tensor.dtype.bits / 8
        yield Term(amount, free((*layouts, *experts.get(place.op, ()))))


def _operations(dimensions: Dimensions) -> Iterable[Term]:
    experts = _experts(dimensions)
    for op, macs in cost(dimensions.known).macs.items():
        parts = _parts(dimensions, op)
        whole = sum(part for part, _ in parts) or 1.0
        for part, layouts in parts:
            yield Term(macs * part / whole, free((*layouts, *experts.get(op, ()))))


def _experts(dimensions: Dimensions) -> Mapping[Op, tuple[Layout, ...]]:
    """For ops that go with one index of a dimension, that dimension: of its branches each is taken for the mean."""
    found: dict[Op, tuple[Layout, ...]] = {}
    for dim, branches in dimensions.branches.items():
        for op in (op for branch in branches for op in branch.ops):
            found[op] = (*found.get(op, ()), (dim,))
    return found


def _parts(dimensions: Dimensions, op: Op) -> list[tuple[float, Layouts]]:
    """What an op's multiply-accumulates are the sum of: each part's size, and the axes that it is in proportion to.

    Of axes only those that can shrink need be there.
    """
    known, layouts = dimensions.known, dimensions.layouts

    def size(port: int) -> float:
        shape = known.shape(op.input(port)) or ()
        return math.prod(dim if isinstance(dim, int) else 1 for dim in shape)

    if op.key in RECURRENT:
        return [(size(port), layouts.get(Use(op, port), [])) for port in (1, 2)]
    if op.key == ("", "Attention"):
        # Queries with keys, and what comes of it with values; the output is as wide as those.
        made = known.shape(op.output) or ()
        read, written = op.input(0), op.output
        return [
            (size(0), [] if read is None else layouts.get(read, [])),
            (math.prod(dim if isinstance(dim, int) else 1 for dim in made), layouts.get(written, [])),
        ]
    return [(1.0, _involved(dimensions, op))]


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
