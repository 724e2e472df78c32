"""LSTM, GRU and RNN: one loop over time for each direction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from secateur.backends.torch.call import Call, torch_rules
from secateur.backends.torch.lazy import torch
from secateur.backends.torch.rules.activations import Activation, activation

if TYPE_CHECKING:
    from torch import Tensor

Cell: TypeAlias = "Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]"
"""One step: what the input brings to the gates [batch, gates * hidden], and the states, to the new states."""


@dataclass(frozen=True)
class Direction:
    """The parameters of one direction: W [gates * hidden, in], R [gates * hidden, hidden], biases of each."""

    inner: Tensor
    recurrent: Tensor
    input_bias: Tensor
    state_bias: Tensor
    functions: Sequence[Activation]
    clip: float


def _directions(call: Call, gates: int, names: Sequence[str]) -> list[Direction]:
    weights, recurrent, bias = call[1], call[2], call.get(3)
    rows = weights.shape[1]
    if bias is None:
        bias = torch.zeros(weights.shape[0], 2 * rows, dtype=weights.dtype, device=weights.device)
    each = len(names)
    said = call.attribute("activations") or tuple(names) * weights.shape[0]
    alphas, betas = (list(call.attribute(f"activation_{name}") or ()) for name in ("alpha", "beta"))
    functions = [_activation(name, alphas, betas) for name in said]
    return [
        Direction(
            weights[index],
            recurrent[index],
            bias[index, :rows],
            bias[index, rows:],
            functions[index * each : (index + 1) * each],
            call.attribute("clip", 0.0),
        )
        for index in range(weights.shape[0])
    ]


def _activation(name: str, alphas: list[float], betas: list[float]) -> Activation:
    """Parameters are listed for those functions only that have any, in their order."""
    key = name.lower()
    alpha = alphas.pop(0) if key in _WITH_ALPHA and alphas else None
    beta = betas.pop(0) if key in _WITH_BETA and betas else None
    return activation(name, alpha, beta)


_WITH_ALPHA = frozenset("affine leakyrelu thresholdedrelu scaledtanh hardsigmoid elu".split())
_WITH_BETA = frozenset("affine scaledtanh hardsigmoid".split())


def _clipped(x: Tensor, bound: float) -> Tensor:
    return x.clamp(-bound, bound) if bound else x


def _run(call: Call, gates: int, names: Sequence[str], make: Callable[[Call, Direction, int], Cell]) -> list[Tensor]:
    """All directions over time.

    Returns:
        Every first state [time, directions, batch, hidden], and the last of each kind [directions, batch, hidden]; as
        layout 1 has them, batch first.
    """
    batch_first = call.attribute("layout", 0)
    x = call[0].transpose(0, 1) if batch_first else call[0]
    states = 2 if call.op.op_type == "LSTM" else 1
    given = [call.get(port) for port in (5, 6)[:states]]
    given = [one if one is None or not batch_first else one.transpose(0, 1) for one in given]
    lengths = call.get(4)
    hidden = call[2].shape[2]
    kind = call.attribute("direction", "forward")
    every, last = [], []
    for index, direction in enumerate(_directions(call, gates, names)):
        start = tuple(
            torch.zeros(x.shape[1], hidden, dtype=x.dtype, device=x.device) if one is None else one[index]
            for one in given
        )
        backwards = kind == "reverse" or index == 1
        made, end = _over_time(x, lengths, start, direction, make(call, direction, index), backwards)
        every.append(made)
        last.append(end)
    outputs = torch.stack(every, 1)
    ends = [torch.stack([end[state] for end in last]) for state in range(states)]
    if batch_first:
        return [outputs.permute(2, 0, 1, 3), *(end.transpose(0, 1) for end in ends)]
    return [outputs, *ends]


def _over_time(
    x: Tensor, lengths: Tensor | None, states: tuple[Tensor, ...], direction: Direction, cell: Cell, backwards: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Backwards, each sample starts at its own end; behind a sample's end outputs are zero and states stay."""
    brought = torch.nn.functional.linear(x, direction.inner, direction.input_bias)
    steps = range(x.shape[0])
    made: list[Tensor] = [torch.zeros(0)] * x.shape[0]
    for step in reversed(steps) if backwards else steps:
        new = cell(brought[step], states)
        if lengths is None:
            made[step], states = new[0], new
            continue
        alive = (step < lengths).reshape(-1, 1)
        states = tuple(torch.where(alive, one, old) for one, old in zip(new, states, strict=True))
        made[step] = torch.where(alive, new[0], 0)
    return torch.stack(made), states


@torch_rules.register("LSTM")
def _lstm(call: Call) -> tuple[Tensor, ...]:
    return tuple(_run(call, 4, ("Sigmoid", "Tanh", "Tanh"), _lstm_cell))


def _lstm_cell(call: Call, one: Direction, index: int) -> Cell:
    """Gates in the order input, output, forget, cell; peepholes look at the cell state (Gers, Schmidhuber, 2000)."""
    hidden = one.recurrent.shape[1]
    peep = call.get(7)
    zero = torch.zeros(3 * hidden, dtype=one.recurrent.dtype, device=one.recurrent.device)
    look_in, look_out, look_forget = (zero if peep is None else peep[index]).split(hidden)
    f, g, h = one.functions
    coupled = call.attribute("input_forget", 0)

    def cell(brought: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        output, memory = states
        total = brought + torch.nn.functional.linear(output, one.recurrent, one.state_bias)
        into, out, forget, candidate = total.split(hidden, -1)
        into = f(_clipped(into + look_in * memory, one.clip))
        forget = 1 - into if coupled else f(_clipped(forget + look_forget * memory, one.clip))
        memory = forget * memory + into * g(_clipped(candidate, one.clip))
        out = f(_clipped(out + look_out * memory, one.clip))
        return out * h(memory), memory

    return cell


@torch_rules.register("GRU")
def _gru(call: Call) -> tuple[Tensor, ...]:
    return tuple(_run(call, 3, ("Sigmoid", "Tanh"), _gru_cell))


def _gru_cell(call: Call, one: Direction, index: int) -> Cell:
    """Gates in the order update, reset, hidden; the reset acts before the recurrent product, or behind it."""
    hidden = one.recurrent.shape[1]
    f, g = one.functions
    behind = call.attribute("linear_before_reset", 0)
    linear = torch.nn.functional.linear

    def cell(brought: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (state,) = states
        gates = linear(state, one.recurrent[: 2 * hidden], one.state_bias[: 2 * hidden])
        update, reset = f(_clipped(brought[:, : 2 * hidden] + gates, one.clip)).split(hidden, -1)
        weight, bias = one.recurrent[2 * hidden :], one.state_bias[2 * hidden :]
        inner = reset * linear(state, weight, bias) if behind else linear(reset * state, weight, bias)
        candidate = g(_clipped(brought[:, 2 * hidden :] + inner, one.clip))
        return ((1 - update) * candidate + update * state,)

    return cell


@torch_rules.register("RNN")
def _rnn(call: Call) -> tuple[Tensor, ...]:
    return tuple(_run(call, 1, ("Tanh",), _rnn_cell))


def _rnn_cell(call: Call, one: Direction, index: int) -> Cell:
    (f,) = one.functions

    def cell(brought: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        total = brought + torch.nn.functional.linear(states[0], one.recurrent, one.state_bias)
        return (f(_clipped(total, one.clip)),)

    return cell
