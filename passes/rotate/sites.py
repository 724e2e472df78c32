"""Where the width of a head can be given another basis: what makes it, what it meets, and only moves between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateur.ir.dims.algebra import Dim, Layout, expand, find, leaves, owners, size_of
from secateur.ir.dims.analysis import Dimensions
from secateur.ir.dims.groups import Group, Occurrence
from secateur.ir.dims.kinds import Kind
from secateur.ir.dims.pairs import pair_of
from secateur.ir.graph import Graph
from secateur.ir.node import Op, Value
from secateur.ir.rules.weights import WeightUse, weight_use
from secateur.passes.layers.matrix import added_bias

Indices = NDArray[np.int64]

_MOVES = frozenset(
    "Identity Reshape Transpose Flatten Squeeze Unsqueeze Expand Cast Dropout Split Slice Gather".split()
)
"""Ops that hand on all of a head's width as it is."""


@dataclass(frozen=True)
class Side:
    """Entries of a layer's axis: `heads[key]` is [copies, width], the entries of a head in the order of its width.

    Several copies are query heads that share keys and values.
    """

    use: WeightUse
    heads: dict[tuple[int, ...], Indices]


@dataclass(frozen=True)
class Site:
    """The width of the heads of one attention: `made` are outputs of a layer; `met` outputs too, or (values) inputs."""

    group: Group
    kind: Kind
    made: Side
    met: Side


def site_of(found: Dimensions, group: Group, kind: Kind) -> Site | str:
    """The site of a group of the width of heads; or why there is none."""
    pair = pair_of(found, group, kind)
    if pair is None or len(pair.makers) != 1 or len(pair.readers) != 1:
        return "not one layer makes each of the two sides"
    made, met = (_use(found, side) for side in (pair.makers[0], pair.readers[0]))
    if made is None or met is None:
        return "its weights are not those of plain layers"
    same = pair.makers[0] == pair.readers[0]
    pieces = [_pieces(found, one, group.dim) for one in (pair.makers[0], pair.readers[0])]
    if len(pieces[0]) != 1 + same or len(pieces[1]) != 1 + same:
        return "both sides lie in one weight, and cannot be told apart"
    if reason := _hindrance(found, group, kind, [made, met]):
        return reason
    shared = _shared(found, pair.makers[0], pair.readers[0], group.dim)
    sides = [
        _side(found, one, use, piece, (group.dim, shared))
        for one, use, piece in zip(
            (pair.makers[0], pair.readers[0]), (made, met), (pieces[0][0], pieces[1][-1]), strict=True
        )
    ]
    if sides[0] is None or sides[1] is None or sides[0].heads.keys() != sides[1].heads.keys():
        return "its indices go in pairs, as rotary positions turn them"
    return Site(group, kind, sides[0], sides[1])


def _use(found: Dimensions, occurrence: Occurrence) -> WeightUse | None:
    use = weight_use(found.known, occurrence.use.op)
    if use is None or use.port != occurrence.use.port or use.groups != 1 or len(use.tensor.shape) != 2:
        return None
    alone = found.known.graph.consumers(use.weight) == [use.op]
    return use if alone and use.tensor.dtype.is_float and use.has_samples_first else None


def _layout(found: Dimensions, occurrence: Occurrence) -> Layout:
    return tuple(expand(found.layouts[occurrence.use][occurrence.axis]))


def _pieces(found: Dimensions, occurrence: Occurrence, dim: Dim) -> list[slice]:
    """The parts of an axis with the dimension: the whole, or of a packed weight the terms of the sum."""
    layout = _layout(found, occurrence)
    if len(layout) != 1 or not layout[0].terms:
        return [slice(None)]
    pieces, start = [], 0
    for term in map(find, layout[0].terms):
        end = start + (size_of([term]) or 0)
        if any(leaf is dim for leaf in leaves([term])):
            pieces.append(slice(start, end))
        start = end
    return pieces


