"""Integers that ops like Shape give, as far as shape inference knows them."""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import NDArray

from secateur.ir import Op, Value
from secateur.ir.rules.known import Known
from secateur.ir.types import Dim


def shape_value(known: Known, op: Op) -> NDArray[np.int64] | None:
    """What `op` gives, where that follows from the shape of a value alone; None otherwise.

    `Shape` and `Size` of a static value, and a `Gather` of static axes from the `Shape` of any value.
    """
    if op.key == ("", "Size"):
        dims = known.shape(op.input(0))
        sizes = _integers(dims) if dims is not None else None
        return None if sizes is None else np.array(prod(sizes), np.int64)
    if op.key == ("", "Gather"):
        return _gathered(known, op)
    vector = _shape_vector(known, op)
    sizes = None if vector is None else _integers(vector)
    return None if sizes is None else np.array(sizes, np.int64)


def _shape_vector(known: Known, op: Op | None) -> tuple[Dim, ...] | None:
    if op is None or op.key != ("", "Shape"):
        return None
    dims = known.shape(op.input(0))
    return None if dims is None else dims[slice(op.attribute("start", 0), op.attribute("end"))]


def _gathered(known: Known, op: Op) -> NDArray[np.int64] | None:
    data: Value | None = op.input(0)
    indices = known.constant(op.input(1))
    vector = None if data is None else _shape_vector(known, known.graph.producer(data))
    if vector is None or indices is None or op.attribute("axis", 0) not in (0, -1):
        return None
    wanted = indices.numpy()
    if np.any(wanted < -len(vector)) or np.any(wanted >= len(vector)):
        return None
    sizes = _integers(tuple(vector[index] for index in wanted.reshape(-1).tolist()))
    return None if sizes is None else np.array(sizes, np.int64).reshape(wanted.shape)


def _integers(dims: tuple[Dim, ...]) -> list[int] | None:
    sizes = [dim for dim in dims if isinstance(dim, int)]
    return sizes if len(sizes) == len(dims) else None
