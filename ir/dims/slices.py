"""Taking indices along axes of weights: uses that agree share what is taken, others get their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.ir.dims.algebra import Indices
from secateur.ir.dims.axes import Place, Use
from secateur.ir.dims.resize import Resizing
from secateur.ir.graph import Graph
from secateur.ir.node import Value
from secateur.ir.tensor import Tensor


@dataclass(frozen=True)
class Slice:
    """Indices that one axis of a weight has from now on, of those that it had."""

    weight: str
    axis: int
    kept: Indices


def slice_weights(resizing: Resizing, touched: set[Place]) -> list[Slice]:
    """Takes of each constant what each of its uses asks for; uses that ask the same share one, others get their own."""
    slices: list[Slice] = []
    for value, versions in _versions(resizing, touched).items():
        whole = value.const
        assert whole is not None
        for uses, kept in versions:
            sliced = _place_constant(resizing.graph, value, uses, Tensor(_take(whole.numpy(), kept), whole.dtype))
            slices.extend(Slice(sliced.name, axis, some) for axis, some in kept.items())
        if whole.storage is not None:
            whole.storage.unmap()  # what was read of the whole need not stay resident beside what was taken
    return slices


_PIECE = 1 << 18
"""Bytes to slice at a time: what is cut along several axes stays in the cache in between."""


def _take(array: NDArray[Any], kept: Mapping[int, Indices]) -> NDArray[Any]:
    """These indices of these axes."""
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
