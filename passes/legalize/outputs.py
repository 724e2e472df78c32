"""Outputs that nobody reads are left out of operators of which TensorRT makes the first output only."""

from __future__ import annotations

from secateur.ir import Graph, Op
from secateur.ir.build import emit
from secateur.passes.rewriter import replace_value, sweep

_ONE_OUTPUT = frozenset({"Attention", "BatchNormalization", "Dropout", "LayerNormalization", "MaxPool"})


def fits(part: Graph, op: Op) -> bool:
    """Whether an op has outputs beside its first one, all of them unread."""
    if op.key[0] or op.op_type not in _ONE_OUTPUT or len(op.outputs) < 2 or op.attribute("training_mode", 0):
        return False
    return op.outputs[0] is not None and not any(value is not None and part.is_used(value) for value in op.outputs[1:])


def rewrite(part: Graph, op: Op) -> None:
    """Puts an op with one output in the place of this one."""
    made = emit(part, op.op_type, op.inputs, op.attributes, like=op)
    made.doc, made.metadata, name = op.doc, op.metadata, op.name
    replace_value(part, op.output, made.output, rename=True)
    sweep(part, op)
    made.name = name
