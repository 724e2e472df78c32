"""Values that are positions on an axis: who reads them as such, and where they come from."""

from __future__ import annotations

from secateur.ir.dims.algebra import Layout
from secateur.ir.dims.axes import Axes
from secateur.ir.graph import Graph
from secateur.ir.node import Value

_SAME_POSITIONS = frozenset("Identity Cast Reshape Squeeze Unsqueeze Flatten Transpose Expand Slice Split".split())
"""Ops that hand positions on as they are, from their first input."""

_BY_POSITION = frozenset({("Gather", 1), ("GatherElements", 1), ("ScatterElements", 1), ("OneHot", 0)})
"""(op type, port) that take positions; their rules tie the axis that these lie on to the one that they pick from."""

_GIVES = {"TopK": (1, -1), "ArgMax": (0, 0), "ArgMin": (0, 0)}
"""op type -> the output that is positions, and the default of the axis that they lie on."""


def unread(graph: Graph, value: Value) -> str | None:
    """The first reader of positions that takes them for numbers; None where there is none."""
    seen, waiting = {value}, [value]
    while waiting:
        here = waiting.pop()
        if here in graph.outputs:
            return f"the output {here.name!r}"
        for op in graph.consumers(here):
            ports = [port for port, one in enumerate(op.inputs) if one is here]
            if op.op_type in _SAME_POSITIONS and ports == [0] and not op.domain:
                fresh = [made for made in op.outputs if made is not None and made not in seen]
                seen.update(fresh)
                waiting.extend(fresh)
            elif not ports or any((op.op_type, port) not in _BY_POSITION for port in ports):
                return str(op)
    return None


def positions_of(axes: Axes, port: int) -> Layout | None:
    """The axis on which what is read at a port counts positions; None where that is not known."""
    value, graph = axes.op.input(port), axes.known.graph
    while value is not None:
        maker = graph.producer(value)
        if maker is None:
            return None
        if maker.op_type in _GIVES:
            output, default = _GIVES[maker.op_type]
            if output >= len(maker.outputs) or maker.outputs[output] is not value:
                return None
            data = Axes(axes.known, maker, axes._layouts, axes._symbols).input(0)
            axis: int = maker.attribute("axis", default) % len(data)
            return data[axis]
        value = maker.input(0) if maker.op_type in _SAME_POSITIONS and not maker.domain else None
    return None


def pick(axes: Axes, layout: Layout, port: int) -> None:
    """An axis that is picked from by what is read at a port: the one that these positions count, or it stays whole."""
    found = positions_of(axes, port)
    if found is None:
        axes.pin(layout, "picks from it by index")
    else:
        axes.unify(layout, found)
