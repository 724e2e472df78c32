"""Rewrite rules and the driver that applies them until none fits any more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from numpy.typing import ArrayLike

from secateur.ir import DataType, Graph, Op, Value
from secateur.ir.build import add_constant, emit
from secateur.ir.errors import PassError
from secateur.passes.context import Context
from secateur.passes.parts import parts
from secateur.passes.pattern import Match, OpPattern, depth_of, find_match

Replacement: TypeAlias = Value | Sequence[Value | None]


def always(match: Match) -> str | None:
    """The check of a rule that needs none."""
    return None


@dataclass(frozen=True)
class Rule:
    """Where `pattern` is found and `check` has no objection, the last op's outputs become what `rewrite` gives."""

    name: str
    pattern: OpPattern
    rewrite: Callable[[Match, Rewriter], Replacement]
    check: Callable[[Match], str | None] = always
    """None, or the reason why this match must be left alone."""


class Rewriter:
    """What a rule builds its replacement with."""

    def __init__(self, graph: Graph, like: Op) -> None:
        """New ops and constants go into `graph`, with names derived from `like`."""
        self.graph = graph
        self.like = like
        self.made: list[Op] = []

    def emit(
        self,
        op_type: str,
        inputs: Sequence[Value | None],
        attributes: Mapping[str, Any] | None = None,
        outputs: Sequence[str | None] = ("",),
    ) -> Op:
        """Adds an op; see `secateur.ir.build.emit`."""
        op = emit(self.graph, op_type, inputs, attributes, outputs=outputs, like=self.like)
        self.made.append(op)
        return op

    def changed(self, op: Op) -> None:
        """Tells that an op was changed in place: it now makes what the match made, and may match again."""
        self.made.append(op)

    def constant(self, name: str, array: ArrayLike, dtype: DataType | None = None) -> Value:
        """Adds a constant under the next free name."""
        return add_constant(self.graph, self.graph.unique_name(name), array, dtype)


@dataclass
class Outcome:
    """What a run of the driver came to."""

    rewrites: int = 0
    applied: Counter[str] = field(default_factory=Counter)
    """Rewrites by rule."""
    refused: dict[tuple[str, str], str] = field(default_factory=dict)
    """(rule, op) to the reason given."""

    def record(self, context: Context) -> None:
        """Enters rewrites and refusals into the report, one row for each rule and reason."""
        for rule, count in sorted(self.applied.items()):
            context.row(rule=rule, rewrites=count)
        reasons: dict[tuple[str, str], list[str]] = {}
        for (rule, op), reason in self.refused.items():
            reasons.setdefault((rule, reason), []).append(op)
        for (rule, reason), ops in reasons.items():
            context.row(rule=rule, refused=len(ops), reason=reason, first=ops[0])


class Worklist:
    """Ops to look at: last in, first out, each at most once."""

    def __init__(self, ops: Iterable[Op] = ()) -> None:
        self._ops: dict[Op, None] = dict.fromkeys(ops)

    def push(self, op: Op) -> None:
        """Puts an op on top, wherever it was before."""
        self._ops.pop(op, None)
        self._ops[op] = None

    def discard(self, op: Op) -> None:
        """Takes an op out, if it is there."""
        self._ops.pop(op, None)

    def __iter__(self) -> Iterator[Op]:
        """Pops until nothing is left; ops may be pushed meanwhile."""
        while self._ops:
            yield self._ops.popitem()[0]


def apply_rules(graph: Graph, rules: Sequence[Rule], context: Context, *, budget: int | None = None) -> Outcome:
    """Applies rules everywhere, bodies and functions included, until none fits.

    Where several rules fit an op, the first one wins. `context.fuel` is asked before each rewrite.

    Args:
        graph: a whole model.
        rules: with names that are unique.
        context: of the pass that runs the rules.
        budget: rewrites in each body; None is a number that only rules that undo each other reach.

    Raises:
        PassError: the budget is spent; names the rules that were applied last.
    """
    outcome = Outcome()
    for part in parts(graph):
        _Driver(part, rules, context, outcome).run(budget)
    return outcome


