"""Values whose rows count by their direction: a norm divides by their size before a layer reads them."""

from __future__ import annotations

import numpy as np

from secateur.ir.node import Op, Value
from secateur.ir.rules.known import Known

_NORMS = frozenset({"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"})
_SKIP_NORMS = frozenset({"SkipLayerNormalization", "SkipSimplifiedLayerNormalization"})


def is_normalized(known: Known, value: Value) -> bool:
    """Whether a norm over the last axis reads a value, as one op or as those that it is made of.

    Sums with shortcuts, and whatever else may read it, are not asked: in a model that normalises what its layers read,
    all of them do.
    """
    return any(
        (op.op_type in _NORMS and port == 0 and _is_last(known, op.output, op.attribute("axis", -1)))
        or (op.op_type in _SKIP_NORMS and port in (0, 1))
        or (op.op_type == "Sub" and port == 0 and _is_mean_of(known, op.input(1), value))
        or (_is_square(known, op) and any(_is_mean(known, reader) for reader, _ in known.graph.uses(op.output)))
        for op, port in known.graph.uses(value)
    )


def _is_square(known: Known, op: Op) -> bool:
    if op.op_type == "Mul":
        return op.input(0) is op.input(1)
    exponent = known.constant(op.input(1)) if op.op_type == "Pow" else None
    return exponent is not None and bool(np.all(exponent.numpy() == 2))


def _is_mean_of(known: Known, mean: Value | None, value: Value) -> bool:
    op = None if mean is None else known.graph.producer(mean)
    return op is not None and op.input(0) is value and _is_mean(known, op)


def _is_mean(known: Known, op: Op) -> bool:
    """Whether it is the mean over the last axis, which stays as one of size 1."""
    if op.op_type != "ReduceMean" or not op.attribute("keepdims", 1):
        return False
    given = known.constant(op.input(1))
    axes = list(op.attribute("axes", ())) if given is None else given.numpy().tolist()
    return len(axes) == 1 and _is_last(known, op.output, axes[0])


def _is_last(known: Known, value: Value, axis: int) -> bool:
    rank = known.rank(value)
    return axis == -1 or (rank is not None and axis == rank - 1)
