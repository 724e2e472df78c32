"""What is in a model, and what can be done to it: the answer to `secateur inspect`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from secateur.feeding import ModelLike, batch_of, graph_of, title_of
from secateur.ir import Graph, Op, Value
from secateur.ir.dims.axes import dims_rules
from secateur.ir.onnx_shapes import infer
from secateur.ir.rules.cost import Cost, cost, cost_rules
from secateur.ir.rules.known import Known
from secateur.ir.rules.weights import weight_rules
from secateur.passes.report import Size
from secateur.text import Shown, amount, heading, notes, pairs, table
from secateur.weights import WeightRow, weight_rows

if TYPE_CHECKING:
    from rich.console import RenderableType

_TABLES = (weight_rules, dims_rules, cost_rules)


@dataclass(frozen=True)
class Port:
    """An input or an output: its name, and its element type and shape as the text form writes them."""

    name: str
    type: str


@dataclass(frozen=True)
class Boundary:
    """Ops of one type that nothing is known of: what is pruned on one side of them does not reach the other."""

    op_type: str
    count: int
    reason: str


@dataclass(frozen=True)
class Inspection(Shown):
    """Everything that can be said of a model without running it.

    `macs` are multiply-accumulates for one sample: a fixed `batch` is divided out, a symbolic one counts as one, and
    `uncounted` names the ops whose shapes are not known.
    """

    model: str
    opsets: tuple[tuple[str, int], ...]
    size: Size
    macs: int
    batch: int | None
    uncounted: tuple[str, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    ops: dict[str, int]
    weights: tuple[WeightRow, ...]
    boundaries: tuple[Boundary, ...]
    remarks: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The same as dicts, lists, strings and numbers."""
        return asdict(self)

    def blocks(self) -> Iterable[RenderableType]:
        """Figures, interface, ops, weights and boundaries."""
        yield heading(self.model, first=True)
        yield pairs(self._figures())
        yield table([{"op": name, "count": count} for name, count in self.ops.items()], gap=True)
        if self.weights:
            yield heading("weights")
            yield table([row.cells() for row in self.weights])
            yield from notes(_reasons(self.weights))
        if self.boundaries:
            yield heading("boundaries")
            yield table([asdict(boundary) for boundary in self.boundaries])
        yield from notes(self.remarks)

    def _figures(self) -> dict[str, str]:
        prunable = sum(row.prunable for row in self.weights)
        sparse = sum(row.pattern is not None for row in self.weights)
        quantized = sum(row.quantized is not None for row in self.weights)
        uncounted = f" (and {len(self.uncounted)} ops of unknown shapes)" if self.uncounted else ""
        return {
            "opsets": ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in self.opsets),
            "inputs": ", ".join(f"{port.name} {port.type}" for port in self.inputs),
            "outputs": ", ".join(f"{port.name} {port.type}" for port in self.outputs),
            "ops": f"{self.size.ops:,}",
            "parameters": f"{amount(self.size.parameters)} ({amount(self.size.bytes, 'B')})",
            "MACs a sample": amount(self.macs) + uncounted,
            "weights": f"{len(self.weights)}: {prunable} prunable, {sparse} sparse, {quantized} quantized",
        }


def inspect(model: ModelLike) -> Inspection:
    """Looks at a model: ops, sizes, cost, interface, weights (prunable, sparse, quantized), boundaries.

    Reads every weight once, to count its zeros.

    Raises:
        ModelError: the file is no model.
        GraphError: the graph is not well formed.
    """
    graph = graph_of(model)
    graph.verify()
    known = Known(graph, infer(graph))
    spent, batch = cost(known), batch_of(graph)
    weights = tuple(weight_rows(known))
    ops = Counter(_kind(op) for op in _all_ops(graph))
    return Inspection(
        model=title_of(model),
        opsets=graph.header.opsets,
        size=Size.of(graph),
        macs=spent.total // (batch or 1),
        batch=batch,
        uncounted=tuple(op.title for op in spent.uncounted),
        inputs=tuple(_port(value) for value in graph.inputs if value.const is None),
        outputs=tuple(_port(value) for value in graph.outputs),
        ops=dict(sorted(ops.items(), key=lambda entry: (-entry[1], entry[0]))),
        weights=weights,
        boundaries=tuple(_boundaries(graph)),
        remarks=tuple(_remarks(known, spent, weights)),
    )


def macs_of(graph: Graph) -> int:
    """Multiply-accumulates for one sample, as far as shapes are known."""
    return cost(Known(graph, infer(graph))).total // (batch_of(graph) or 1)


def _all_ops(graph: Graph) -> Iterator[Op]:
    for whole in (graph, *graph.functions.values()):
        for part in whole.graphs():
            yield from part.ops()


def _kind(op: Op) -> str:
    return f"{op.key[0]}::{op.op_type}" if op.key[0] else op.op_type


def _port(value: Value) -> Port:
    return Port(value.name, str(value.type) if value.type is not None else "?")


def _boundaries(graph: Graph) -> Iterator[Boundary]:
    functions = {(key.domain, key.name) for key in graph.functions}
    found: Counter[tuple[str, str]] = Counter()
    for op in graph.ops():
        if any(rules.get(op) is not None for rules in _TABLES) or _is_constant(graph, op):
            continue
        found[_kind(op), _reason(op, functions)] += 1
    for (op_type, reason), count in sorted(found.items(), key=lambda entry: (-entry[1], entry[0])):
        yield Boundary(op_type, count, reason)


def _is_constant(graph: Graph, op: Op) -> bool:
    """Reads constants only: a weight that is unpacked, say, through which no channels flow."""
    return bool(op.inputs) and all(value is None or graph.constant(value) is not None for value in op.inputs)


def _reason(op: Op, functions: set[tuple[str, str]]) -> str:
    if op.bodies():
        return "control flow: its bodies are kept as they are"
    if op.key in functions:
        return "a function of the model: calls are not looked into"
    if op.key[0]:
        return f"no rule for operators of the domain {op.key[0]}"
    return "no rule in any table: weights, dimensions, cost"


def _reasons(weights: Iterable[WeightRow]) -> Iterator[str]:
    """Why weights stay, each reason once."""
    found: dict[str, list[str]] = {}
    for row in weights:
        if row.reason:
            found.setdefault(row.reason, []).append(row.name)
    for reason, names in found.items():
        others = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield f"{', '.join(names[:3])}{others}: {reason}"


def _remarks(known: Known, spent: Cost, weights: Sequence[WeightRow]) -> Iterator[str]:
    graph = known.graph
    inside = sum(len(part.ops()) for part in graph.graphs() if part is not graph)
    inside += sum(len(part.ops()) for body in graph.functions.values() for part in body.graphs())
    if inside:
        yield f"{inside} ops lie in bodies or functions; their weights are not listed"
    named = {row.op for row in weights}
    if others := [op for op in graph.ops() if weight_rules.get(op) is not None and op.title not in named]:
        yield f"{len(others)} ops that may have a weight have none that is a constant, such as {others[0]}"
    if loose := [value.name for value in graph.inputs if _leaves_sizes_open(known, value)]:
        yield f"MACs take the sizes that the model leaves open as 1, in {', '.join(loose)}"
    if spent.uncounted:
        yield f"MACs leave out {len(spent.uncounted)} ops of unknown shapes, such as {spent.uncounted[0]}"


def _leaves_sizes_open(known: Known, value: Value) -> bool:
    """True where an axis other than the first, the batch, has no fixed size."""
    shape = known.shape(value)
    return shape is None or not all(isinstance(size, int) for size in shape[1:])
