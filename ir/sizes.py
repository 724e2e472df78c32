"""Sizes that a model leaves open, filled in: what a roofline, or anything else that counts, needs to know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from secateur.ir.errors import DataError
from secateur.ir.graph import Graph
from secateur.ir.node import Value
from secateur.ir.types import Dim, TensorType, ValueType

Shape = tuple[int, ...]


def with_sizes(graph: Graph, shapes: Mapping[str, Shape], batch: int | None = None) -> Graph:
    """A copy whose inputs have fixed shapes: those given, and by their names what others share with them.

    A first axis that is still open then gets `batch`, 1 by default. Inputs that are no tensors stay as they are.

    Raises:
        DataError: there is no such input, a shape does not fit it, one name would get two sizes, or an axis stays open.
    """
    inputs = {value.name: value for value in graph.inputs if value.const is None}
    for name in shapes:
        if name not in inputs:
            known = ", ".join(f"{value.name} {value.type}" for value in inputs.values()) or "none"
            raise DataError(f"{graph.title} has no input {name!r}", hint=f"its inputs are {known}")
    if batch is not None and batch < 1:
        raise DataError(f"the batch must be at least 1, found {batch}", hint="give a batch of 1 or more")
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        _learn(inputs[name], shape, sizes)
    for value, size in _open_batches(inputs, shapes, sizes):
        sizes.setdefault(size, batch or 1)
        if batch is not None and sizes[size] != batch:
            raise DataError(
                f"the batch of input {value.name!r} is {size}, which is {sizes[size]} by the shapes and {batch} here",
                hint="leave the batch out, or give another shape",
            )
    copy = graph.clone()
    for value in copy.inputs:
        if value.const is None:
            value.type = _fixed(value, shapes.get(value.name), sizes, batch or 1)
    return copy


def input_shapes(graph: Graph) -> dict[str, tuple[Dim, ...]]:
    """The shapes of the inputs that a caller feeds, where they are tensors of a known rank."""
    return {
        value.name: value.type.shape
        for value in graph.inputs
        if value.const is None and isinstance(value.type, TensorType) and value.type.shape is not None
    }


def _learn(value: Value, shape: Shape, sizes: dict[str, int]) -> None:
    """Checks a shape against an input, and notes what its names stand for."""
    kind = value.type
    if not isinstance(kind, TensorType):
        raise DataError(f"the input {value.name!r} has type {kind or 'unknown'}", hint="only tensors have a shape")
    if kind.shape is None:
        return
    if len(kind.shape) != len(shape):
        raise DataError(f"the input {value.name!r} is {kind}, found the shape {_text(shape)}", hint=_hint(value))
    for axis, (dim, size) in enumerate(zip(kind.shape, shape, strict=True)):
        expected = sizes.setdefault(dim, size) if isinstance(dim, str) else size if dim is None else dim
        if size != expected or size < 1:
            raise DataError(
                f"the input {value.name!r} is {kind}: expected {max(expected, 1)} on axis {axis}, found {size}",
                hint=_hint(value),
            )


def _open_batches(
    inputs: Mapping[str, Value], shapes: Mapping[str, Shape], sizes: Mapping[str, int]
) -> Iterator[tuple[Value, str]]:
    for name, value in inputs.items():
        kind = value.type
        if name not in shapes and isinstance(kind, TensorType) and kind.shape and isinstance(kind.shape[0], str):
            yield value, kind.shape[0]


def _fixed(value: Value, given: Shape | None, sizes: Mapping[str, int], batch: int) -> ValueType | None:
    kind = value.type
    if not isinstance(kind, TensorType):
        return kind
    if given is not None:
        return replace(kind, shape=given)
    if kind.shape is None:
        raise DataError(f"the rank of input {value.name!r} is not known", hint=_hint(value))
    made = [sizes.get(dim) if isinstance(dim, str) else dim for dim in kind.shape]
    if made and made[0] is None:
        made[0] = batch
    if None in made:
        raise DataError(f"the size of axis {made.index(None)} of input {value.name} {kind} is open", hint=_hint(value))
    return replace(kind, shape=tuple(made))


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _hint(value: Value) -> str:
    kind = value.type
    shape = kind.shape if isinstance(kind, TensorType) else None
    fillers = ((1 if axis == 0 else 128) if not isinstance(dim, int) else dim for axis, dim in enumerate(shape or ()))
    return f"give its shape, for example {value.name}={_text(tuple(fillers)) or '1x3x224x224'}"
