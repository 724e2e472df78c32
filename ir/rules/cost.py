"""What an op costs: multiply-accumulate operations, from the shapes of its inputs and outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from secateur.ir.node import Op, Value
from secateur.ir.rules.known import Known
from secateur.ir.rules.table import RuleTable

Shape: TypeAlias = tuple[int, ...]
CostRule: TypeAlias = Callable[[Op, list[Shape | None], list[Shape | None]], int | None]

cost_rules: RuleTable[CostRule] = RuleTable("how many multiply-accumulates does it take?")
_register = cost_rules.register


@dataclass(frozen=True, slots=True)
class Cost:
    """Multiply-accumulates of the ops that have a rule; `uncounted` has a rule too, but shapes that are not known.

    Symbolic axes (a dynamic batch) count as one, so the figures are for one sample.
    """

    macs: Mapping[Op, int]
    uncounted: tuple[Op, ...]

    @property
    def total(self) -> int:
        """All multiply-accumulates."""
        return sum(self.macs.values())


def cost(known: Known) -> Cost:
    """Counts the graph and its bodies (each body once)."""

    def shape(value: Value | None) -> Shape | None:
        found = known.shape(value)
        return None if found is None else tuple(dim if isinstance(dim, int) else 1 for dim in found)

    macs: dict[Op, int] = {}
    uncounted: list[Op] = []
    for part in known.graph.graphs():
        for op in part.ops():
            if (rule := cost_rules.get(op)) is None:
                continue
            count = rule(op, [shape(value) for value in op.inputs], [shape(value) for value in op.outputs])
            if count is None:
                uncounted.append(op)
            else:
                macs[op] = count
    return Cost(macs, tuple(uncounted))


@_register("Conv")
def _conv(op: Op, inputs: list[Shape | None], outputs: list[Shape | None]) -> int | None:
    weight, made = inputs[1], outputs[0]
    return None if weight is None or made is None else math.prod(made) * math.prod(weight[1:])


@_register("ConvTranspose")
def _conv_transpose(op: Op, inputs: list[Shape | None], outputs: list[Shape | None]) -> int | None:
    data, weight = inputs[0], inputs[1]
    return None if weight is None or data is None else math.prod(data) * math.prod(weight[1:])


@_register("Gemm")
def _gemm(op: Op, inputs: list[Shape | None], outputs: list[Shape | None]) -> int | None:
    left, made = inputs[0], outputs[0]
    if left is None or made is None or len(left) != 2:
        return None
    return math.prod(made) * left[0 if op.attribute("transA", 0) else 1]


@_register("MatMul")
def _matmul(op: Op, inputs: list[Shape | None], outputs: list[Shape | None]) -> int | None:
    left, right, made = inputs[0], inputs[1], outputs[0]
    if not left or not right or made is None:
        return None
    # One of the two may not say how long the axis is that they are summed over.
    return math.prod(made) * max(left[-1], right[-2] if len(right) > 1 else right[0])


@_register("LSTM", "GRU", "RNN")
def _recurrent(op: Op, inputs: list[Shape | None], outputs: list[Shape | None]) -> int | None:
    data, weight, recurrence = inputs[0], inputs[1], inputs[2]
    if data is None or weight is None or recurrence is None:
        return None
    return data[0] * data[1] * (math.prod(weight) + math.prod(recurrence))


@_register("Attention")
def _attention(op: Op, inputs: list[Shape | None], outputs: list[Shape | None]) -> int | None:
    query, key, made = inputs[0], inputs[1], outputs[0]
    if query is None or key is None or made is None or len({len(query), len(key), len(made)}) != 1:
        return None
    # Both products pair every query row with every key row; rank 3 has the heads inside the last axis.
    return (math.prod(query) + math.prod(made)) * key[-2]
