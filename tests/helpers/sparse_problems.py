"""Decisions of element sparsity made from random arrays, with the rows that their moments are of."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from secateur.calib.gram import Gram
from secateur.passes.layers.evidence import HELD_OUT, Evidence
from secateur.passes.layers.problem import Gradients, Problem
from secateur.passes.sparsify.allocation import Wishes
from secateur.passes.sparsify.methods import Methods
from secateur.passes.sparsify.patterns import Dense, Pattern

Array = np.ndarray[Any, Any]


def evidence_of(x: Array, y: Array, held_out: bool = True) -> Evidence:
    """Every fifth row judges, as `gather` has it."""
    found = Evidence(Gram(x.shape[1], y.shape[1]), Gram(x.shape[1], y.shape[1]))
    held = (np.arange(len(x)) % HELD_OUT == HELD_OUT - 1) & held_out
    found.fit.update(x[~held], y[~held])
    if held.any():
        found.held_out.update(x[held], y[held])
    return found


def sparse_problem(
    weight: Array, x: Array | None = None, y: Array | None = None, *, bias: bool = False, **changes: Any
) -> Problem:
    """The target is what the layer gives, unless y says otherwise."""
    evidence = None
    if x is not None:
        evidence = evidence_of(x, x @ weight.T if y is None else y)
    shift = np.zeros(len(weight)) if bias else None
    order = np.arange(weight.shape[1])
    random = np.random.default_rng(0)
    found = Problem("w", weight.astype(np.float64), shift, order, evidence, weight.shape[1], random, 0.01)
    return replace(found, **changes)


def random_rows(seed: int, count: int, columns: int) -> Array:
    """Correlated, far from zero."""
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(count, columns)) @ (np.eye(columns) + 0.5 * random.normal(size=(columns, columns)))
    return mixed + random.normal(size=columns)


def gradients_of(square: Array, mean: Array | None = None) -> Gradients:
    """Scores of these mean squares, and of mean zero."""
    return Gradients(np.zeros(square.shape) if mean is None else mean, np.sqrt(square), square)


@dataclass
class Halves:
    """An allocation over blocks: every second of the weights that are decided together stays dense."""

    over: Literal["weight", "block", "model"] = "block"
    needs_data: bool = True
    seen: list[list[str]] = field(default_factory=list)

    def check(self, wishes: Wishes) -> None:
        """Everything makes sense."""

    def measure(self, problem: Problem, methods: Methods, wishes: Wishes) -> str:
        """Its name."""
        assert problem.evidence is not None
        return problem.name

    def share(self, measured: list[str], wishes: Wishes) -> list[Pattern]:
        """The pattern for the first, the third, and so on."""
        self.seen.append(measured)
        return [wishes.pattern if index % 2 == 0 else Dense() for index in range(len(measured))]


halves = Halves()


def satisfies(weight: np.ndarray, keep: int, group: int, axis: int) -> bool:
    """True where every `group` neighbours along `axis` have at most `keep` non-zeros; all of the array at once."""
    if weight.shape[axis] % group:
        return False
    last = np.moveaxis(weight, axis, -1)
    return bool((np.count_nonzero(last.reshape(*last.shape[:-1], -1, group), axis=-1) <= keep).all())
