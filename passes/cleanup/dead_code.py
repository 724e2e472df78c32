"""`remove-dead-code`: what no output needs goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from secateur.ir import FunctionKey, Graph
from secateur.passes.base import Pass
from secateur.passes.context import Context
from secateur.passes.facets import Effect, Facet
from secateur.passes.parts import parts


@dataclass(frozen=True)
class RemoveDeadCode(Pass):
    """Ops whose outputs nobody reads go, then constants that nobody reads, then functions that nobody calls.

    The interface stays as it is, unused inputs and their defaults too, and so does what a body reads. ONNX graphs have
    no side effects, so an op without readers does nothing.
    """

    name: ClassVar[str] = "remove-dead-code"
    changes: ClassVar[Facet] = Facet.TOPOLOGY
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, graph: Graph, context: Context) -> int:
        """Returns how many ops, constants and functions went."""
        functions = _remove_functions(graph)
        ops = sum(_remove_ops(part, context) for part in parts(graph))
        constants = sum(_remove_constants(part) for part in parts(graph))
        if ops + constants + functions:
            context.row(ops=ops, constants=constants, functions=functions)
        return ops + constants + functions


def _remove_ops(part: Graph, context: Context) -> int:
    removed = 0
    for op in reversed(part.ops()):
        if any(value is not None and part.is_used(value) for value in op.outputs):
            continue
        if context.allow("remove", op):
            part.remove(op)
            removed += 1
    return removed


def _remove_constants(part: Graph) -> int:
    unused = [value for value in part.constants() if not part.is_used(value) and value not in part.inputs]
    part.remove(*unused)
    return len(unused)


def _remove_functions(graph: Graph) -> int:
    called: set[FunctionKey] = set()
    waiting = [graph]
    while waiting:
        keys = {(op.domain, op.op_type, op.overload) for part in waiting.pop().graphs() for op in part.ops()}
        for key in keys & (graph.functions.keys() - called):
            called.add(FunctionKey(*key))
            waiting.append(graph.functions[FunctionKey(*key)])
    unused = [key for key in graph.functions if key not in called]
    for key in unused:
        del graph.functions[key]
    return len(unused)
