"""`remove-identities`: ops that give their input back go."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from secateur.ir import Graph, Op
from secateur.ir.rules.known import Known
from secateur.passes.base import Pass
from secateur.passes.cleanup.identity_rules import identity_rules
from secateur.passes.cleanup.shapes import known
from secateur.passes.context import Context
from secateur.passes.facets import Effect, Facet
from secateur.passes.parts import parts
from secateur.passes.rewriter import keeps_name, replace_value, sweep


@dataclass(frozen=True)
class RemoveIdentities(Pass):
    """`y = Identity(x)`, and whatever is proved to be the same, goes: readers of y read x.

    So do Dropout outside training, and Reshape, Transpose, Cast, Pad, Slice and their like where shapes and constants
    show that they do nothing. An output of the model keeps its name; an op that only stands between an input (or a
    constant, or another output) and the name of an output therefore stays.
    """

    name: ClassVar[str] = "remove-identities"
    changes: ClassVar[Facet] = Facet.TOPOLOGY | Facet.ATTRIBUTES | Facet.SHAPE | Facet.DTYPE
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, graph: Graph, context: Context) -> int:
        """Returns how many ops went."""
        facts = context.facts.get(known)
        removed = 0
        for part in parts(graph):
            here = replace(facts, graph=part)
            for op in part.ops():
                if _is_identity(op, here) and context.allow(op.op_type, op):
                    data = op.inputs[0]
                    assert data is not None
                    replace_value(part, op.output, data)
                    sweep(part, op)
                    removed += 1
        return removed


def _is_identity(op: Op, here: Known) -> bool:
    rule = identity_rules.get(op)
    part, data = here.graph, op.input(0)
    if rule is None or data is None or op not in part or op.outputs[0] is None:
        return False
    if any(value is not None and part.is_used(value) for value in op.outputs[1:]):
        return False
    if op.output in part.outputs and keeps_name(part, data) is not None:
        return False
    return rule(here, op)
