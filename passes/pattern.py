"""Patterns: what a rewrite rule looks for. Matched from the last op upwards, port by port.

Wildcards stand for values, so a graph input matches as well as what an op makes. An op inside a match must have no user
outside it, unless the pattern says `shared`. The same name twice stands for the same value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Any, TypeAlias

from secateur.ir import Graph, Op, Tensor, Value

COMMUTATIVE = frozenset(
    {"Add", "Mul", "And", "Or", "Xor", "Equal", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Max", "Min", "Sum", "Mean"}
)


@dataclass(frozen=True)
class AnyValue:
    """Any value, bound to a name."""

    name: str


@dataclass(frozen=True)
class AnyConstant:
    """A constant that nobody can override, and whose tensor satisfies `where`."""

    name: str
    where: Callable[[Tensor], bool] | None = None


@dataclass(frozen=True)
class Maybe:
    """What is inside, or an input left out (its name is then not bound)."""

    inside: AnyValue | AnyConstant


@dataclass(frozen=True)
class OpPattern:
    """An op of one of some types, and what it reads."""

    op_types: tuple[str, ...]
    inputs: tuple[Pattern, ...]
    name: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """Wanted values, or predicates that are given the value (None where the attribute is left out)."""
    output: int = 0
    """Which output the reader reads."""
    shared: bool = False
    """Others may read it too."""
    rest: bool = False
    """There may be more inputs than named."""


Pattern: TypeAlias = AnyValue | AnyConstant | Maybe | OpPattern


def value(name: str) -> AnyValue:
    """Any value."""
    return AnyValue(name)


def constant(name: str, where: Callable[[Tensor], bool] | None = None) -> AnyConstant:
    """A constant."""
    return AnyConstant(name, where)


def maybe(inside: AnyValue | AnyConstant) -> Maybe:
    """An optional input."""
    return Maybe(inside)


def op(op_type: str, *inputs: Pattern, name: str = "", **rest: Any) -> OpPattern:
    """An op: `op("Add", op("MatMul", value("x"), constant("w")), constant("b"))`.

    Args:
        op_type: `Conv`, `domain::Conv`, or several of them: `Conv|ConvTranspose`.
        inputs: one pattern for each port.
        name: what the match calls the op; the op type, in lower case, where it is left out.
        rest: fields of `OpPattern`.
    """
    return OpPattern(tuple(op_type.split("|")), inputs, name or op_type.lower(), **rest)


@dataclass(frozen=True)
class Match:
    """Where a pattern was found, and what its names stand for."""

    graph: Graph
    root: Op
    values: Mapping[str, Value]
    ops: Mapping[str, Op]

    def __getitem__(self, name: str) -> Value:
        """The value bound to a name."""
        return self.values[name]

    def get(self, name: str) -> Value | None:
        """The value bound to a name, None where an optional input was left out."""
        return self.values.get(name)

    def tensor(self, name: str) -> Tensor:
        """The constant bound to a name."""
        found = self.graph.constant(self.values[name])
        assert found is not None, f"{name} is bound to no constant"
        return found


def find_match(pattern: OpPattern, graph: Graph, root: Op) -> Match | None:
    """The first way in which `pattern` matches with `root` as its last op, or None."""
    for match in _op_matches(pattern, root, Match(graph, root, {}, {})):
        if _is_closed(pattern, match):
            return match
    return None


def depth_of(pattern: Pattern) -> int:
    """How many ops lie on the longest way through a pattern."""
    return 1 + max(map(depth_of, pattern.inputs), default=0) if isinstance(pattern, OpPattern) else 0


def _op_matches(pattern: OpPattern, candidate: Op, match: Match) -> Iterator[Match]:
    domain, op_type = candidate.key
    shown = f"{domain}::{op_type}" if domain else op_type
    if shown not in pattern.op_types or not _attributes_fit(pattern, candidate):
        return
    known = match.ops.get(pattern.name)
    if known is not None and known is not candidate:
        return
    given = list(candidate.inputs)
    while given and given[-1] is None:
        given.pop()
    if len(given) > len(pattern.inputs) and not pattern.rest:
        return
    given += [None] * (len(pattern.inputs) - len(given))
    found = replace(match, ops={**match.ops, pattern.name: candidate})
    wanted = pattern.inputs
    orders = permutations(wanted) if not domain and op_type in COMMUTATIVE and len(wanted) == 2 else [wanted]
    for order in orders:
        yield from _port_matches(tuple(order), given, found)


def _port_matches(wanted: tuple[Pattern, ...], given: list[Value | None], match: Match) -> Iterator[Match]:
    if not wanted:
        yield match
        return
    for found in _value_matches(wanted[0], given[0], match):
        yield from _port_matches(wanted[1:], given[1:], found)


def _value_matches(pattern: Pattern, candidate: Value | None, match: Match) -> Iterator[Match]:
    if isinstance(pattern, Maybe):
        if candidate is None:
            yield match
            return
        pattern = pattern.inside
    if candidate is None:
        return
    if isinstance(pattern, OpPattern):
        maker = match.graph.producer(candidate)
        if maker is not None and pattern.output < len(maker.outputs) and maker.outputs[pattern.output] is candidate:
            yield from _op_matches(pattern, maker, match)
        return
    if match.values.get(pattern.name, candidate) is not candidate:
        return
    if isinstance(pattern, AnyConstant):
        tensor = match.graph.constant(candidate)
        if tensor is None or (pattern.where is not None and not pattern.where(tensor)):
            return
    yield replace(match, values={**match.values, pattern.name: candidate})


def _attributes_fit(pattern: OpPattern, candidate: Op) -> bool:
    for name, wanted in pattern.attributes.items():
        found = candidate.attribute(name)
        if not (wanted(found) if callable(wanted) else found == wanted):
            return False
    return True


def _is_closed(pattern: OpPattern, match: Match) -> bool:
    """No value inside the match is read outside, or is an output of the graph."""
    graph, matched = match.graph, set(match.ops.values())
    values = [made for inner in _inner(pattern) for made in match.ops[inner.name].outputs if made is not None]
    return all(made not in graph.outputs and matched.issuperset(graph.consumers(made)) for made in values)


def _inner(pattern: OpPattern) -> Iterator[OpPattern]:
    for part in pattern.inputs:
        if isinstance(part, OpPattern):
            if not part.shared:
                yield part
            yield from _inner(part)
