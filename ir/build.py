"""Adding ops in one line each: what tests, rewrites and importers use to write graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from secateur.ir.graph import Graph, attributes_of
from secateur.ir.node import Op, Value
from secateur.ir.tensor import Tensor
from secateur.ir.types import DataType, Dim, TensorType


def add_input(graph: Graph, name: str, shape: Sequence[Dim], dtype: DataType = DataType.FLOAT32) -> Value:
    """A new input at the end of the graph's interface."""
    value = graph.add_value(Value(name, TensorType(dtype, tuple(shape))))
    graph.set_interface(inputs=[*graph.inputs, value])
    return value


def add_constant(graph: Graph, name: str, array: ArrayLike, dtype: DataType | None = None) -> Value:
    """A new constant from anything that numpy turns into an array, under `name` or the next free name."""
    return graph.add_constant(name, Tensor(np.asarray(array), dtype))


def emit(
    graph: Graph,
    op_type: str,
    inputs: Sequence[Value | None],
    attributes: Mapping[str, Any] | None = None,
    *,
    outputs: Sequence[str | None] = ("",),
    like: Op | None = None,
) -> Op:
    """Adds an op and returns it.

    Args:
        graph: where it goes.
        op_type: `Conv`, or `domain::Conv`.
        inputs: values of this graph or those around it; None for an optional input left out.
        attributes: plain Python values, or `Attribute` where the kind cannot be inferred.
        outputs: hints for the outputs' names (made unique); "" derives one from the op type; None leaves it out.
        like: an op whose name the new one's is derived from; two that are derived from one are named apart.
    """
    domain, _, name = op_type.rpartition("::")
    stem = (like.name or like.output.name) if like is not None else name.lower()
    fallback = f"{stem}_{name.lower()}" if like is not None else name.lower()
    made = []
    for port, hint in enumerate(outputs):
        wanted = hint or (fallback if port == 0 else f"{fallback}_{port}")
        made.append(None if hint is None else graph.add_value(Value(graph.unique_name(wanted))))
    title = ""
    if like is not None and (first := made[0]) is not None:
        # Names of values are unique: where a second op is derived from one, its name goes on as its output's does.
        title = f"{first.name}/{name}" if outputs[0] else f"{stem}/{name}{first.name.removeprefix(fallback)}"
    return graph.add_op(Op(name, tuple(inputs), tuple(made), attributes_of(attributes or {}), domain, title))
