"""Pairs of linear maps around an inner dimension of their own, which depth-2 methods treat as one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from secateur.ir.dims.algebra import Dim, leaves
from secateur.ir.dims.analysis import Dimensions
from secateur.ir.dims.axes import Use
from secateur.ir.dims.groups import Group, Occurrence
from secateur.ir.dims.kinds import Kind
from secateur.ir.node import Op, Value
from secateur.ir.rules.mixing import mixing_rules
from secateur.ir.rules.weights import weight_use


class Path(Enum):
    """What is between the two maps."""

    LINEAR = "linear"
    """Nothing but sums over other indices: values and outputs of attention."""
    POINTWISE = "pointwise"
    """A function of each unit, or of a few units of the same index: activations, gates, norms."""
    SOFTMAX_PRODUCT = "softmax-product"
    """The units of one are multiplied with those of the other and summed over: queries and keys."""


@dataclass(frozen=True)
class Pair:
    """Weights that make the units of a dimension, weights that read them, and the way from one to the other.

    Of queries and keys, which make the same units twice, the queries' are the makers and the keys' the readers; a
    packed weight is both.
    """

    makers: tuple[Occurrence, ...]
    readers: tuple[Occurrence, ...]
    path: Path


_MOVES = frozenset(
    "Identity Reshape Transpose Flatten Squeeze Unsqueeze Expand Cast Dropout Split Slice Concat Gather MatMul Gemm "
    "Attention MultiHeadAttention GroupQueryAttention LinearAttention".split()
)
"""Linear in the units that come through."""
_WITH_CONSTANTS = frozenset("Add Sub Mul Div Sum".split())
"""Linear (up to a bias) where everything else is constant."""


def pair_of(found: Dimensions, group: Group, kind: Kind) -> Pair | None:
    """The pair around a group of neurons, or of the width of a head; None for other kinds, or where a side is missing.

    These are the depth-2 modules of a transformer: (up and gate, down), (value, output), (query, key).
    """
    if kind not in (Kind.NEURONS, Kind.VALUE_OUTPUT, Kind.QUERY_KEY):
        return None
    readers, makers = [], []
    for occurrence in group.weights:
        use = weight_use(found.known, occurrence.use.op)
        if use is not None and use.port == occurrence.use.port and use.contracted == occurrence.axis:
            readers.append(occurrence)
        elif mixing_rules.get(occurrence.use.op) is not None and len(found.of(occurrence.use)) > 1:
            makers.append(occurrence)
    path = _walk(found, group.dim, makers)
    if kind is Kind.QUERY_KEY:
        sides = {one: _walk(found, group.dim, [one]).sides for one in makers}
        readers = [one for one in makers if 1 in sides[one]]
        makers = [one for one in makers if 0 in sides[one]]
    if not makers or not readers:
        return None
    if kind is Kind.QUERY_KEY:
        return Pair(tuple(makers), tuple(readers), Path.SOFTMAX_PRODUCT)
    return Pair(tuple(makers), tuple(readers), Path.LINEAR if path.is_linear else Path.POINTWISE)


@dataclass(frozen=True)
class _Walk:
    """The way of units to where they end: whether all of it is linear, and the operands of products they end at."""

    is_linear: bool
    sides: frozenset[int]


def _walk(found: Dimensions, dim: Dim, makers: Iterable[Occurrence]) -> _Walk:
    graph = found.known.graph
    starts = dict.fromkeys(one.use.op for one in makers)
    waiting = [value for op in starts for value in op.outputs if value is not None and _has(found, value, dim)]
    # An op that takes all of attention's weights packed ends the way of queries and keys itself.
    sides = {side for op in starts if "Attention" in op.op_type for side in (0, 1)}
    seen, linear = set(waiting), True
    while waiting:
        value = waiting.pop()
        for op in graph.consumers(value):
            made = [one for one in op.outputs if one is not None and _has(found, one, dim)]
            if not made and op.op_type != "Shape" and Use(op, 1) not in found.layouts:
                sides.update(port for port, one in enumerate(op.inputs[:2]) if one is value)
            linear &= not made or _is_linear(found, op, value)
            fresh = [one for one in made if one not in seen]
            seen.update(fresh)
            waiting.extend(fresh)
    return _Walk(linear, frozenset(sides))


def _has(found: Dimensions, value: Value, dim: Dim) -> bool:
    return any(leaf is dim for layout in found.layouts.get(value, ()) for leaf in leaves(layout))


def _is_linear(found: Dimensions, op: Op, value: Value) -> bool:
    if op.op_type in _WITH_CONSTANTS:
        return all(other is value or found.known.constant(other) is not None for other in op.inputs)
    return op.op_type in _MOVES
