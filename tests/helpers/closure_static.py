"""Static shapes of all values, and the numbers of those that follow from shapes: measured by running the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.ir import DataType, Graph, Op, TensorType, Value
from secateur.ir.types import ValueType

_RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
_MOST_NUMBERS = 1 << 20


def measured(
    graph: Graph, sizes: Mapping[str, int] | None = None, feeds: Mapping[str, NDArray[Any]] | None = None
) -> tuple[dict[Value, ValueType], dict[Value, NDArray[Any]]]:
    """Types with a number for every axis, and the numbers of values that depend on constants and shapes only.

    Args:
        graph: a whole model that runs; it is not changed.
        sizes: of symbolic axes; what is missing is 1 on the first axis of an input and 3 elsewhere.
        feeds: inputs to run it on, instead of made-up ones of these sizes.
    """
    made = {value.name: _feed(value, sizes or {}) for value in graph.inputs if value.const is None and not feeds}
    feeds = feeds or made
    names = [value.name for value in graph.values() if value.const is None and value.name not in feeds]
    with OnnxRuntimeRunner(graph, outputs=names, threads=1, optimize=False) as runner:
        arrays = {**feeds, **runner.run(feeds)}
    found = {graph[name]: array for name, array in arrays.items() if isinstance(array, np.ndarray)}
    types: dict[Value, ValueType] = {
        value: TensorType(DataType.of(array.dtype), array.shape) for value, array in found.items()
    }
    types.update((value, value.type) for value in graph.constants() if value.type is not None)
    fixed = _fixed(graph)
    numbers = {value: array for value, array in found.items() if value in fixed and array.size <= _MOST_NUMBERS}
    return types, numbers


def _feed(value: Value, sizes: Mapping[str, int]) -> NDArray[Any]:
    kind = value.type
    assert isinstance(kind, TensorType) and kind.shape is not None, f"the input {value.name!r} has no shape"
    shape = [
        dim if isinstance(dim, int) else sizes.get(dim or "", 1 if axis == 0 else 3)
        for axis, dim in enumerate(kind.shape)
    ]
    if kind.dtype is DataType.BOOL:
        return np.ones(shape, np.bool_)
    random = np.random.default_rng(len(shape))
    numbers = random.standard_normal(shape) if kind.dtype.is_float else np.zeros(shape)
    return numbers.astype(kind.dtype.numpy)


def _fixed(graph: Graph) -> set[Value]:
    """The values that no input's numbers can change."""
    fixed = {value for value in graph.constants() if graph.constant(value) is not None}
    for op in graph.ops():
        if _is_fixed(op, fixed):
            fixed.update(value for value in op.outputs if value is not None)
    return fixed


def _is_fixed(op: Op, fixed: set[Value]) -> bool:
    if op.bodies() or op.op_type in _RANDOM:
        return False
    return op.op_type in ("Shape", "Size") or all(value is None or value in fixed for value in op.inputs)
