"""What values depend on: constants and fixed shapes only, which TensorRT knows when it builds, or inputs."""

from __future__ import annotations

from secateur.ir.node import Op, Value
from secateur.ir.rules.known import Known
from secateur.ir.types import TensorType

_SHAPES = frozenset({"Shape", "Size"})


def folded_values(known: Known, around: frozenset[Value] = frozenset()) -> frozenset[Value]:
    """The values of a graph, without its bodies', that depend on no input's numbers; with those of graphs around it."""
    found = set(around)
    for op in known.graph.ops():
        if op.bodies() or not op.inputs:
            continue
        if _is_static(known, op) or all(v is None or v in found or known.constant(v) is not None for v in op.inputs):
            found.update(value for value in op.outputs if value is not None)
    return frozenset(found)


def _is_static(known: Known, op: Op) -> bool:
    """Whether the op reads nothing of its input but a shape that is fixed."""
    if op.op_type not in _SHAPES or op.domain:
        return False
    shape = known.shape(op.input(0))
    return shape is not None and all(isinstance(size, int) for size in shape)


def float_input_behind(known: Known, value: Value | None) -> Value | None:
    """An input of the model, of a floating-point type, that the numbers of a value depend on; None where none is."""
    waiting = [] if value is None else [value]
    seen = set(waiting)
    while waiting:
        value = waiting.pop()
        owner = known.graph.owner(value)
        if owner is None:
            continue
        made = owner.producer(value)
        if made is None:
            is_input = value in owner.inputs and not owner.is_body
            if is_input and isinstance(value.type, TensorType) and value.type.dtype.is_float:
                return value
        elif made.op_type not in _SHAPES:
            fresh = [one for one in made.inputs if one is not None and one not in seen]
            seen.update(fresh)
            waiting.extend(fresh)
    return None
