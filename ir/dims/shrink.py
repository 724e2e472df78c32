"""Shrinking dimensions: every weight, shape constant and attribute that spells their size follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.ir.dims.algebra import Dim, Indices, find
from secateur.ir.dims.analysis import Dimensions
from secateur.ir.dims.axes import Place, Use
from secateur.ir.dims.branches import cut
from secateur.ir.dims.resize import Resizing, resize_rules
from secateur.ir.errors import RefusedError
from secateur.ir.graph import Graph
from secateur.ir.node import Op, Value
from secateur.ir.onnx_shapes import infer
from secateur.ir.tensor import Tensor
from secateur.ir.types import TensorType


@dataclass(frozen=True)
class Slice:
    """Indices that stay of one axis of a weight."""

    weight: str
    axis: int
    kept: Indices


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
    slices = _slice_weights(resizing, touched)
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


def _slice_weights(resizing: Resizing, touched: set[Place]) -> list[Slice]:
    """Slices each constant as each of its uses asks; uses that keep the same share one, others get their own."""
    slices: list[Slice] = []
    for value, versions in _versions(resizing, touched).items():
        whole = value.const
        assert whole is not None
        for uses, kept in versions:
            sliced = _place_constant(resizing.graph, value, uses, Tensor(_take(whole.numpy(), kept), whole.dtype))
            slices.extend(Slice(sliced.name, axis, some) for axis, some in kept.items())
    return slices


_PIECE = 1 << 18
"""Bytes to slice at a time: what is cut along several axes stays in the cache in between."""


def _take(array: NDArray[Any], kept: Mapping[int, Indices]) -> NDArray[Any]:
    """These indices of these axes (in rising order)."""
    if not array.flags.aligned:
        # A weight may lie anywhere in its file, and numpy would first copy the whole of it; bytes may lie anywhere.
        return _take(array[..., None].view(np.uint8), kept).view(array.dtype)[..., 0]
    (first, some), *others = kept.items()
    rows = max(1, _PIECE * array.shape[first] // (array.nbytes + 1))
    if not others or rows >= len(some):
        for axis, one in kept.items():
            array = array.take(one, axis)
        return array
    made = np.empty([len(kept.get(axis, range(size))) for axis, size in enumerate(array.shape)], array.dtype)
    for start in range(0, len(some), rows):
        piece = array.take(some[start : start + rows], first)
        for axis, one in others:
            piece = piece.take(one, axis)
        made[(slice(None),) * first + (slice(start, start + rows),)] = piece
    return made


_Version: TypeAlias = tuple[list[Use], dict[int, Indices]]


def _versions(resizing: Resizing, touched: set[Place]) -> dict[Value, list[_Version]]:
    """For each constant the different ways to slice it, with the uses that ask for each."""
    found: dict[Value, dict[tuple[tuple[int, bytes], ...], _Version]] = {}
    for place, layouts in resizing.dimensions.layouts.items():
        if not isinstance(place, Use) or place not in touched:
            continue
        value = place.op.inputs[place.port]
        assert value is not None
        kept = {axis: resizing.indices(layout) for axis, layout in enumerate(layouts) if resizing.shrinks(layout)}
        key = tuple((axis, some.tobytes()) for axis, some in kept.items())
        found.setdefault(value, {}).setdefault(key, ([], kept))[0].append(place)
    return {value: list(versions.values()) for value, versions in found.items()}


def _place_constant(graph: Graph, value: Value, uses: list[Use], tensor: Tensor) -> Value:
    """Gives uses of a constant another tensor: in its place where nothing else reads it, as a copy otherwise."""
    reads = {Use(op, port) for op, port in graph.uses(value)}
    captured = any(value in body.nx for op in graph.consumers(value) for body in op.bodies())
    if reads == set(uses) and not captured and value in graph and value not in (*graph.inputs, *graph.outputs):
        value.set_const(tensor)
        return value
    own = graph.add_value(replace(value, name=graph.unique_name(value.name), const=tensor, type=None))
    for use in uses:
        inputs = [own if port == use.port else old for port, old in enumerate(use.op.inputs)]
        graph.set_inputs(use.op, inputs)
    return own


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