def _shared(found: Dimensions, one: Occurrence, other: Occurrence, dim: Dim) -> list[Dim]:
    """The other dimensions that both axes have: heads."""
    there = set(leaves(_layout(found, other)))
    return [leaf for leaf in dict.fromkeys(leaves(_layout(found, one))) if leaf in there and leaf is not dim]


def _side(
    found: Dimensions, occurrence: Occurrence, use: WeightUse, piece: slice, dims: tuple[Dim, Sequence[Dim]]
) -> Side | None:
    """The entries by heads; None where an index has more of them in a head than other indices have."""
    layout, (dim, shared) = _layout(found, occurrence), dims
    unit = owners(layout, dim)
    keys = np.stack([owners(layout, leaf) for leaf in shared] or [np.zeros_like(unit)], axis=1)
    entries = np.arange(len(unit))[piece]
    entries = entries[unit[entries] >= 0]
    heads: dict[tuple[int, ...], Indices] = {}
    size = dim.size or 1
    for key in dict.fromkeys(map(tuple, keys[entries].tolist())):
        inside = entries[(keys[entries] == key).all(axis=1)]
        if len(inside) % size or not np.array_equal(unit[inside], np.tile(np.arange(size), len(inside) // size)):
            return None
        heads[key] = inside.reshape(-1, size)
    return Side(use, heads)


def _hindrance(found: Dimensions, group: Group, kind: Kind, uses: Sequence[WeightUse]) -> str | None:
    """What keeps the width from being given another basis; None where nothing does."""
    graph = found.known.graph
    behind = [added.op for use in uses if (added := added_bias(graph, use)) is not None]
    known = {use.op for use in uses} | set(behind)
    if other := next((one.use.op for one in group.weights if one.use.op not in known), None):
        return f"{other} has numbers for each of its indices, too"
    starts = {use.op.output for use in uses} if kind is Kind.QUERY_KEY else {uses[0].op.output}
    waiting, seen = list(starts), set(starts)
    while waiting:
        value = waiting.pop()
        if value in graph.outputs:
            return f"{value.name} is an output of the model"
        for op in graph.consumers(value):
            made = [] if op is uses[1].op else _with(found, op.outputs, group.dim)
            if not (_hands_on(graph, op, value, kind, behind) if made else _ends(op, value, kind, uses)):
                return f"{op} does more than hand it on"
            waiting.extend(one for one in made if one not in seen)
            seen.update(made)
    return None


def _with(found: Dimensions, values: Sequence[Value | None], dim: Dim) -> list[Value]:
    """Those values that have the dimension."""
    return [
        one
        for one in values
        if one is not None and any(leaf is dim for layout in found.layouts.get(one, ()) for leaf in leaves(layout))
    ]


def _ends(op: Op, value: Value, kind: Kind, uses: Sequence[WeightUse]) -> bool:
    """True where the way of the width rightly ends at an op."""
    if kind is Kind.VALUE_OUTPUT:
        return op is uses[1].op and value is uses[1].data
    if op.key == ("", "Attention"):
        return _is_bare(op)
    return op.key in {("", "MatMul"), ("", "Shape")}


def _is_bare(op: Op) -> bool:
    """True where an attention neither takes a past nor gives away keys and values."""
    return not any(op.input(port) for port in (4, 5)) and all(one is None for one in op.outputs[1:])


def _hands_on(graph: Graph, op: Op, value: Value, kind: Kind, behind: Sequence[Op]) -> bool:
    if op.domain not in ("", "ai.onnx"):
        return False
    if op in behind or op.op_type in _MOVES:
        return True
    if op.op_type in ("Mul", "Div"):
        others = [graph.constant(other) for other in op.inputs if other is not value]
        in_place = op.op_type == "Mul" or op.inputs[0] is value
        return in_place and all(other is not None and other.size == 1 for other in others)
    if kind is Kind.VALUE_OUTPUT:
        if op.op_type == "MatMul":
            return op.inputs[1] is value and op.inputs[0] is not value
        return op.op_type == "Attention" and op.inputs[2] is value and _is_bare(op)
    return False
