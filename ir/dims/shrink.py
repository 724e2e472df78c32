"""Shrinking dimensions: every weight, shape constant and attribute that spells their size follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from secateur.ir.dims.algebra import Dim, Indices, find
from secateur.ir.dims.analysis import Dimensions
from secateur.ir.dims.axes import Place, Use
from secateur.ir.dims.branches import cut
from secateur.ir.dims.resize import Resizing, resize_rules
from secateur.ir.dims.slices import Slice, slice_weights
from secateur.ir.errors import RefusedError
from secateur.ir.graph import Graph
from secateur.ir.node import Op, Value
from secateur.ir.onnx_shapes import infer
from secateur.ir.types import TensorType


def shrink(graph: Graph, dimensions: Dimensions, kept: Mapping[Dim, Indices]) -> list[Slice]:
    """Keeps these indices (sorted) of these dimensions, and of all others everything. The graph is changed in place.

    The analysis does not hold for the graph afterwards. Where an error is raised the graph is spoilt: work on a clone.

    Returns:
        what was kept of which weight, by the name that it has now.

    Raises:
        RefusedError: a dimension is pinned, would be empty, or is spelled somewhere that cannot be rewritten.
    """
    chosen = {find(dim): np.asarray(some, np.int64) for dim, some in kept.items()}
    chosen = {dim: some for dim, some in chosen.items() if len(some) != dim.size}
    for dim, some in chosen.items():
        _check(dim, some)
    layouts = cut(graph, dimensions.known, dimensions.layouts, dimensions.picks, chosen)
    dimensions = replace(dimensions, layouts=layouts)
    resizing = Resizing(graph, dimensions, chosen)
    touched = {place for place in dimensions.layouts if resizing.touches(place)}
    counting = {pick.op for pick in dimensions.picks if resizing.shrinks(pick.layout)}
    for op in graph.ops():
        rule = resize_rules.get(op)
        if rule is not None and (op in counting or any(place in touched for place in _places(dimensions, op))):
            rule(resizing, op)
    slices = slice_weights(resizing, touched)
    expected = _retype(resizing, touched)
    _verify(graph, expected)
    return slices


def _check(dim: Dim, some: Indices) -> None:
    where = f"the dimension of {dim.size} first met at {dim.origin!r}"
    if not dim.is_leaf:
        raise RefusedError(f"{where} is made of others", hint="remove units of the groups that it consists of")
    if dim.pin:
        raise RefusedError(f"{where} cannot be pruned: {dim.pin}", hint="`secateur groups` shows what can be")
    if not len(some):
        raise RefusedError(f"nothing of {where} would be left", hint="keep at least one index")
    if (np.diff(some) <= 0).any() or some[0] < 0 or some[-1] >= (dim.size or 0):
        raise RefusedError(f"kept indices of {where} must rise from 0 to {(dim.size or 0) - 1}, got {some.tolist()}")


def _places(dimensions: Dimensions, op: Op) -> list[Place]:
    constants: list[Place] = [Use(op, port) for port in range(len(op.inputs))]
    values: list[Place] = [value for value in (*op.inputs, *op.outputs) if value is not None]
    return [place for place in (*constants, *values) if place in dimensions.layouts]


def _retype(resizing: Resizing, touched: set[Place]) -> dict[Value, list[int | None]]:
    """Corrects the types that the graph states; returns the sizes that the touched values have now."""
    expected: dict[Value, list[int | None]] = {}
    for place in touched:
        if isinstance(place, Use):
            continue
        sizes = [resizing.size(layout) for layout in resizing.dimensions.layouts[place]]
        expected[place] = sizes
        if isinstance(place.type, TensorType) and place.type.shape is not None:
            shape = tuple(size if size is not None else old for size, old in zip(sizes, place.type.shape, strict=True))
            place.type = replace(place.type, shape=shape)
    return expected


def _verify(graph: Graph, expected: Mapping[Value, list[int | None]]) -> None:
    """Shape inference of the ops alone must find the sizes that were meant."""
    stated = {value: value.type for value in expected}
    for value in expected:
        if value not in graph.inputs and value not in graph.outputs:
            value.type = None
    try:
        inferred = infer(graph)
    finally:
        for value, kind in stated.items():
            value.type = kind
    for value, sizes in expected.items():
        found = inferred.get(value)
        shape = found.shape if isinstance(found, TensorType) else None
        for axis, size in enumerate(sizes):
            actual = shape[axis] if shape is not None and axis < len(shape) else None
            if size is not None and isinstance(actual, int) and actual != size:
                raise RefusedError(
                    f"{graph.producer(value)} would make {value.name!r} with {actual} indices on axis {axis}, "
                    f"not {size}: something that spells this size could not be rewritten",
                    hint="fold constants first, or leave this group alone",
                )
