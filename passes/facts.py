"""Facts: what can be computed of a graph. Functions, cached by the asker, dropped when what they read has changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from secateur.ir import Graph
from secateur.ir.errors import PassError
from secateur.passes.facets import Facet

T = TypeVar("T")


@dataclass(frozen=True)
class Fact(Generic[T]):
    """A function from a graph to something immutable, and the facets of the graph that it looks at."""

    compute: Callable[[Graph, Facts], T]
    reads: Facet

    @property
    def name(self) -> str:
        """The name of the function."""
        return self.compute.__name__

    def __call__(self, graph: Graph) -> T:
        """Computes the fact once, outside any pass."""
        return Facts(graph).get(self)


def fact(reads: Facet) -> Callable[[Callable[[Graph, Facts], T]], Fact[T]]:
    """Makes a fact of a function `(graph, facts) -> T`.

    The function asks for other facts with `facts.get`, and then also reads what they read. It returns something that
    nobody changes afterwards.
    """
    return lambda compute: Fact(compute, reads)


class Facts:
    """The facts of one graph, each computed when it is first asked for."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._known: dict[Fact[Any], Any] = {}
        self._reads: dict[Fact[Any], Facet] = {}
        self._running: list[Fact[Any]] = []

    def get(self, wanted: Fact[T]) -> T:
        """The value of a fact, computed now or remembered.

        Raises:
            PassError: the fact asks, in the end, for itself.
        """
        if wanted not in self._known:
            if wanted in self._running:
                chain = " -> ".join(one.name for one in [*self._running, wanted])
                raise PassError(f"a fact needs itself: {chain}")
            self._running.append(wanted)
            self._reads[wanted] = wanted.reads
            try:
                self._known[wanted] = wanted.compute(self.graph, self)
            finally:
                self._running.pop()
        if self._running:
            self._reads[self._running[-1]] |= self._reads[wanted]
        value: T = self._known[wanted]
        return value

    def drop(self, changed: Facet) -> None:
        """Forgets what read any of these facets. A pass that asks for facts after its own changes calls this itself."""
        for known in [known for known in self._known if self._reads[known] & changed]:
            del self._known[known]

    @property
    def known(self) -> dict[str, Facet]:
        """The facts that are remembered now, by name, with all that they read."""
        return {known.name: self._reads[known] for known in self._known}

    def stale(self) -> list[str]:
        """The remembered facts that would come out differently now: those whose `reads`, or a pass's `changes`, lie."""
        fresh = Facts(self.graph)
        return [known.name for known, value in self._known.items() if not _same(fresh.get(known), value)]


def _same(one: object, other: object) -> bool:
    try:
        return bool(one == other)
    except ValueError:  # arrays inside have no single truth value; such facts cannot be compared so
        return True
