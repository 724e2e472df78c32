"""Which ops choose for which: TopK and ArgMax give positions on an axis, and others pick rows by them."""

from __future__ import annotations

from secateur.ir import Graph, Op, Value

_PASS_ON = {"Cast", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}


def chooser(graph: Graph, value: Value | None) -> Op | None:
    """The op that a value is positions of; None where it is something else."""
    while value is not None and (maker := graph.producer(value)) is not None:
        if maker.op_type in ("TopK", "ArgMax"):
            return maker if value is maker.outputs[-1] else None
        value = maker.input(0) if maker.op_type in _PASS_ON else None
    return None


def picked(graph: Graph, op: Op) -> list[Op] | None:
    """Who picks rows of constants by the positions that an op gives; None where they are used for anything else."""
    waiting, found = [op.outputs[-1]], []
    while waiting:
        value = waiting.pop()
        if value is None or value in graph.outputs:
            return None
        for reader in graph.consumers(value):
            if reader.op_type in _PASS_ON:
                waiting.append(reader.output)
            elif reader.op_type in ("Gather", "GatherND") and reader.inputs.index(value) == 1:
                found.append(reader)
            else:
                return None
    return found
