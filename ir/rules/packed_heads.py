"""Queries, keys and values made by one product: where TensorRT puts a fused attention in its place.

TensorRT-RTX 1.7 has that one in float only, unless the quantized weight has a single scale; it says nothing of it. What
is here was read off the kernels of engines, of models that differ by one op. Two ways of writing it are matched:

- The product is cut into three equal parts, and each of them goes on to a Transpose of four axes; or the operator
  Attention reads them as they are. Numbers may be moved on the way, but not changed.
- The product goes through a Transpose, is cut into three, and two of the parts are multiplied with each other.

One activation, scale or quantizer between the product and the heads, and nothing is matched.
"""

from __future__ import annotations

from secateur.ir.node import Op, Value
from secateur.ir.rules.known import Known

_MOVES = frozenset({"Identity", "Reshape", "Squeeze", "Unsqueeze"})
_CUTS = frozenset({"Gather", "Slice"})
_PARTS, _AXES, _FARTHEST = 3, 4, 32


def is_packed(known: Known, op: Op) -> bool:
    """Whether an op, of which one output is a matrix product, makes queries, keys and values as TensorRT matches them.

    Args:
        known: the graph; what is cut by numbers that are no constants counts as not matched.
        op: a Gemm or a MatMul.
    """
    value, transposed = op.output, False
    for _ in range(_FARTHEST):
        readers = _readers(known, value)
        if value in known.graph.outputs:
            return False
        if parts := _parts(known, readers):
            return _multiply(known, parts) if transposed else _become_heads(known, parts)
        if len(readers) != 1 or not _carries(known, *readers[0]):
            return False
        transposed = transposed or readers[0][0].op_type == "Transpose"
        value = readers[0][0].output
    return False


def _readers(known: Known, value: Value) -> list[tuple[Op, int]]:
    """What reads a value, but for what asks for its sizes."""
    return [(op, port) for op, port in known.graph.uses(value) if op.key != ("", "Shape")]


def _carries(known: Known, op: Op, port: int) -> bool:
    """Moves numbers, or adds a bias to them."""
    if op.key == ("", "Add"):
        return known.constant(op.inputs[1 - port]) is not None
    return not op.domain and op.op_type in (*_MOVES, "Transpose") and port == 0


def _parts(known: Known, readers: list[tuple[Op, int]]) -> list[Value]:
    """The three equal parts that readers cut a value into; [] where they do something else."""
    ops = [op for op, port in readers if port == 0 and not op.domain]
    if len(ops) != len(readers):
        return []
    if len(ops) == 1 and ops[0].op_type == "Split":
        sizes = known.constant(ops[0].input(1))
        extents = set(ops[0].attribute("split") or () if sizes is None else sizes.numpy().tolist())
        made, equal = [value for value in ops[0].outputs if value is not None], len(extents) < 2
    else:
        made = [op.output for op in ops if op.op_type in _CUTS]
        # What ends at the end of an axis says so by a number that is larger than any.
        shapes, found = {known.shape(value) for value in made}, {_extent(known, op) for op in ops}
        equal = len(made) == len(ops) and any(len(one) == 1 and None not in one for one in (shapes, found))
    return made if len(made) == _PARTS and equal else []


def _extent(known: Known, op: Op) -> tuple[object, ...] | None:
    """How much a Gather or a Slice takes, and of which axis; None where that is not known, or not one piece."""
    places = [known.constant(op.input(port)) for port in range(1, 4)]
    if op.op_type == "Gather":
        index = places[0]
        return (op.attribute("axis", 0), 1) if index is not None and index.size == 1 else None
    if any(place is None or place.size != 1 for place in places):
        return None
    start, end, axis = (place.numpy().item() for place in places if place is not None)
    return axis, end - start


def _become_heads(known: Known, parts: list[Value]) -> bool:
    readers = [[op for op, _ in known.graph.uses(part)] for part in parts]
    if all(len(ops) == 1 and ops[0] is readers[0][0] and ops[0].key == ("", "Attention") for ops in readers):
        return True
    return all(_becomes_heads(known, part) for part in parts)


def _becomes_heads(known: Known, part: Value) -> bool:
    """Whether a part goes on to a Transpose of four axes; it may be read elsewhere too, what it is moved to may not."""
    waiting = [op for op, port in known.graph.uses(part) if port == 0 and not op.domain]
    for op in waiting:
        value = op.output
        if op.op_type == "Transpose":
            return len(op.attribute("perm") or ()) == _AXES
        if op.op_type not in _MOVES or value in known.graph.outputs:
            continue
        readers = known.graph.uses(value)
        if len(readers) == 1 and readers[0][1] == 0:
            waiting.append(readers[0][0])
    return False


def _multiply(known: Known, parts: list[Value]) -> bool:
    """Whether two of the parts go to one MatMul, and the third to one too, if anywhere."""
    ends = [_product(known, part) for part in parts if known.graph.is_used(part)]
    return None not in ends and len(set(ends)) < len(ends)


def _product(known: Known, part: Value) -> Op | None:
    """The MatMul that a part goes to, moved or times a constant.

    Queries may be both in any order; keys are multiplied by a constant last, and then not reshaped before.
    """
    value, steps = part, list[str]()
    for _ in range(_FARTHEST):
        readers = _readers(known, value)
        if len(readers) != 1 or value in known.graph.outputs:
            return None
        op, port = readers[0]
        if op.key == ("", "MatMul"):
            matched = "Mul" not in (steps if "Reshape" in steps else steps[:-1])
            return op if port == 0 or matched else None
        times = op.key == ("", "Mul") and known.constant(op.inputs[1 - port]) is not None
        if op.op_type == "Add" or not (times or _carries(known, op, port)):
            return None
        steps.append(op.op_type)
        value = op.output
    return None
