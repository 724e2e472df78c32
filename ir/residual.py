"""Residual sums: `y = x + f(x)`, found from the graph alone, whatever f is and whatever else it reads."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from secateur.ir.graph import Graph
from secateur.ir.node import Op, Value
from secateur.ir.rules.table import RuleTable


@dataclass(frozen=True)
class Sum:
    """What an op adds up, and where the sum can be read.

    Attributes:
        ports: the inputs that are terms; None for all.
        result: the output that is the sum; None where it is not handed out.
        normalized: the output that is the sum after a norm; None for a plain sum.
        bias: an input that is added too, and belongs to the branch.
    """

    ports: tuple[int, ...] | None
    result: int | None = 0
    normalized: int | None = None
    bias: int | None = None

    def terms(self, op: Op) -> Iterator[tuple[int, Value]]:
        """(port, value) of each term that is there."""
        for port, value in enumerate(op.inputs):
            if value is not None and (self.ports is None or port in self.ports):
                yield port, value


sum_rules: RuleTable[Sum] = RuleTable("which of its inputs does it add up?")
sum_rules.add("Add", Sum((0, 1)))
sum_rules.add("Sum", Sum(None))
sum_rules.add("com.microsoft::SkipLayerNormalization", Sum((0, 1), 3, 0, bias=4))
sum_rules.add("com.microsoft::SkipSimplifiedLayerNormalization", Sum((0, 1), 3, 0, bias=3))

_INDEXED = frozenset({"Gather", "GatherND", "GatherElements", "Compress"})
"""Ops whose first input is data, and the others say where to look."""
_MEASURES = frozenset({"Shape", "Size"})


@dataclass(frozen=True, eq=False)
class Branch:
    """One term of a residual sum, and what computes it from another one, the trunk.

    Attributes:
        total: the op that the sum ends with.
        term: the value that the branch ends with.
        trunk: the other term, which the branch starts from.
        inside: the ops on the paths from the trunk to the term, in the order of the graph.
        data: the trunk and what becomes of its numbers inside (not of its shape, and not what only chooses by them).
        chosen: what is inside, but only says where to look, or comes from looking there: router weights, say.
    """

    total: Op
    term: Value
    trunk: Value
    inside: tuple[Op, ...] = field(repr=False)
    data: frozenset[Value] = field(repr=False)
    chosen: frozenset[Value] = field(repr=False)

    @cached_property
    def ops(self) -> frozenset[Op]:
        """The ops inside."""
        return frozenset(self.inside)


class Sums:
    """The sums of a graph and the branches in them."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.order = {op: index for index, op in enumerate(graph.ops())}
        self.outputs = set(graph.outputs)
        self.dynamic = self._dynamic()

    def branches(self) -> list[Branch]:
        """Every branch, in the order of the sums that they belong to."""
        return [branch for op in self.order for branch in self.of(op)]

    def of(self, op: Op) -> list[Branch]:
        """The branches of the sum that ends with `op`; none where it is part of a longer sum."""
        if sum_rules.get(op) is None or self._goes_on(op):
            return []
        terms = self.terms(op)
        found = []
        for term in terms:
            for other in terms:
                trunk = self.plain(other)
                if other is not term and trunk is not term and (branch := self._branch(op, term, trunk)) is not None:
                    found.append(branch)
                    break
        return found

    def terms(self, op: Op) -> list[Value]:
        """The values that a sum adds up, through Adds whose result goes nowhere else; constants are no terms."""
        rule = sum_rules.get(op)
        assert rule is not None
        found: list[Value] = []
        for _, value in rule.terms(op):
            maker = self.graph.producer(value)
            if value not in self.dynamic:
                continue
            if maker is not None and self._is_plain(maker) and self._goes_on(maker):
                found.extend(self.terms(maker))
            else:
                found.append(value)
        return found

    def is_added(self, branch: Branch) -> bool:
        """True where, inside of the branch, the trunk is added to something that does not come from it."""
        for op in self.graph.consumers(branch.trunk):
            rule = sum_rules.get(op)
            if rule is not None and op in branch.ops:
                terms = [value for _, value in rule.terms(op) if value in self.dynamic]
                if branch.trunk in terms and not branch.data.issuperset(terms):
                    return True
        return False

    def plain(self, value: Value) -> Value:
        """The value that an Identity passes on."""
        while (maker := self.graph.producer(value)) is not None and maker.key == ("", "Identity"):
            value = maker.inputs[0] or value
        return value

    def with_norm(self, value: Value) -> list[Value]:
        """The value, and the norm of it that the same op makes."""
        maker = self.graph.producer(value)
        rule = sum_rules.get(maker) if maker is not None else None
        if maker is None or rule is None or rule.normalized is None or rule.result is None:
            return [value]
        ports = [maker.outputs[port] for port in (rule.result, rule.normalized) if port < len(maker.outputs)]
        return [one for one in ports if one is not None] if value is ports[0] else [value]

    def position(self, value: Value) -> int:
        """Where in the order a value is made; -1 for what is given."""
        maker = self.graph.producer(value)
        return -1 if maker is None else self.order[maker]

    def meeting(self, left: Value, right: Value) -> Value | None:
        """The last value that both are computed from."""
        marks = {left: 1, right: 2}
        waiting = [(-self.position(value), index, value) for index, value in enumerate(marks)]
        heapq.heapify(waiting)
        while waiting:
            _, _, value = heapq.heappop(waiting)
            if marks[value] == 3:
                return value
            maker = self.graph.producer(value)
            for origin in self.graph.nx.pred[maker] if maker is not None else ():
                if isinstance(origin, Value) and origin in self.dynamic:
                    before = marks.get(origin, 0)
                    marks[origin] = before | marks[value]
                    if not before:
                        heapq.heappush(waiting, (-self.position(origin), len(marks), origin))
        return None

    def _dynamic(self) -> set[Value]:
        """What depends on an input without a default."""
        captured = self.graph.captured() if self.graph.is_body else []
        found = {value for value in (*self.graph.inputs, *captured) if value.const is None}
        for op in self.order:
            if not found.isdisjoint(self.graph.nx.pred[op]):
                found.update(value for value in op.outputs if value is not None)
        return found

    def _is_plain(self, op: Op) -> bool:
        """True for an op that does nothing but add two dynamic terms or more."""
        rule = sum_rules.get(op)
        if rule is None or rule.normalized is not None:
            return False
        return sum(value in self.dynamic for _, value in rule.terms(op)) > 1

    def _goes_on(self, op: Op) -> bool:
        """True where the result of a plain sum is read once, by another sum."""
        uses = self.graph.uses(op.output)
        if not self._is_plain(op) or len(uses) != 1 or op.output in self.outputs:
            return False
        reader, port = uses[0]
        rule = sum_rules.get(reader)
        if rule is None or port not in [at for at, _ in rule.terms(reader)]:
            return False
        return rule.normalized is not None or self._is_plain(reader)

    def _branch(self, op: Op, term: Value, trunk: Value) -> Branch | None:
        """The branch from `trunk` to `term`, where something else reads the trunk, too."""
        readers = {reader for value in self.with_norm(trunk) for reader in self.graph.consumers(value)}
        return None if len(readers) < 2 else self.between(op, term, trunk)

    def between(self, op: Op, term: Value, trunk: Value) -> Branch | None:
        """What leads from a value to a term of a sum; None where its numbers do not reach it."""
        start = self.position(trunk)
        if self.position(term) <= start:
            return None
        data, chosen, inside = set(self.with_norm(trunk)), set[Value](), []
        for one in sorted(self._before(term, start), key=self.order.__getitem__):
            read = set(self.graph.nx.pred[one])
            if one.op_type in _MEASURES or (data.isdisjoint(read) and chosen.isdisjoint(read)):
                continue
            by_place = one.op_type in _INDEXED and one.inputs[0] not in data
            into = chosen if data.isdisjoint(read) or by_place else data
            into.update(value for value in one.outputs if value is not None)
            inside.append(one)
        return Branch(op, term, trunk, tuple(inside), frozenset(data), frozenset(chosen)) if term in data else None

    def _before(self, value: Value, start: int) -> set[Op]:
        """The ops that `value` needs, as far back as behind the position `start`."""
        found: set[Op] = set()
        waiting: list[Value] = [value]
        while waiting:
            maker = self.graph.producer(waiting.pop())
            if maker is not None and maker not in found and self.order[maker] > start:
                found.add(maker)
                waiting.extend(self.graph.nx.pred[maker])  # type: ignore[arg-type]  # an op's predecessors are values
        return found
