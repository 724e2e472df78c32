"""Recurrent layers: gates are a factor of their own, and the hidden state is contracted with itself."""

from __future__ import annotations

from secateur.ir.dims.algebra import Dim, Layout
from secateur.ir.dims.axes import Axes, Unruly, dims_rules
from secateur.ir.dims.rules.agreement import pin_all, same

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@dims_rules.register("LSTM", "GRU", "RNN")
def recurrent(axes: Axes) -> None:
    """W [directions, gates * hidden, input], R [.., gates * hidden, hidden], B [.., 2 * gates * hidden].

    Both directions keep the same hidden indices: there is one `hidden_size`.
    """
    data, weight, recurrence = axes.input(0), axes.input(1), axes.input(2)
    size = axes.size(axes.op.input(2), 2)
    if size is None:
        raise Unruly(f"{axes.op}: its hidden size is not known")
    hidden, gates = axes.axis(size, f"hidden state of {axes.op}"), _counted(axes, _GATES[axes.op.op_type], "has gates")
    axes.unify(weight[1], (*gates, *hidden))
    axes.unify(recurrence[1], (*gates, *hidden))
    axes.unify(recurrence[2], hidden)
    axes.unify(data[2], weight[2])
    if axes.has(3):
        both = _counted(axes, 2, "has two biases")
        axes.unify(axes.input(3)[1], (*both, *gates, *hidden))
    if axes.has(7):
        axes.unify(axes.input(7)[1], (*_counted(axes, 3, "has peepholes"), *hidden))
    directions = _directions(axes)
    batch_first = axes.attribute("layout", 0)
    time, batch = (data[1], data[0]) if batch_first else (data[0], data[1])
    axes.pin(time, "runs along it")
    batch = _states(axes, batch, hidden, batch_first=bool(batch_first))
    axes.output([batch, time, directions, hidden] if batch_first else [time, directions, batch, hidden])
    for port in (1, 2):
        axes.output([batch, directions, hidden] if batch_first else [directions, batch, hidden], port)


def _counted(axes: Axes, count: int, reason: str) -> Layout:
    found: Layout = (Dim(count, axes.op.title),) if count > 1 else ()
    axes.pin(found, reason)
    return found


def _directions(axes: Axes) -> Layout:
    found: Layout = ()
    for port in (1, 2, 3, 7):
        if axes.has(port):
            pin_all(axes, [axes.input(port)[0]], "has directions")
            found = same(axes, found, axes.input(port)[0])
    return found


def _states(axes: Axes, batch: Layout, hidden: Layout, *, batch_first: bool) -> Layout:
    """Lengths [batch], and first states [directions, batch, hidden]; returns the batch."""
    if axes.has(4):
        batch = same(axes, batch, axes.input(4)[0])
    for port in (5, 6):
        if axes.has(port) and (port == 5 or axes.op.op_type == "LSTM"):
            state = axes.input(port)
            batch = same(axes, batch, state[0 if batch_first else 1])
            pin_all(axes, [state[1 if batch_first else 0]], "has directions")
            axes.unify(state[2], hidden)
    return batch
