"""Where a graph can be cut into blocks: values that everything goes through, and the residual blocks between them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

import networkx as nx

from secateur.ir.graph import Graph
from secateur.ir.node import Op, Value

_Node: TypeAlias = Op | Value | str
if TYPE_CHECKING:
    _Paths: TypeAlias = nx.DiGraph[_Node]

_SOURCE, _SINK = "source", "sink"
_JOINS = frozenset({("", "Add"), ("", "Sum")})


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A part of a graph with one way in and one way out: every path from the inputs into it goes through `entry`.

    `ops` is in the order of `graph.ops()`: the ops on the paths from `entry` to `exit`, and those that compute what
    these read from constants alone (a dequantized weight, say).
    """

    entry: Value
    exit: Value
    ops: tuple[Op, ...]


def cut_values(graph: Graph, *, side: Collection[Value] = ()) -> list[Value]:
    """The values that every path from the inputs to the outputs goes through, in topological order.

    Constants, overridable or not, are no paths. With several inputs or outputs, paths from each of them to each of them
    count. In a topological order of the ops and values on paths, one is on all of them exactly if no edge leads from
    before it to after it: one sweep finds them all in O(ops + edges).

    Args:
        graph: a model, a function, or a body (whose captured values are inputs too).
        side: values to be taken as known besides, such as an attention mask or a rotary table that every layer reads:
            nothing that leads through them counts as a path.
    """
    order = _on_paths(graph, set(side))
    position = {node: index for index, node in enumerate(order)}
    outputs, cuts = set(graph.outputs), []
    reach = max((index for index, node in enumerate(order) if not graph.nx.pred[node]), default=0)
    for index, node in enumerate(order):
        if reach <= index and isinstance(node, Value):
            cuts.append(node)
        readers = [position[reader] for reader in graph.nx.succ[node] if reader in position]
        reach = max(reach, len(order) if node in outputs else 0, *readers)
    return cuts


def blocks(graph: Graph, *, side: Collection[Value] = ()) -> list[Block]:
    """What lies between each two neighbouring `cut_values`; no op lies in two blocks.

    Ops before the first cut value (where several inputs come together) and after the last one (several heads) are in
    no block. An op on constants or side values that two blocks read is in the first.
    """
    region = _Regions(graph, set(side))
    return [region.block(entry, end, once=True) for entry, end in pairwise(cut_values(graph, side=side))]


def residual_blocks(graph: Graph, *, side: Collection[Value] = ()) -> list[Block]:
    """The regions that begin with one value and end with the Add (or Sum) of what became of it, in the order of ends.

    The value goes round the block (identity) or through a projection; nothing else leads into or out of it: `entry` is
    the immediate dominator of the Add, and the Add the immediate post-dominator of `entry` (single-entry single-exit
    regions: Johnson, Pearson and Pingali, "The program structure tree", 1994, section 2). Blocks may nest.

    Args:
        graph: a model, a function or a body.
        side: as in `cut_values`.
    """
    paths = _path_graph(graph, set(side))
    before = nx.immediate_dominators(paths, _SOURCE)
    after = nx.immediate_dominators(paths.reverse(copy=False), _SINK)
    region, found = _Regions(graph, set(side)), []
    for op in graph.ops():
        if op.key in _JOINS and op in paths and len(paths.pred[op]) > 1 and len(op.outputs) == 1:
            entry = before.get(op)
            if isinstance(entry, Value) and after.get(entry) is op:
                found.append(region.block(entry, op.output, once=False))
    return found


def _on_paths(graph: Graph, side: set[Value]) -> list[Op | Value]:
    """The ops and values on paths from inputs to outputs, in topological order, inputs first."""
    captured = graph.captured() if graph.is_body else []
    given = (value for value in (*graph.inputs, *captured) if value.const is None and value not in side)
    reached: dict[Op | Value, None] = dict.fromkeys(given)
    for op in graph.ops():
        if not reached.keys().isdisjoint(graph.nx.pred[op]):
            reached[op] = None
            reached.update((value, None) for value in op.outputs if value is not None and value not in side)
    needed: dict[Op | Value, None] = {}
    outputs = set(graph.outputs)
    for node in reversed(reached):
        if node in outputs or not needed.keys().isdisjoint(graph.nx.succ[node]):
            needed[node] = None
    return list(reversed(needed))


def _path_graph(graph: Graph, side: set[Value]) -> _Paths:
    """The paths from inputs to outputs, between a virtual source and a virtual sink."""
    order = _on_paths(graph, side)
    inside = set(order)
    paths: _Paths = nx.DiGraph()
    paths.add_nodes_from((_SOURCE, _SINK))
    for node in order:
        origins = [origin for origin in graph.nx.pred[node] if origin in inside]
        paths.add_edges_from((origin, node) for origin in origins or (_SOURCE,))
    paths.add_edges_from((value, _SINK) for value in graph.outputs if value in inside)
    return paths


class _Regions:
    """Gathers the ops of blocks."""

    def __init__(self, graph: Graph, side: set[Value]) -> None:
        self.graph = graph
        self.side = side
        self.turn = {op: index for index, op in enumerate(graph.ops())}
        self.taken: set[Op] = set()

    def block(self, entry: Value, end: Value, *, once: bool) -> Block:
        """What is needed to compute `end` from `entry`, side values and constants; `once`: in one block at most."""
        found: set[Op] = set()
        waiting = [end]
        while waiting:
            value = waiting.pop()
            op = self.graph.producer(value)
            if (
                op is not None
                and value is not entry
                and value not in self.side
                and op not in found
                and op not in self.taken
            ):
                found.add(op)
                waiting.extend(self.graph.nx.pred[op])  # type: ignore[arg-type]  # an op's predecessors are values
        if once:
            self.taken |= found
        return Block(entry, end, tuple(sorted(found, key=self.turn.__getitem__)))
