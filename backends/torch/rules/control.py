"""Branches and loops: bodies are evaluated as they are reached."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from secateur.backends.torch.call import Call, axis_of, torch_rules
from secateur.backends.torch.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


@torch_rules.register("If")
def _if(call: Call) -> tuple[Any, ...]:
    return tuple(call.bodies["then_branch" if call.number(0) else "else_branch"]())


@torch_rules.register("Loop")
def _loop(call: Call) -> tuple[Any, ...]:
    """Until the count is reached or the condition fails; what the body gives behind its states is stacked."""
    count, go_on = call.number(0), call.number(1, True)
    states = list(call.values[2:])
    stacked: list[list[Tensor]] = []
    turn = 0
    while go_on and (count is None or turn < count):
        condition, *made = call.bodies["body"](torch.tensor(turn), torch.tensor(True), *states)
        go_on = bool(condition)
        states, rows = made[: len(states)], made[len(states) :]
        stacked = stacked or [[] for _ in rows]
        for column, row in zip(stacked, rows, strict=True):
            column.append(row)
        turn += 1
    if turn == 0:
        stacked = [[] for _ in range(len(call.op.outputs) - len(states))]
    return (*states, *(torch.stack(rows) if rows else torch.zeros(0, device=call.home) for rows in stacked))


@torch_rules.register("Scan")
def _scan(call: Call) -> tuple[Any, ...]:
    if call.opset < 9:
        return _scan_batches(call)
    count = call.attribute("num_scan_inputs")
    values = call.tensors()
    return _scanned(call, values[: len(values) - count], values[len(values) - count :])


def _scan_batches(call: Call) -> tuple[Any, ...]:
    """Opset 8: every sample by itself, the sequence axis behind the batch."""
    count = call.attribute("num_scan_inputs")
    values = call.tensors() if call.raw(0) is not None else [call[port] for port in range(1, len(call))]
    split = len(values) - count
    each = [
        _scanned(call, [one[index] for one in values[:split]], [one[index] for one in values[split:]])
        for index in range(values[-1].shape[0])
    ]
    return tuple(torch.stack(column) for column in zip(*each, strict=True))


def _scanned(call: Call, states: list[Tensor], sequences: list[Tensor]) -> tuple[Any, ...]:
    axes = call.attribute("scan_input_axes") or [0] * len(sequences)
    ways = call.attribute("scan_input_directions") or call.attribute("directions") or [0] * len(sequences)
    rows = [
        one.flip(axis_of(axis, one.dim())) if way else one for one, axis, way in zip(sequences, axes, ways, strict=True)
    ]
    made: list[list[Tensor]] = [[] for _ in range(len(call.op.outputs) - len(states))]
    for step in range(rows[0].shape[axes[0]]):
        found = call.bodies["body"](*states, *(one.select(axis, step) for one, axis in zip(rows, axes, strict=True)))
        states = found[: len(states)]
        for column, row in zip(made, found[len(states) :], strict=True):
            column.append(row)
    out_axes = call.attribute("scan_output_axes") or [0] * len(made)
    out_ways = call.attribute("scan_output_directions") or [0] * len(made)
    stacked = [
        torch.stack(column[::-1] if way else column, axis)
        for column, axis, way in zip(made, out_axes, out_ways, strict=True)
    ]
    return (*states, *stacked)


@torch_rules.register("SequenceMap")
def _map(call: Call) -> tuple[list[Any], ...]:
    """The body on each item of the first sequence, with the items of the others, and tensors as they are."""
    made: list[list[Any]] = [[] for _ in call.op.outputs]
    for index in range(len(call.raw(0))):
        items = [value[index] if isinstance(value, list) else value for value in call.values]
        for column, item in zip(made, call.bodies["body"](*items), strict=True):
            column.append(item)
    return tuple(made)
