"""Branches that belong to one index: an expert behind its share. With the index they go, ops and weights and all."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from secateur.ir.build import emit
from secateur.ir.dims.algebra import Dim, Indices, indices, leaves, owners, pin, size_of
from secateur.ir.dims.axes import Layouts, Pick, Place, Use
from secateur.ir.dims.vanish import Fading, Fate, vanish_rules
from secateur.ir.errors import RefusedError
from secateur.ir.graph import Graph
from secateur.ir.node import Op, Value
from secateur.ir.rules.known import Known


@dataclass
class Trace:
    """What becomes of a graph when some values read as zero.

    Attributes:
        fates: values that are zero, empty, or measured of such.
        same: ops that only hand on one of their inputs then.
        fewer: ops that go on without some of their inputs, and those that they keep.
        stuck: who reads such a value otherwise, so that it cannot go; None where nobody does.
    """

    fates: dict[Value, Fate]
    same: dict[Op, Value] = field(default_factory=dict)
    fewer: dict[Op, tuple[Value, ...]] = field(default_factory=dict)
    stuck: str | None = None


@dataclass(frozen=True)
class Branch:
    """What goes with some values: ops, producers first, and the numbers that only these have read."""

    trace: Trace
    ops: tuple[Op, ...]
    weights: tuple[Value, ...]


class Branches:
    """What hangs on values of a graph, as long as that does not change."""

    def __init__(self, known: Known) -> None:
        self._known = known
        self._functions = {(key.domain, key.name) for key in known.graph.root.functions}
        self._ops: list[Op] = []
        self._places: dict[Op, int] = {}

    def trace(self, zeros: Iterable[Value]) -> Trace:
        """Follows values that read as zero until nothing of them is left."""
        if not self._ops:
            self._ops = self._known.graph.ops()
            self._places = {op: place for place, op in enumerate(self._ops)}
        found = Trace(dict.fromkeys(zeros, Fate.ZERO))
        waiting: list[int] = []
        for value in list(found.fates):
            self._follow(found, value, waiting)
        last = -1
        while waiting and found.stuck is None:
            place = heapq.heappop(waiting)
            if place != last:
                self._pass(found, self._ops[place], waiting)
            last = place
        return found

    def _follow(self, found: Trace, value: Value, waiting: list[int]) -> None:
        graph = self._known.graph
        if value in graph.outputs:
            found.stuck = f"the output {value.name!r}"
        for op in graph.consumers(value):
            heapq.heappush(waiting, self._places[op])

    def _pass(self, found: Trace, op: Op, waiting: list[int]) -> None:
        rule = None if op.bodies() or op.key in self._functions else vanish_rules.get(op)
        made = _made(self._known.graph, op)
        outcome = None if rule is None else rule(Fading(self._known, op, found.fates))
        if outcome is None or (len(made) > 1 and op.op_type != "Split"):
            found.stuck = str(op)
        elif not isinstance(outcome, Fate):
            if len(outcome) == 1:
                found.same[op] = outcome[0]
            else:
                found.fewer[op] = outcome
        else:
            for value in made:
                found.fates[value] = outcome
                self._follow(found, value, waiting)

    def branch(self, zeros: Iterable[Value]) -> Branch:
        """What goes when these values read as zero: the ops behind them, and those that only these have read."""
        graph, found = self._known.graph, self.trace(zeros)
        makers = {op for value in found.fates if (op := graph.producer(value)) is not None}
        gone = {op for op in makers if found.fates.keys() >= set(_made(graph, op))} | set(found.same)
        kept = set(found.same.values()) | {value for some in found.fewer.values() for value in some}
        readers = gone | set(found.fewer)
        waiting = list(gone)
        while waiting:
            for value in waiting.pop().inputs:
                maker = None if value is None else graph.producer(value)
                if maker is not None and maker not in gone and self._serves(maker, readers, kept):
                    gone.add(maker)
                    readers.add(maker)
                    waiting.append(maker)
        ops = sorted(gone, key=self._places.__getitem__)
        read = dict.fromkeys(value for op in ops for value in op.inputs if value is not None)
        weights = [value for value in read if value not in kept and self._is_weight(value, readers)]
        return Branch(found, tuple(ops), tuple(weights))

    def _serves(self, maker: Op, readers: set[Op], kept: set[Value]) -> bool:
        graph, made = self._known.graph, [value for value in maker.outputs if value is not None]
        return all(
            value not in kept and value not in graph.outputs and readers.issuperset(graph.consumers(value))
            for value in made
        )

    def _is_weight(self, value: Value, readers: set[Op]) -> bool:
        tensor = self._known.constant(value)
        is_number = tensor is not None and (tensor.dtype.is_float or tensor.dtype.bits <= 8)
        return is_number and readers.issuperset(self._known.graph.consumers(value))


class Picks:
    """Indices that are picked one by itself, and may go because all that is made of them goes with them."""

    def __init__(self, known: Known) -> None:
        self.found: list[Pick] = []
        self.branches = Branches(known)

    def offer(self, pick: Pick) -> bool:
        """An op takes one index by itself: notes it where all that is made of it vanishes with it, else says no."""
        if size_of(pick.layout) is None or all(leaf.pin for leaf in leaves(pick.layout)):
            return False
        if self.branches.trace([pick.value]).stuck is not None:
            return False
        self.found.append(pick)
        return True

    def settle(self) -> None:
        """Pins a dimension where not any of its indices, but for one at least, can go together."""
        for leaf in {leaf: None for pick in self.found for leaf in leaves(pick.layout) if leaf.pin is None}:
            stuck = self._stuck(list(units(self.found, leaf).values()), leaf.size or 0)
            if stuck is not None:
                pin([leaf], f"{stuck} reads what nothing would be left of")

    def _stuck(self, by_unit: list[list[Value]], size: int) -> str | None:
        """Who is in the way. The more reads as zero, the more do read zeros, so that the largest sets tell of all."""
        every = [value for some in by_unit for value in some]
        stuck = self.branches.trace(every).stuck
        if stuck is None or len(by_unit) < size:
            return stuck
        others = ([value for value in every if value not in some] for some in by_unit)
        return next((found for zeros in others if (found := self.branches.trace(zeros).stuck) is not None), None)


def _made(graph: Graph, op: Op) -> list[Value]:
    """The outputs that something reads."""
    return [value for value in op.outputs if value is not None and graph.is_used(value)]


def units(picks: Iterable[Pick], leaf: Dim) -> dict[int, list[Value]]:
    """For each index of a leaf what picks it."""
    found: dict[int, list[Value]] = {}
    for pick in picks:
        if leaf in leaves(pick.layout):
            unit = int(owners(pick.layout, leaf)[pick.index])
            if unit >= 0:
                found.setdefault(unit, []).append(pick.value)
    return found


def cut(
    graph: Graph, known: Known, layouts: dict[Place, Layouts], picks: Iterable[Pick], kept: Mapping[Dim, Indices]
) -> dict[Place, Layouts]:
    """Takes out the branches of indices that go. What has read them reads what is left; their ops and weights go.

    Returns:
        the layouts of the places that are there now.

    Raises:
        RefusedError: something would be left that reads one of them.
    """
    shrunk = [pick for pick in picks if not kept.keys().isdisjoint(leaves(pick.layout))]
    zeros = [pick.value for pick in shrunk if pick.index not in indices(pick.layout, kept)]
    if not zeros:
        return layouts
    branch = Branches(known).branch(zeros)
    found = branch.trace
    if found.stuck is not None:
        raise RefusedError(
            f"{found.stuck} reads what nothing would be left of when these indices go together",
            hint="remove fewer of them at once",
        )
    layouts = dict(layouts)
    for op, some in found.fewer.items():
        graph.set_inputs(op, some)
    for op, same in found.same.items():
        while (maker := graph.producer(same)) in found.same:
            same = found.same[maker]
        _replace(graph, layouts, op, same)
    _sweep(graph, branch.ops)
    for op in {pick.op: None for pick in picks if len(pick.op.outputs) > 1 and pick.op in graph}:
        _split_less(graph, layouts, op, set(zeros))
    return {
        place: found for place, found in layouts.items() if (place.op if isinstance(place, Use) else place) in graph
    }


def _replace(graph: Graph, layouts: dict[Place, Layouts], op: Op, same: Value) -> None:
    """What read an op reads a value; an output of the graph keeps its name, as a copy."""
    made = op.output
    if graph.constant(same) is not None:
        layouts |= {Use(reader, port): layouts[made] for reader, port in graph.uses(made)}
    outputs = graph.outputs
    graph.replace_all_uses(made, same)
    if made in outputs:
        graph.remove(op)
        graph.add_op(Op("Identity", (same,), (made,), name=op.name))
        graph.set_interface(outputs=outputs)


def _split_less(graph: Graph, layouts: dict[Place, Layouts], op: Op, gone: set[Value]) -> None:
    """An op of many outputs without some of them; the others keep their names."""
    kept = [value for value in op.outputs if value is not None and value not in gone]
    if len(kept) == len(op.outputs):
        return
    made = emit(graph, op.op_type, op.inputs, op.attributes, outputs=[value.name for value in kept])
    for old, new in zip(kept, made.outputs, strict=True):
        assert new is not None
        new.type, layouts[new] = old.type, layouts[old]
        graph.replace_all_uses(old, new)
    graph.remove(op)
    for old, new in zip(kept, made.outputs, strict=True):
        assert new is not None
        graph.rename(new, old.name)
    made.name = op.name
    if "num_outputs" in made.attributes:
        graph.set_attribute(made, "num_outputs", len(kept))


def _sweep(graph: Graph, ops: Iterable[Op]) -> None:
    """Removes ops that nothing reads any more, and the constants that only they have read."""
    for op in reversed(list(ops)):
        if op not in graph or any(value is not None and graph.is_used(value) for value in op.outputs):
            continue
        graph.remove(op)
        for value in dict.fromkeys(op.inputs):
            if value is None or value.const is None or value not in graph or value in graph.inputs:
                continue
            if not graph.is_used(value):
                graph.remove(value)
