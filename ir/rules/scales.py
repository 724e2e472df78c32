"""Which input of a normalisation multiplies its channels afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from secateur.ir.node import Op, Value
from secateur.ir.rules.table import RuleTable

ScaleRule: TypeAlias = Callable[[Op], Value | None]

scale_rules: RuleTable[ScaleRule] = RuleTable("which input multiplies the normalised channels?")


@scale_rules.register(
    "BatchNormalization",
    "GroupNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "RMSNormalization",
    "SimplifiedLayerNormalization",
)
def _second(op: Op) -> Value | None:
    return op.input(1)


@scale_rules.register("com.microsoft::SkipLayerNormalization", "com.microsoft::SkipSimplifiedLayerNormalization")
def _third(op: Op) -> Value | None:
    return op.input(2)


def scale_of(op: Op) -> Value | None:
    """The value that multiplies what an op has normalised; None where it does no such thing."""
    rule = scale_rules.get(op)
    return None if rule is None else rule(op)
