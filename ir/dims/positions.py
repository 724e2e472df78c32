"""Values that are positions on an axis: who reads them as such, and where they come from."""

from __future__ import annotations

import numpy as np

from secateur.ir.dims.algebra import Layout, size_of
from secateur.ir.dims.axes import Axes
from secateur.ir.graph import Graph
from secateur.ir.node import Op, Value
from secateur.ir.rules.known import Known
from secateur.ir.types import DataType

_SAME_POSITIONS = frozenset("Identity Cast Reshape Squeeze Unsqueeze Flatten Transpose Expand Slice Split Clip".split())
"""Ops that hand positions on as they are, from their first input."""

_BY_POSITION = frozenset({("Gather", 1), ("GatherElements", 1), ("ScatterElements", 1), ("OneHot", 0)})
"""(op type, port) that take positions; their rules tie the axis that these lie on to the one that they pick from."""

_BY_COLUMNS = frozenset({("GatherND", 1), ("ScatterND", 1)})
"""(op type, port) that take positions on several axes, one in each column of the last axis."""

_HOLDS = {
    **dict.fromkeys((DataType.INT32, DataType.INT64, DataType.UINT32, DataType.UINT64, DataType.FLOAT64), 2**31),
    **{DataType.FLOAT32: 2**24, DataType.FLOAT16: 2**11, DataType.INT16: 2**15, DataType.UINT16: 2**16},
    **{DataType.INT8: 2**7, DataType.UINT8: 2**8},
}
"""element type -> how many positions it can tell apart."""

_GIVES = {"TopK": (1, -1), "ArgMax": (0, 0), "ArgMin": (0, 0)}
"""op type -> the output that is positions, and the default of the axis that they lie on."""


def unread(axes: Axes, value: Value, layout: Layout) -> str | None:
    """The first reader of positions on an axis that takes them for numbers; None where there is none."""
    graph, seen, waiting = axes.known.graph, {value}, [value]
    calls = {(key.domain, key.name) for key in graph.root.functions}
    while waiting:
        here = waiting.pop()
        if here in graph.outputs:
            return f"the output {here.name!r}"
        for op in graph.consumers(here):
            ports = [port for port, one in enumerate(op.inputs) if one is here]
            if op.key in calls or op.key[0] not in ("", "com.microsoft"):
                return str(op)
            if op.op_type in _SAME_POSITIONS and ports == [0] and not op.domain and _keeps(axes, op, layout):
                fresh = [made for made in op.outputs if made is not None and made not in seen]
                seen.update(fresh)
                waiting.extend(fresh)
            elif not ports or not all(_takes(axes, op, port, layout) for port in ports):
                return str(op)
    return None


def _keeps(axes: Axes, op: Op, layout: Layout) -> bool:
    """True unless an op cuts off positions: clips them to less than all of the axis, or gives them too few bits."""
    known, size = axes.known, size_of(layout)
    if op.op_type == "Cast":
        return size is not None and size <= _HOLDS.get(DataType(op.attribute("to")), 0)
    if op.op_type != "Clip":
        return True
    bounds = [known.constant(op.input(port)) for port in (1, 2)]
    if size is None or any(bound is None and op.input(port) for port, bound in enumerate(bounds, 1)):
        return False
    low, high = (None if bound is None else int(bound.numpy()) for bound in bounds)
    return (low is None or low <= 0) and (high is None or high >= size - 1) and not op.attributes


def _takes(axes: Axes, op: Op, port: int, layout: Layout) -> bool:
    """True where an op reads what is at a port as positions."""
    graph, size = axes.known.graph, size_of(layout)
    if (op.op_type, port) in _BY_POSITION:
        return True
    if op.op_type == "Concat":
        readers = graph.uses(op.output)
        is_captured = len({reader for reader, _ in readers}) != len(graph.consumers(op.output))
        return (
            op.output not in graph.outputs
            and not is_captured
            and all((reader.op_type, at) in _BY_COLUMNS and columns(axes.known, reader, at) for reader, at in readers)
        )
    if (op.op_type, port) in _BY_COLUMNS:
        return columns(axes.known, op, port) is not None
    if op.op_type != "Equal" or size is None:
        return False
    if ruler(axes.known, op, port, size) is not None:
        return True
    return single(axes.known, op, port, size) is not None and axes.vanishes(op.output)


def columns(known: Known, op: Op, port: int) -> list[Value] | None:
    """What holds the positions on each of the axes that an op indexes at once; None where they are not told apart."""
    value = op.inputs[port]
    if value is None:
        return None
    if known.size(value, -1) == 1:
        return [value]
    maker = known.graph.producer(value)
    if maker is None or maker.op_type != "Concat":
        return None
    parts = [part for part in maker.inputs if part is not None]
    is_last = maker.attribute("axis") in (-1, (known.rank(value) or 0) - 1)
    return parts if is_last and all(known.size(part, -1) == 1 for part in parts) else None


def ruler(known: Known, op: Op, port: int, size: int) -> int | None:
    """For positions that an op compares with 0, 1, 2, .. up to all of them: the axis of the constant that counts."""
    tensor, rank = known.constant(op.input(1 - port)), known.rank(op.inputs[port])
    if tensor is None or rank is None or not np.array_equal(tensor.numpy().reshape(-1), np.arange(size)):
        return None
    long = [axis for axis, count in enumerate(tensor.shape) if count == size]
    behind = len(tensor.shape) - long[0] if long else 0
    if size < 2 or (behind <= rank and known.size(op.inputs[port], -behind) != 1):
        return None
    return long[0]


def single(known: Known, op: Op, port: int, size: int) -> int | None:
    """For positions that an op compares with one constant position: that position."""
    tensor = known.constant(op.input(1 - port))
    number = None if tensor is None or tensor.size != 1 else tensor.numpy().reshape(-1)[0]
    return int(number) if number is not None and number in range(size) else None


def giver(graph: Graph, value: Value | None) -> tuple[Op, int] | None:
    """The op that positions come from, and the axis of its first input that they lie on; None for anything else."""
    while value is not None:
        maker = graph.producer(value)
        if maker is None:
            return None
        if maker.op_type in _GIVES:
            output, default = _GIVES[maker.op_type]
            is_given = output < len(maker.outputs) and maker.outputs[output] is value
            return (maker, maker.attribute("axis", default)) if is_given else None
        value = maker.input(0) if maker.op_type in _SAME_POSITIONS and not maker.domain else None
    return None


def positions_of(axes: Axes, value: Value | None) -> Layout | None:
    """The axis on which a value counts positions; None where that is not known."""
    found = giver(axes.known.graph, value)
    return None if found is None else axes.at(found[0]).input(0)[found[1]]


def pick(axes: Axes, layout: Layout, value: Value | None) -> None:
    """An axis that is picked from by a value: the one that these positions count, or it stays whole."""
    found = positions_of(axes, value)
    if found is None:
        axes.pin(layout, "picks from it by index")
    else:
        axes.unify(layout, found)
