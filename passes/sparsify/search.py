"""Breeding a criterion: of formulas about weights, inputs and gradients, the one whose masks cost least.

Dong et al. 2024, "Pruner-Zero: Evolving Symbolic Pruning Metric from Scratch for Large Language Models", ICML, section
3: trees of operators, of which the better ones are crossed and mutated. They judge a tree by the perplexity of a pruned
model; here by any number, such as what layers err behind the mask.

    found = search(layer_error_of(problems, parse_pattern("50%")), CriterionSearch(evaluations=200))
    run_pipeline(graph, parse_pipeline(f'sparsify{{criterion="expr:{found.text}",repair=none}}'), context)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TypeAlias

import numpy as np

from secateur.ir.errors import RefusedError
from secateur.passes.layers.problem import Problem
from secateur.passes.sparsify.allocation.closed_form import layer_error
from secateur.passes.sparsify.criteria.expression import Expression, Node
from secateur.passes.sparsify.patterns import Pattern
from secateur.passes.sparsify.search_trees import crossed, depth_of, grown, mutated, simplified, size_of, text_of

Fitness: TypeAlias = Callable[[Expression], float]
"""What the masks of a criterion cost; a RefusedError where it is not a number for some weight."""

_PATIENT = 50
"""So often a tree that was tried already, or is too deep, is thrown away in a row before the search gives up."""


@dataclass(frozen=True)
class CriterionSearch:
    """How much is tried.

    Attributes:
        population: trees that are kept.
        evaluations: how many trees are judged at the most.
        patience: ends after so many in a row of which none was better than the best.
        shallowest: levels of the first trees, at least.
        deepest: levels of the first trees, at most; bred ones may have one more.
        symbols: what trees are about, as `secateur.passes.sparsify.criteria.expression` names it.
        rivals: of so many trees drawn at random the best is a parent.
        crossing: how often two parents are crossed; else one is mutated.
        fresh: how often a tree has no parents.
        seed: the same seed gives the same tree.
    """

    population: int = 24
    evaluations: int = 300
    patience: int = 150
    shallowest: int = 2
    deepest: int = 4
    symbols: tuple[str, ...] = ("W", "X")
    rivals: int = 4
    crossing: float = 0.4
    fresh: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.population <= self.evaluations or min(self.patience, self.rivals) < 1:
            raise ValueError("need 2 <= population <= evaluations, and patience and rivals of at least 1")
        if not 1 <= self.shallowest <= self.deepest or not (0 <= self.crossing <= 1 and 0 <= self.fresh <= 1):
            raise ValueError("need 1 <= shallowest <= deepest, and crossing and fresh 0 to 1")
        if "W" not in self.symbols:
            raise ValueError(f"formulas are about W at least, not only {', '.join(self.symbols)}")


@dataclass(frozen=True)
class FoundCriterion:
    """The best tree.

    Attributes:
        text: what `criterion=expr:` takes.
        error: what it costs.
        evaluations: how many trees were judged.
        history: the cost of the best after each.
    """

    text: str
    error: float
    evaluations: int
    history: tuple[float, ...]


@dataclass(frozen=True)
class _Tried:
    error: float
    size: int
    text: str
    tree: Node

    @property
    def key(self) -> tuple[float, int, str]:
        """Of equals the smaller tree is better."""
        return self.error, self.size, self.text


def search(fitness: Fitness, how: CriterionSearch | None = None) -> FoundCriterion:
    """Breeds trees until the budget is spent, nothing better comes for a while, or nothing is left to lose.

    Args:
        fitness: judges a criterion.
        how: budget and seed.

    Raises:
        RefusedError: not one tree could be judged.
    """
    breeding = _Breeding(fitness, how or CriterionSearch())
    breeding.run()
    best = breeding.pool[0] if breeding.pool else None
    if best is None or not np.isfinite(best.error):
        raise RefusedError("no formula gives numbers for all weights", hint="search for longer, or about other symbols")
    return FoundCriterion(best.text, best.error, len(breeding.history), tuple(breeding.history))


class _Breeding:
    def __init__(self, fitness: Fitness, how: CriterionSearch) -> None:
        self._fitness, self._how = fitness, how
        self._random = np.random.default_rng(how.seed)
        self._known: set[str] = set()
        self.pool: list[_Tried] = []
        """The best first."""
        self.history: list[float] = []

    def run(self) -> None:
        """Tries trees one after the other."""
        since = 0
        while len(self.history) < self._how.evaluations and since < self._how.patience:
            tree = self._new()
            if tree is None:
                return
            before = self.pool[0].error if self.pool else np.inf
            self._try(tree)
            best = self.pool[0].error
            self.history.append(best)
            since = 0 if best < before or len(self.history) <= self._how.population else since + 1
            if best <= 0:
                return

    def _try(self, tree: Node) -> None:
        text = text_of(tree)
        try:
            error = float(self._fitness(Expression(text, tree)))
        except RefusedError:
            error = np.inf
        found = _Tried(error if np.isfinite(error) else np.inf, size_of(tree), text, tree)
        # Trees that cost exactly the same have the same masks: the smallest stands for all, so that others have room.
        twin = next((one for one in self.pool if one.error == found.error), None)
        if twin is not None:
            self.pool.remove(twin)
            found = min(found, twin, key=lambda one: one.key)
        self.pool = sorted([*self.pool, found], key=lambda one: one.key)[: self._how.population]

    def _new(self) -> Node | None:
        """A tree that has not been tried; None where none turns up."""
        how = self._how
        for turn in count():
            if turn == _PATIENT:
                return None
            if len(self.history) < how.population or self._random.random() < how.fresh:
                depth = int(self._random.integers(how.shallowest, how.deepest + 1))
                tree = grown(self._random, depth, how.symbols)
            elif self._random.random() < how.crossing:
                tree = crossed(self._parent(), self._parent(), self._random)
            else:
                tree = mutated(self._parent(), self._random, how.symbols)
            tree = simplified(tree)
            text = text_of(tree)
            if text not in self._known and depth_of(tree) <= how.deepest + 1 and "W" in tree.symbols():
                self._known.add(text)
                return tree
        return None

    def _parent(self) -> Node:
        drawn = self._random.integers(len(self.pool), size=self._how.rivals)
        return self.pool[int(drawn.min())].tree


def layer_error_of(problems: Sequence[Problem], pattern: Pattern) -> Fitness:
    """What layers err behind the masks of a criterion, unrepaired, each relative to what it gives; the mean of all.

    Args:
        problems: layers with data; those that the data shows nothing of, or whose channels do not fit, do not count.
        pattern: of the masks.
    """
    seen = [one for one in problems if one.evidence is not None and one.energies.any()]
    seen = [one for one in seen if pattern.misfit(one.channels) is None]
    if not seen:
        raise ValueError("there is no layer with data that the pattern fits")

    def fitness(criterion: Expression) -> float:
        return float(np.mean([layer_error(one.weight, criterion(one, pattern), one.gram) for one in seen]))

    return fitness
