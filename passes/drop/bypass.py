"""Taking blocks out of a graph."""

from __future__ import annotations

from collections.abc import Iterable

from secateur.ir.build import emit
from secateur.ir.errors import RefusedError
from secateur.ir.graph import Graph
from secateur.ir.node import Op, Value
from secateur.ir.removable import Removable
from secateur.ir.residual import Sum, sum_rules

_EPSILON = 1e-12
"""What fused sums and norms take where they do not say."""


def bypass(graph: Graph, blocks: Iterable[Removable]) -> None:
    """Takes out blocks of which none holds another, the last first; what nothing needs any more stays as dead code.

    Names, types and order of the graph's outputs stay: where an output became another value, an Identity makes it.

    Raises:
        RefusedError: an output would be nothing but an input.
    """
    ends: dict[Value, Removable] = {}
    for block in reversed(list(blocks)):
        before = set(graph.outputs)
        if block.terms:
            for term in reversed(block.terms):
                _take_out(graph, term)
        else:
            _replace(graph, block.exit, block.entry)
        ends.update((value, block) for value in graph.outputs if value not in before)
    for value, block in ends.items():
        maker = graph.producer(value)
        if maker is not None and maker.inputs[0] in graph.inputs:
            raise RefusedError(
                f"without the block {block.name}, the output {value.name!r} of {graph.title} would be nothing but its "
                f"input {maker.inputs[0].name!r}",
                hint="leave this block in",
            )


def _take_out(graph: Graph, term: Value) -> None:
    """A sum without one of its terms."""
    uses = [(op, port) for op, port in graph.uses(term) if sum_rules.get(op) is not None]
    assert len(uses) == 1, f"{term} is read by {uses}"
    op, port = uses[0]
    rule = sum_rules.get(op)
    assert rule is not None
    others = [value for at, value in rule.terms(op) if at != port]
    if rule.normalized is not None:
        _normalize(graph, op, rule, others[0])
    elif len(others) == 1:
        _replace(graph, op.output, others[0])
        graph.remove(op)
    else:
        graph.set_inputs(op, [value for at, value in enumerate(op.inputs) if at != port])


def _normalize(graph: Graph, op: Op, rule: Sum, trunk: Value) -> None:
    """A fused sum and norm becomes the norm; a bias, which belongs to the branch, goes with it."""
    assert rule.normalized is not None
    weights = [value for port, value in enumerate(op.inputs) if port not in (*(rule.ports or ()), rule.bias)]
    while weights[-1] is None:
        weights.pop()
    attributes = {"axis": -1, "epsilon": op.attribute("epsilon", _EPSILON)}
    made = emit(graph, _norm_of(graph, op), [trunk, *weights], attributes, like=op)
    _replace(graph, op.outputs[rule.normalized], made.output)
    if rule.result is not None and rule.result < len(op.outputs):
        _replace(graph, op.outputs[rule.result], trunk)
    graph.remove(op)


def _norm_of(graph: Graph, op: Op) -> str:
    """The norm that is left of a fused sum; without RMSNormalization, the one that onnxruntime has had for longer."""
    if op.op_type == "SkipLayerNormalization":
        return "LayerNormalization"
    return "RMSNormalization" if (graph.header.opset() or 0) >= 23 else "SimplifiedLayerNormalization"


def _replace(graph: Graph, old: Value | None, new: Value) -> None:
    """What read `old` reads `new`. An output of the graph keeps its name and type."""
    if old is None:
        return
    if old in graph.outputs:
        name = old.name
        graph.rename(old, graph.unique_name(f"{name}_before"))
        kept = emit(graph, "Identity", [new], outputs=(name,)).output
        kept.type, kept.doc, kept.metadata = old.type, old.doc, old.metadata
        graph.set_interface(outputs=[kept if value is old else value for value in graph.outputs])
    graph.replace_all_uses(old, new)
