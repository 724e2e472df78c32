"""Which dimensions are the experts of mixtures, found by what is done with their indices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from secateur.ir.dims.algebra import Dim, leaves
from secateur.ir.dims.axes import Layouts, Place, Use
from secateur.ir.dims.branches import Branch
from secateur.ir.graph import Graph
from secateur.ir.node import Op

_RANKS = {"TopK": -1, "ArgMax": 0}
"""op type -> the default of the axis along which indices are chosen."""

_MIXTURES = frozenset({"MoE", "QMoE"})
_MATRICES = 3
"""The rank of a weight that has a matrix for each expert."""


def experts(graph: Graph, layouts: Mapping[Place, Layouts], branches: Mapping[Dim, Sequence[Branch]]) -> frozenset[Dim]:
    """Dimensions that have a map for each index.

    That is a branch of ops with weights of its own behind each index; or a matrix in a weight for each, of which those
    with the best scores are taken; or the first axis of the weights of an op that is a whole mixture.
    """
    found = {leaf for leaf, some in branches.items() if any(_has_matrix(branch) for branch in some)}
    ranked: set[Dim] = set()
    for op in graph.ops():
        if op.op_type in _RANKS:
            data = _layouts(layouts, op, 0)
            ranked.update(leaves(data[op.attribute("axis", _RANKS[op.op_type])]) if data else ())
        elif op.op_type in _MIXTURES:
            found.update(leaf for layout in _layouts(layouts, op, 2)[:1] for leaf in leaves(layout))
    for place, axes in layouts.items() if ranked else ():
        if isinstance(place, Use) and len(axes) >= _MATRICES:
            found |= ranked.intersection(leaf for layout in axes for leaf in leaves(layout))
    return frozenset(found)


def _has_matrix(branch: Branch) -> bool:
    return any(value.const is not None and len(value.const.shape) > 1 for value in branch.weights)


def _layouts(layouts: Mapping[Place, Layouts], op: Op, port: int) -> Layouts:
    value, use = op.input(port), Use(op, port)
    return layouts.get(use) or (layouts.get(value) if value is not None else None) or []
