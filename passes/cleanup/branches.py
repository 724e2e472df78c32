"""`inline-branches`: an If whose condition is known becomes the branch that it takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from secateur.ir import Graph, Op, Value
from secateur.ir.clone import clone_op
from secateur.passes.base import Pass
from secateur.passes.context import Context
from secateur.passes.facets import Effect, Facet
from secateur.passes.parts import parts
from secateur.passes.rewriter import replace_value, sweep


@dataclass(frozen=True)
class InlineBranches(Pass):
    """`If(constant)` gives way to the ops of one of its branches; the other branch goes, with its weights.

    Conditions on ranks and on sizes are constants once `fold-constants` has seen them.
    """

    name: ClassVar[str] = "inline-branches"
    changes: ClassVar[Facet] = Facet.TOPOLOGY | Facet.SHAPE
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, graph: Graph, context: Context) -> int:
        """Returns how many Ifs went."""
        inlined = 0
        for part in parts(graph):
            for op in part.ops():
                taken = _taken(part, op)
                if taken is not None and context.allow("inline", op):
                    _inline(part, op, taken)
                    inlined += 1
        return inlined


def _taken(part: Graph, op: Op) -> Graph | None:
    """The branch that an If takes; None for other ops, and where it is not known."""
    condition = part.constant(op.input(0)) if op.key == ("", "If") else None
    if condition is None:
        return None
    branch = op.attribute("then_branch" if condition.numpy().item() else "else_branch")
    return branch if isinstance(branch, Graph) else None


def _inline(part: Graph, op: Op, body: Graph) -> None:
    """The names of a body are free again when it is gone, so what comes out of it gets its own back."""
    moved: dict[Value, Value] = {}
    for value in body.constants():
        moved[value] = part.add_value(_renamed(part, value))
    for inner in body.ops():
        moved |= {value: _renamed(part, value) for value in inner.outputs if value is not None}
        part.add_op(clone_op(inner, moved))
    for old, given in zip(op.outputs, body.outputs, strict=True):
        if old is not None:
            replace_value(part, old, moved.get(given, given))
    sweep(part, op)
    for value, new in moved.items():
        if new in part and new not in part.outputs and part.unique_name(value.name) == value.name:
            part.rename(new, value.name)


def _renamed(part: Graph, value: Value) -> Value:
    return replace(value, name=part.unique_name(value.name))
