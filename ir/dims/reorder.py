"""Reordering dimensions: the same function from weights in another order, at no cost when the model runs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from secateur.ir.dims.algebra import Dim, Indices, find
from secateur.ir.dims.analysis import Dimensions
from secateur.ir.dims.order import fixed
from secateur.ir.dims.resize import Resizing
from secateur.ir.dims.slices import Slice, slice_weights
from secateur.ir.errors import RefusedError
from secateur.ir.graph import Graph


def reorder(graph: Graph, dimensions: Dimensions, orders: Mapping[Dim, Indices]) -> list[Slice]:
    """Puts indices `order[0], order[1], ...` of each dimension first, second, ... wherever it occurs in a weight.

    The model computes what it did: all that makes these indices and all that reads them changes places alike. The graph
    is changed in place; no op, shape or attribute changes, so that the analysis holds afterwards.

    Returns:
        the order of which axis of which weight.

    Raises:
        RefusedError: the order of a dimension is fixed (see `order.fixed`), or something is no permutation of it.
    """
    held = fixed(dimensions)
    chosen = {find(dim): np.asarray(order, np.int64) for dim, order in orders.items()}
    for dim, order in chosen.items():
        where = f"the dimension of {dim.size} first met at {dim.origin!r}"
        if not dim.is_leaf:
            raise RefusedError(f"{where} is made of others", hint="reorder the groups that it consists of")
        if reason := held.get(dim):
            raise RefusedError(f"{where} cannot be reordered: {reason}", hint="leave it as it is")
        if not np.array_equal(np.sort(order), np.arange(dim.size or 0)):
            raise RefusedError(f"{where} has no order {order.tolist()}", hint="name each of its indices once")
    chosen = {dim: order for dim, order in chosen.items() if (np.diff(order) < 0).any()}
    resizing = Resizing(graph, dimensions, chosen)
    return slice_weights(resizing, {place for place in dimensions.layouts if resizing.touches(place)})
