"""Scaling a region: layers that make its values, layers that read them, and the parameters in between."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.ir.graph import Graph
from secateur.ir.node import Op
from secateur.ir.rules.known import Known
from secateur.ir.rules.weights import WeightUse, weight_uses_of
from secateur.passes.layers.matrix import bias_of, matrices_of, replace_constant, write_matrices
from secateur.passes.scale.region import Patch, Region, Side

Array: TypeAlias = NDArray[np.float64]


def spread_rows(side: Side, scale: Array) -> Array:
    """[slabs, outputs] the scale of each row of a layer's matrices; `scale` is by number."""
    return scale[side.numbers].reshape(side.use.slabs, -1)


def spread_columns(side: Side, scale: Array) -> Array:
    """[slabs, inputs * taps] the scale of each column of a layer's matrices."""
    by_slab = scale[side.numbers].reshape(side.use.slabs, -1)
    columns = side.use.tensor.size // (side.use.slabs * side.use.outputs // side.use.groups)
    return np.repeat(by_slab, columns // by_slab.shape[1], axis=1)


def rescale(graph: Graph, known: Known, region: Region, scale: Array) -> str | None:
    """Multiplies each value of a region by the scales of its channels, at the cost of other numbers in parameters.

    Args:
        graph: changed in place.
        known: the graph, as it is by now.
        region: as it was found in this graph.
        scale: [count] positive, by number; the first is 1.

    Returns:
        Why nothing was done: a number would overflow the type of a parameter; else None.
    """
    rows = {side.use.op: spread_rows(side, scale) for side in region.makers}
    columns = {side.use.op: spread_columns(side, scale) for side in region.readers}
    layers = []
    for op in dict.fromkeys([*rows, *columns]):
        use = _now(known, op)
        matrices, bias = matrices_of(use), None if use.bias is None else bias_of(use)
        if op in rows:
            matrices = matrices * rows[op][:, :, None]
            bias = None if bias is None else bias * rows[op].reshape(-1)
        if op in columns:
            matrices = matrices / columns[op][:, None, :]
        if reason := _overflow(use.weight.name, use.tensor.dtype.numpy, [matrices, bias]):
            return reason
        layers.append((use, matrices, bias))
    patches = [(patch, _patched(graph, patch, scale)) for patch in region.patches]
    for patch, array in patches:
        value = patch.op.inputs[patch.port]
        assert value is not None
        assert value.const is not None
        if reason := _overflow(value.name, value.const.dtype.numpy, [array]):
            return reason
    for use, matrices, bias in layers:
        write_matrices(graph, use, matrices, bias)
    for patch, array in patches:
        value = patch.op.inputs[patch.port]
        assert value is not None
        assert value.const is not None
        if not np.array_equal(array, value.const.numpy().astype(np.float64)):
            replace_constant(graph, patch.op, patch.port, array.astype(value.const.dtype.numpy))
    return None


def _now(known: Known, op: Op) -> WeightUse:
    """The weight of a layer as it is by now."""
    return next(weight_uses_of(known, op))


def _patched(graph: Graph, patch: Patch, scale: Array) -> Array:
    tensor = graph.constant(patch.op.input(patch.port))
    assert tensor is not None
    array: Array = tensor.numpy().astype(np.float64)
    rank = array.ndim
    if patch.times is not None:
        array = array * scale[patch.times]
    if patch.over is not None:
        array = array / scale[patch.over]
    while array.ndim > rank and array.shape[0] == 1:
        array = array[0]
    return array


def _overflow(name: str, dtype: np.dtype[Any], arrays: Iterable[Array | None]) -> str | None:
    with np.errstate(all="ignore"):
        for array in arrays:
            if array is not None and not np.isfinite(array[np.isfinite(array)].astype(dtype).astype(np.float64)).all():
                return f"{name} would overflow its type"
    return None
