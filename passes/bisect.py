"""Which rewrite broke a model: binary search over the passes of a pipeline, then over the rewrites of one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from secateur.ir import Graph, Op
from secateur.ir.errors import DataError
from secateur.passes.base import Pass
from secateur.passes.context import Context
from secateur.passes.manager import Manager
from secateur.passes.settings import Check, Settings

_QUIET = Settings(check=Check.VERIFY)


class Rewrite(NamedTuple):
    """One question that a pass asked before it went on."""

    rule: str
    op: str


@dataclass(frozen=True)
class Culprit:
    """The first thing that makes the model bad."""

    index: int
    """Of the pass in the pipeline, from 0."""
    running: Pass
    rewrite: Rewrite | None
    """None where the pass as a whole is to blame: it does something without asking."""
    number: int = 0
    """Of the rewrite in the pass, from 1."""
    of: int = 0
    """How many rewrites the pass would do."""

    def __str__(self) -> str:
        if self.rewrite is None:
            return f"pass {self.index + 1}, {self.running}, as a whole"
        where = f"pass {self.index + 1}, {self.running}, rewrite {self.number} of {self.of}"
        return f"{where}: {self.rewrite.rule} at {self.rewrite.op}"


class Limited:
    """Fuel for a number of rewrites. Keeps account of those that it allowed."""

    def __init__(self, limit: int | None = None) -> None:
        """`limit` None allows all."""
        self.limit = limit
        self.allowed: list[Rewrite] = []

    def __call__(self, rule: str, op: Op) -> bool:
        """Whether this rewrite may happen."""
        if self.limit is not None and len(self.allowed) >= self.limit:
            return False
        self.allowed.append(Rewrite(rule, op.title))
        return True


def bisect(
    graph: Graph, passes: Sequence[Pass], is_good: Callable[[Graph], bool], context: Context | None = None
) -> Culprit | None:
    """Finds the first rewrite after which `is_good` says no; None where the whole pipeline leaves the model good.

    Runs each pass once, and the guilty one about log2(rewrites) times. If good and bad alternate, the result is one of
    the places where good turns into bad.

    Raises:
        DataError: the model is bad before any pass.
        SecateurError, PassError: from the passes.
    """
    manager = Manager(graph, context, settings=_QUIET)
    states = [_state(manager)]
    for one in passes:
        manager.apply(one)
        states.append(_state(manager))
    if not is_good(states[0].graph):
        raise DataError(
            "the model is bad before any pass has run", hint="look for the defect in the model, or in the check"
        )
    if is_good(states[-1].graph):
        return None
    index = _first_bad(len(passes), lambda count: is_good(states[count].graph)) - 1
    return _search(index, passes[index], states[index], is_good)


class _State(NamedTuple):
    graph: Graph
    context: Context


def _state(manager: Manager) -> _State:
    context = replace(manager.context, manifest=manager.context.manifest.copy())
    return _State(manager.graph.clone(), context)


def _search(index: int, one: Pass, start: _State, is_good: Callable[[Graph], bool]) -> Culprit:
    def run(limit: int | None) -> tuple[Graph, Limited]:
        fuel = Limited(limit)
        manager = Manager(start.graph, replace(start.context, fuel=fuel), settings=_QUIET)
        manager.apply(one)
        return manager.graph, fuel

    total = len(run(None)[1].allowed)
    if total == 0 or not is_good(run(0)[0]):
        return Culprit(index, one, None)
    number = _first_bad(total, lambda count: is_good(run(count)[0]))
    return Culprit(index, one, run(number)[1].allowed[-1], number, total)


def _first_bad(total: int, good: Callable[[int], bool]) -> int:
    """A count from 1 to `total` that is bad while the one before it is good, given that 0 is good and `total` bad."""
    low, high = 0, total
    while high - low > 1:
        middle = (low + high) // 2
        if good(middle):
            low = middle
        else:
            high = middle
    return high
