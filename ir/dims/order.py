"""Dimensions whose indices may trade places, weights and all, and those whose order is part of what they mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from secateur.ir.dims.algebra import Dim, leaves
from secateur.ir.dims.analysis import Dimensions
from secateur.ir.dims.axes import Use
from secateur.ir.node import Op
from secateur.ir.rules.known import Known
from secateur.ir.rules.table import RuleTable

OrderRule: TypeAlias = Callable[[Known, Op], Sequence[int] | None]
"""(known, op) to axes of its first input, or of its output where it has none; None for all of them."""

order_rules: RuleTable[OrderRule] = RuleTable("along which axes of what it reads does the order of indices matter?")


@order_rules.register("CumSum", "CumProd")
def _running(known: Known, op: Op) -> Sequence[int] | None:
    tensor, rank = known.constant(op.input(1)), known.rank(op.input(0))
    return None if tensor is None or rank is None else [int(tensor.numpy().reshape(-1)[0]) % rank]


@order_rules.register("ArgMax", "ArgMin", "TopK")
def _first_of_equals(known: Known, op: Op) -> Sequence[int] | None:
    rank = known.rank(op.input(0))
    return None if rank is None else [op.attribute("axis", -1 if op.op_type == "TopK" else 0) % rank]


@order_rules.register("LRN")
def _neighbours(known: Known, op: Op) -> Sequence[int] | None:
    return [1]


@order_rules.register(
    *("Dropout", "Bernoulli", "RandomNormalLike", "RandomUniformLike", "RandomNormal", "RandomUniform")
)
def _drawn(known: Known, op: Op) -> Sequence[int] | None:
    return None if op.op_type != "Dropout" or op.input(2) is not None else []


def fixed(dimensions: Dimensions) -> dict[Dim, str]:
    """The leaves whose indices must stay where they are, each with the reason. All others may be reordered at will.

    Pinned ones are among them: what enters and leaves a model has an order that others know.
    """
    found: dict[Dim, str] = {}
    for layouts in dimensions.layouts.values():
        for layout in layouts:
            for leaf in leaves(layout):
                if leaf.pin is not None:
                    found.setdefault(leaf, leaf.pin)
    for dim in dimensions.branches:
        found.setdefault(dim, "ops take its indices one by one")
    for op in dimensions.known.graph.ops():
        rule = order_rules.get(op)
        if rule is None:
            continue
        read = op.input(0)
        layouts = dimensions.layouts.get(Use(op, 0)) or dimensions.layouts.get(op.output if read is None else read, [])
        axes = rule(dimensions.known, op)
        for axis in range(len(layouts)) if axes is None else axes:
            for leaf in leaves(layouts[axis]):
                found.setdefault(leaf, f"{op} depends on the order of its indices")
    return found
