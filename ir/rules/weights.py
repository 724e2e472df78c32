"""Which input of an op is a weight, what it is contracted with, and along which of its axes.

This is all that magnitude, sparsity and quantization need to know of an operator: 2:4 runs along `contracted`, scales
lie along `produced`, a bias goes with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from secateur.ir.graph import Graph
from secateur.ir.node import Op, Value
from secateur.ir.rules import weight_rules_fused, weight_rules_linear
from secateur.ir.rules.known import Known
from secateur.ir.rules.weight_use import WeightRule, WeightUse, weight_rules

__all__ = ["WeightRule", "WeightUse", "strangers", "weight_rules", "weight_use", "weight_uses", "weight_uses_of"]

# Importing these filled the table.
_FILLED = (weight_rules_fused, weight_rules_linear)


def weight_use(known: Known, op: Op) -> WeightUse | None:
    """How `op` uses a weight that is plain: a constant that it reads itself, one matrix or kernel (`is_plain`).

    None where it has no rule, or its weight is not such a constant; `weight_uses_of` tells of more.
    """
    return next((use for use in weight_uses_of(known, op) if use.is_plain), None)


def weight_uses_of(known: Known, op: Op) -> Iterator[WeightUse]:
    """All constant weights of one op: stacked, behind Transpose, Reshape, Cast, Q/DQ, or inside a fused op, too."""
    rule = weight_rules.get(op)
    if rule is not None:
        yield from rule(known, op)


def weight_uses(known: Known) -> Iterator[WeightUse]:
    """The weights of a graph (bodies not included), in the order of its ops, as `weight_uses_of` finds them."""
    for op in known.graph.ops():
        yield from weight_uses_of(known, op)


def strangers(graph: Graph, weight: Value, uses: Iterable[WeightUse]) -> list[str]:
    """Who else reads a constant, or what lies between it and these uses of it; empty where nobody does.

    A change of the constant reaches them, too.
    """
    ours = [use for use in uses if use.weight is weight]
    between = {op for use in ours for op in use.chain}
    allowed = {(use.op, use.port) for use in ours} | {(op, 0) for op in between}
    found: dict[str, None] = {}
    for value in [weight, *(op.output for op in between)]:
        direct = graph.uses(value)
        found.update((str(op), None) for op, port in direct if (op, port) not in allowed)
        inside = set(graph.consumers(value)) - {op for op, _ in direct}
        found.update((str(op), None) for op in inside)
        if value in graph.outputs:
            found["the interface"] = None
    return sorted(found)
