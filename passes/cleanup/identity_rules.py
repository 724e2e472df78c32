"""When an op gives its first input back unchanged: one rule an op type, asked by `remove-identities`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from secateur.ir import DataType, Op, TensorType, Value
from secateur.ir.rules.known import Known
from secateur.ir.rules.table import RuleTable
from secateur.passes.cleanup.purity import is_inference_dropout

IdentityRule: TypeAlias = Callable[[Known, Op], bool]

identity_rules: RuleTable[IdentityRule] = RuleTable("is its first output the same as its first input?")
_register = identity_rules.register


@_register("Identity")
def _identity(known: Known, op: Op) -> bool:
    return True


@_register("Dropout")
def _dropout(known: Known, op: Op) -> bool:
    return is_inference_dropout(op, known.graph)


@_register("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Tile")
def _same_shape(known: Known, op: Op) -> bool:
    """None of these changes the order of elements, and Expand and Tile repeat some only where the shape grows."""
    before, after = known.shape(op.input(0)), known.shape(op.output)
    return before is not None and None not in before and before == after


@_register("Transpose")
def _transpose(known: Known, op: Op) -> bool:
    order = op.attribute("perm")
    if order is None:
        return known.rank(op.input(0)) in (0, 1)
    return list(order) == list(range(len(order)))


@_register("Cast", "CastLike")
def _cast(known: Known, op: Op) -> bool:
    before = _dtype(known, op.input(0))
    after = _dtype(known, op.input(1)) if op.op_type == "CastLike" else DataType(op.attribute("to", 0))
    return before is not None and before == after


@_register("Pad")
def _pad(known: Known, op: Op) -> bool:
    pads = op.attribute("pads") or op.attribute("paddings")
    if pads is None and (tensor := known.constant(op.input(1))) is not None:
        pads = tensor.numpy()
    return pads is not None and not np.any(pads)


@_register("Slice")
def _slice(known: Known, op: Op) -> bool:
    steps = known.constant(op.input(4))
    forward = op.input(4) is None or (steps is not None and bool(np.all(steps.numpy() > 0)))
    return forward and _same_shape(known, op)


@_register("Concat", "Sum", "Max", "Min", "Mean")
def _single_input(known: Known, op: Op) -> bool:
    return len(op.inputs) == 1


@_register("Split")
def _split(known: Known, op: Op) -> bool:
    return len(op.outputs) == 1 and _same_shape(known, op)


def _dtype(known: Known, value: Value | None) -> DataType | None:
    kind = None if value is None else known.types.get(value, value.type)
    return kind.dtype if isinstance(kind, TensorType) and kind.dtype is not DataType.UNDEFINED else None
