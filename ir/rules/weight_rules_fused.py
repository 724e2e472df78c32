"""Weights of ops that do more than one product: Einsum, attention with its projections, experts, recurrent nets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from secateur.ir.node import Op
from secateur.ir.rules.known import Known
from secateur.ir.rules.weight_reading import Reading, reading
from secateur.ir.rules.weight_use import WeightUse, weight_rules

_register = weight_rules.register


@_register("com.microsoft::Attention")
def _attention(known: Known, op: Op) -> Iterator[WeightUse]:
    """Queries, keys and values of one weight [channels, all three]."""
    found, data = reading(known, op.input(1)), op.input(0)
    if found is None or data is None or len(found.shape) != 2:
        return
    contracted, rows = found.one(0), found.all([1])
    if contracted is None or not rows:
        return
    yield WeightUse(
        op,
        1,
        found.value,
        found.tensor,
        data,
        rows[0],
        contracted,
        1,
        2,
        2,
        2,
        rows=rows,
        chain=found.chain,
        targets="data",
    )


@_register("com.microsoft::MoE")
def _mixture(known: Known, op: Op) -> Iterator[WeightUse]:
    """Each linear map as [experts, outputs, inputs]; which tokens an expert reads, the op keeps to itself."""
    for port in (2, 4, 6):
        yield from _stacked(known, op, port)


@_register("GRU", "LSTM", "RNN")
def _recurrent(known: Known, op: Op) -> Iterator[WeightUse]:
    """Of the input and of the state: [directions, gates, inputs]."""
    for port in (1, 2):
        yield from _stacked(known, op, port)


def _stacked(known: Known, op: Op, port: int) -> Iterator[WeightUse]:
    """A weight [stacked, outputs, inputs] inside an op that shows neither what it reads nor what it gives."""
    found, data = reading(known, op.input(port)), op.input(0)
    if found is None or data is None or len(found.shape) != 3:
        return
    contracted, rows = found.one(2), found.all([1])
    if contracted is None or not rows:
        return
    yield WeightUse(
        op,
        port,
        found.value,
        found.tensor,
        data,
        rows[0],
        contracted,
        1,
        -1,
        -1,
        None,
        rows=rows,
        batch=found.all([0]) if found.shape[0] > 1 else (),
        chain=found.chain,
        targets=None,
    )


@dataclass(frozen=True)
class _Equation:
    """The labels of `data, weight -> output`, with `.` for an ellipsis."""

    data: str
    weight: str
    output: str

    @property
    def summed(self) -> str:
        return "".join(label for label in self.weight if label in self.data and label not in self.output)

    @property
    def stacked(self) -> str:
        return "".join(label for label in self.weight if label in self.data and label in self.output)

    @property
    def made(self) -> str:
        return "".join(label for label in self.weight if label not in self.data)

    def is_product(self) -> bool:
        """True for rows of the data times a matrix, or several that are stacked along one axis."""
        sides = (self.data, self.weight, self.output)
        plain = all(len(set(side)) == len(side) for side in sides) and "." not in self.weight
        kept = set(self.data) - set(self.summed) <= set(self.output) and set(self.made) <= set(self.output)
        return plain and kept and len(self.summed) == 1 and len(self.stacked) <= 1 and bool(self.made)

    def shows_rows(self) -> bool:
        """True where the rows of the output come in the order of those of the data, outputs along one axis."""
        mine = [label for label in self.data if label not in self.weight]
        return len(self.made) == 1 and mine == [label for label in self.output if label not in self.weight]


@_register("Einsum")
def _einsum(known: Known, op: Op) -> Iterator[WeightUse]:
    """Where one of two operands is a constant and it is a matrix product, batched perhaps."""
    sides = _labels(op.attribute("equation", ""))
    if sides is None or len(op.inputs) != 2:
        return
    operands, output = sides
    for port in (1, 0):
        found, data = reading(known, op.input(port)), op.input(1 - port)
        equation = _Equation(operands[1 - port], operands[port], output)
        if found is None or data is None or len(found.shape) != len(equation.weight) or not equation.is_product():
            continue
        contracted = found.one(equation.weight.index(equation.summed))
        rows = found.all([equation.weight.index(label) for label in equation.made])
        if contracted is not None and rows:
            yield _contraction(known, op, port, found, (equation, contracted, rows))
            return


def _contraction(
    known: Known, op: Op, port: int, found: Reading, roles: tuple[_Equation, int, tuple[int, ...]]
) -> WeightUse:
    equation, contracted, rows = roles
    data = op.inputs[1 - port]
    assert data is not None
    ranks = (known.rank(data), known.rank(op.output))
    made = next(label for label in equation.output if label in equation.made)
    stack = equation.stacked
    return WeightUse(
        op,
        port,
        found.value,
        found.tensor,
        data,
        rows[0],
        contracted,
        1,
        _place(equation.data, equation.summed, ranks[0]),
        _place(equation.output, made, ranks[1]),
        None,
        rows=rows,
        batch=found.all([equation.weight.index(stack)]) if stack else (),
        data_batch=_place(equation.data, stack, ranks[0]) if stack else None,
        output_batch=_place(equation.output, stack, ranks[1]) if stack else None,
        chain=found.chain,
        targets="output" if equation.shows_rows() else "data",
    )


def _labels(equation: str) -> tuple[list[str], str] | None:
    """The labels of two operands and of the output, an ellipsis as `.`; None for another number of operands."""
    left, arrow, right = equation.replace(" ", "").replace("...", ".").partition("->")
    operands = left.split(",")
    if len(operands) != 2:
        return None
    if not arrow:
        joined = "".join(operands)
        once = sorted(label for label in set(joined) - {"."} if joined.count(label) == 1)
        right = ("." if "." in joined else "") + "".join(once)
    return operands, right


def _place(labels: str, label: str, rank: int | None) -> int:
    """The axis of a label: from the end behind an ellipsis, made positive where the rank is known."""
    at = labels.index(label)
    if "." not in labels[:at]:
        return at
    behind = at - len(labels)
    return behind if rank is None else rank + behind
