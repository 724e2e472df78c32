"""Inputs that a model accepts, from its graph alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from secateur.ir import Graph, TensorType, Value
from secateur.ir.types import Dim

_PASSING = {"Cast", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Identity", "Expand", "Transpose", "Slice"}
_TABLES = {"Gather": {1: 0}, "EmbedLayerNormalization": {0: 2, 1: 4}}
"""Operators that look numbers up: which input holds the indices, and which the table."""


def random_feeds(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    """One array for each input without a default: normal numbers, ids that the tables they index have, masks of ones.

    Symbolic axes get small sizes, one for each symbol: a batch of 2 or 3, sequences of 11, images of 64 x 64, sounds of
    512 samples.
    """
    random = np.random.default_rng(seed)
    sizes: dict[str, int] = {}
    return {
        value.name: _numbers(graph, value, _shape(value, sizes), random)
        for value in graph.inputs
        if value.const is None
    }


def _shape(value: Value, sizes: dict[str, int]) -> tuple[int, ...]:
    assert isinstance(value.type, TensorType) and value.type.shape is not None, f"{value.name} has no known rank"
    dims: tuple[Dim, ...] = value.type.shape
    shape = []
    for axis, dim in enumerate(dims):
        size = dim if isinstance(dim, int) else _size(axis, len(dims), value.type.dtype.is_float)
        shape.append(sizes.setdefault(dim, size) if isinstance(dim, str) and dim != "?" else size)
    return tuple(shape)


def _size(axis: int, rank: int, real: bool) -> int:
    if axis == 0:
        return 2 if real else 3
    if not real:
        return 11
    return {2: 512, 4: 64}.get(rank, 2)


def _numbers(graph: Graph, value: Value, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    assert isinstance(value.type, TensorType)
    dtype = value.type.dtype.numpy
    if "mask" in value.name:
        return np.ones(shape, dtype)
    if dtype.kind not in "iu":
        numbers = random.standard_normal(shape)
        # One number a sample is a noise level or the like, and not below zero.
        return np.asarray(np.abs(numbers) if len(shape) == 1 else numbers).astype(dtype)
    if not shape:
        return np.asarray(16000, dtype)  # a sampling rate, in all models that we know
    if "position" in value.name:
        return np.broadcast_to(np.arange(shape[-1], dtype=dtype), shape).copy()
    return random.integers(0, vocabulary(graph, value), shape).astype(dtype)


def vocabulary(graph: Graph, value: Value) -> int:
    """How many different numbers an input may hold: the rows of the smallest table that it indexes, or 1,000."""
    least, seen, waiting = math.inf, {value}, [value]
    while waiting:
        current = waiting.pop()
        for op, place in graph.uses(current):
            if op.op_type in _PASSING and place == 0 and op.output not in seen:
                seen.add(op.output)
                waiting.append(op.output)
            table = _table(graph, op, place)
            if table is not None:
                least = min(least, table.shape[op.attribute("axis", 0) if op.op_type == "Gather" else 0])
    return 1000 if math.isinf(least) else int(least)


def _table(graph: Graph, op: Any, place: int) -> Any:
    where = _TABLES.get(op.op_type, {}).get(place)
    return None if where is None else graph.constant(op.input(where))
