"""How an op mixes what it reads: by a linear map, by a product of two activations, or not at all (then it has no rule).

This is what tells attention from a feed-forward network, and both from norms, activations and shape arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from secateur.ir.node import Op
from secateur.ir.rules.known import Known
from secateur.ir.rules.table import RuleTable


class Mixing(Enum):
    """Ways to mix."""

    PRODUCT = "product"
    """A sum of products of two operands: a linear map where one of them is a weight."""
    CONVOLUTION = "convolution"
    """A linear map with a kernel; one of extent 1 is a plain linear map."""
    ATTENTION = "attention"
    """Products of queries, keys and values in one op."""
    RECURRENCE = "recurrence"
    """A recurrent layer."""
    EXPERTS = "experts"
    """Feed-forward networks between which a router chooses."""


@dataclass(frozen=True)
class MixingRule:
    """The kind, and the inputs that are multiplied with each other; None for all."""

    kind: Mixing
    operands: tuple[int, ...] | None = (0, 1)

    def ports(self, op: Op) -> tuple[int, ...]:
        """The operands that this op has."""
        return tuple(range(len(op.inputs))) if self.operands is None else self.operands


mixing_rules: RuleTable[MixingRule] = RuleTable("does it mix its inputs linearly, or multiply activations?")

for _types, _rule in (
    (
        "MatMul Gemm MatMulInteger com.microsoft::MatMulNBits com.microsoft::FusedMatMul com.microsoft::FusedGemm "
        "com.microsoft::TransposeMatMul",
        MixingRule(Mixing.PRODUCT),
    ),
    ("QLinearMatMul", MixingRule(Mixing.PRODUCT, (0, 3))),
    ("Einsum", MixingRule(Mixing.PRODUCT, None)),
    ("Conv ConvTranspose ConvInteger DeformConv com.microsoft::FusedConv", MixingRule(Mixing.CONVOLUTION)),
    ("QLinearConv", MixingRule(Mixing.CONVOLUTION, (0, 3))),
    (
        "Attention LinearAttention com.microsoft::Attention com.microsoft::MultiHeadAttention "
        "com.microsoft::GroupQueryAttention com.microsoft::LinearAttention",
        MixingRule(Mixing.ATTENTION, (0,)),
    ),
    ("LSTM GRU RNN", MixingRule(Mixing.RECURRENCE)),
    ("com.microsoft::MoE com.microsoft::QMoE", MixingRule(Mixing.EXPERTS, (0,))),
):
    for _type in _types.split():
        mixing_rules.add(_type, _rule)


def is_spread(known: Known, op: Op) -> bool:
    """True for a convolution whose kernel covers more than one position (or nobody knows how many)."""
    rule = mixing_rules.get(op)
    if rule is None or rule.kind is not Mixing.CONVOLUTION:
        return False
    shape = known.shape(op.input(rule.ports(op)[1]))
    return shape is None or any(size != 1 for size in shape[2:])