class _Driver:
    def __init__(self, graph: Graph, rules: Sequence[Rule], context: Context, outcome: Outcome) -> None:
        self.graph, self.context, self.outcome = graph, context, outcome
        self.by_type: dict[str, list[Rule]] = {}
        for rule in rules:
            for op_type in rule.pattern.op_types:
                self.by_type.setdefault(op_type, []).append(rule)
        self.depth = max(depth_of(rule.pattern) for rule in rules)
        self.work = Worklist(reversed(graph.ops()))

    def run(self, budget: int | None) -> None:
        left = 100 + 20 * len(self.graph.ops()) if budget is None else budget
        recent: list[str] = []
        for op in self.work:
            applied = self._visit(op)
            if applied is None:
                continue
            recent = [*recent[-5:], applied]
            left -= 1
            if left < 0:
                raise PassError(f"rules never come to an end in {self.graph.title}: {', '.join(recent)}, ...")

    def _visit(self, op: Op) -> str | None:
        domain, op_type = op.key
        for rule in self.by_type.get(f"{domain}::{op_type}" if domain else op_type, ()):
            match = find_match(rule.pattern, self.graph, op)
            if match is None:
                continue
            reason = rule.check(match)
            if reason is not None:
                self.outcome.refused[(rule.name, op.title)] = reason
            elif self.context.allow(rule.name, op):
                self._apply(rule, match)
                return rule.name
        return None

    def _apply(self, rule: Rule, match: Match) -> None:
        self.outcome.refused.pop((rule.name, match.root.title), None)
        rewriter = Rewriter(self.graph, match.root)
        made = rule.rewrite(match, rewriter)
        news = (made,) if isinstance(made, Value) else tuple(made)
        for old, new in zip(match.root.outputs, news, strict=True):
            if old is not None and new is not None:
                self._push_readers(old, self.depth)
                made_now = self.graph.producer(new) in rewriter.made
                link = replace_value(self.graph, old, new, rename=made_now)
                rewriter.made += [] if link is None else [link]
        removed = sweep(self.graph, match.root)
        for value in match.values.values():
            remove_unread(self.graph, value)
        for op in removed:
            self.work.discard(op)
        # Where a reader went, its neighbours may be the value's only ones now.
        for value in dict.fromkeys(value for op in removed for value in op.inputs if value is not None):
            self._push_readers(value, self.depth)
            maker = self.graph.producer(value)
            if maker is not None:
                self.work.push(maker)
        for op in rewriter.made:
            self.work.push(op)
        self.outcome.rewrites += 1
        self.outcome.applied[rule.name] += 1

    def _push_readers(self, value: Value, levels: int) -> None:
        """Queues every op whose match could reach up to this value."""
        for user in self.graph.consumers(value) if levels else ():
            self.work.push(user)
            for made in user.outputs:
                if made is not None:
                    self._push_readers(made, levels - 1)


def replace_value(graph: Graph, old: Value, new: Value, *, rename: bool = False) -> Op | None:
    """Everything that read `old` reads `new`. An output of the graph keeps its name and type.

    Where an output's name cannot pass to `new` (an input, a constant, another output), an Identity comes between them;
    it is given back. With `rename`, names of values that are no outputs pass on too.
    """
    link = None
    if new.type is None:
        new.type = old.type
    if old in graph.outputs:
        if keeps_name(graph, new) is not None:
            link = emit(graph, "Identity", [new], like=graph.producer(old))
            new = link.output
        rename, new.type = True, old.type
    graph.replace_all_uses(old, new)
    if rename and new in graph:
        name = old.name
        graph.rename(old, graph.unique_name(f"{name}_replaced"))
        graph.rename(new, name)
        new.doc, new.metadata = old.doc, old.metadata
    return link


def keeps_name(graph: Graph, value: Value) -> str | None:
    """Why a value cannot take over the name of an output; None where it can."""
    if value not in graph:
        return "the value comes from the graph around"
    if graph.producer(value) is None:
        return "the value is an input or a constant, and the output needs a name of its own"
    return "the value is an output already" if value in graph.outputs else None


def sweep(graph: Graph, *starts: Op) -> list[Op]:
    """Removes ops that nobody needs, then what only they needed; returns the ops that went.

    Constants go too, those that a body read in the graphs around it as well.
    """
    removed: list[Op] = []
    waiting = list(starts)
    while waiting:
        op = waiting.pop()
        if op not in graph or any(value is not None and graph.is_used(value) for value in op.outputs):
            continue
        needed = [value for value in dict.fromkeys((*op.inputs, *graph.captures(op))) if value is not None]
        graph.remove(op)
        removed.append(op)
        for value in needed:
            maker = graph.producer(value)
            if maker is not None:
                waiting.append(maker)
            else:
                remove_unread(graph, value)
    return removed


def remove_unread(graph: Graph, value: Value) -> None:
    """Removes a constant that nobody reads from the graph that it belongs to: this one or one around it."""
    owner = graph.owner(value)
    if owner is not None and owner.is_constant(value) and not owner.is_used(value):
        owner.remove(value)
