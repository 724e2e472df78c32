"""Breeding criteria: what is known to be best is found again, and nothing is tried twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.sparse_problems import evidence_of, random_rows, sparse_problem
from hypothesis import given
from hypothesis import strategies as st

from secateur.ir.errors import RefusedError
from secateur.passes.layers.problem import Problem
from secateur.passes.sparsify.criteria import CRITERIA
from secateur.passes.sparsify.criteria.expression import Expression, Node, expression
from secateur.passes.sparsify.patterns import parse_pattern
from secateur.passes.sparsify.search import CriterionSearch, layer_error_of, search
from secateur.passes.sparsify.search_trees import crossed, depth_of, grown, mutated, simplified, size_of, text_of

SYMBOLS = ("W", "X", "H")
Array = np.ndarray[Any, Any]


def _problem(seed: int) -> Problem:
    """Inputs that do not correlate: what a weight costs is its square times the energy of its input."""
    random = np.random.default_rng(seed)
    weight, x = random.normal(size=(12, 16)), np.diag(np.exp(random.normal(size=16)))
    return sparse_problem(weight, evidence=evidence_of(x, x @ weight.T, held_out=False))


def _tree(seed: int, depth: int = 4) -> Node:
    return grown(np.random.default_rng(seed), depth, SYMBOLS)


@given(st.integers(0, 2000), st.integers(1, 5))
def test_trees_are_read_from_what_is_written(seed: int, depth: int) -> None:
    tree = _tree(seed, depth)
    assert depth_of(tree) == depth
    assert expression(text_of(tree)).tree == tree


@given(st.integers(0, 2000))
def test_bred_trees_are_trees(seed: int) -> None:
    random = np.random.default_rng(seed)
    one, other = _tree(seed), _tree(seed + 1)
    for tree in (mutated(one, random, SYMBOLS), crossed(one, other, random)):
        assert expression(text_of(tree)).tree == tree


def _value(tree: Node, symbols: dict[str, Array]) -> Array:
    with np.errstate(all="ignore"):
        return np.broadcast_to(tree.value(symbols), (3, 4))


@given(st.integers(0, 5000))
def test_simpler_trees_say_the_same(seed: int) -> None:
    """Where exp and log occur, up to the 1e-3 that is added, which is not looked at here."""
    tree = _tree(seed, 5)
    simple = simplified(tree)
    assert size_of(simple) <= size_of(tree)
    assert simplified(simple) == simple
    if {"exp", "log"} & set(text_of(tree).replace("(", " ").replace(",", " ").split()):
        return
    random = np.random.default_rng(seed)
    symbols = {name: random.normal(size=(3, 4)) for name in SYMBOLS}
    wanted, found = _value(tree, symbols), _value(simple, symbols)
    if np.isfinite(wanted).all():
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6 * max(1.0, float(np.abs(wanted).max())))


@pytest.mark.parametrize(
    ("text", "simple"),
    [
        ("exp(log(abs(W)))", "abs(W)"),
        ("sqrt(sqr(W))", "abs(W)"),
        ("neg(neg(W))", "W"),
        ("sub(add(W,X),X)", "W"),
        ("div(mul(X,W),X)", "W"),
        ("mul(X,div(W,X))", "W"),
        ("add(X,neg(W))", "sub(X,W)"),
        ("skp(pow2(W))", "sqr(W)"),
        ("mul(X,W)", "mul(W,X)"),
    ],
)
def test_what_undoes_itself_is_left_out(text: str, simple: str) -> None:
    assert text_of(simplified(expression(text).tree)) == simple


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_best_criterion_is_found_again(seed: int) -> None:
    """Where inputs do not correlate, it is w^2 sum x^2, and no mask costs less than its mask."""
    problems, pattern = [_problem(0), _problem(1)], parse_pattern("50%")
    fitness = layer_error_of(problems, pattern)
    least = fitness(expression("W^2*H"))
    found = search(fitness, CriterionSearch(seed=seed, symbols=SYMBOLS))
    assert found.error <= least * (1 + 1e-12)
    other = _problem(7)  # where it has not been looked at
    np.testing.assert_array_equal(CRITERIA[f"expr:{found.text}"](other, pattern), CRITERIA["wanda"](other, pattern))
    assert found.evaluations <= 300
    assert list(found.history) == sorted(found.history, reverse=True)


def test_the_same_seed_breeds_the_same_tree() -> None:
    fitness = layer_error_of(
        [sparse_problem(np.random.default_rng(0).normal(size=(6, 8)), random_rows(1, 40, 8))], parse_pattern("2:4")
    )
    how = CriterionSearch(evaluations=60, seed=3)
    assert search(fitness, how) == search(fitness, how)


def test_a_search_keeps_its_budget_and_tries_nothing_twice() -> None:
    tried: list[str] = []

    def fitness(criterion: Expression) -> float:
        tried.append(criterion.text)
        return 1.0 + len(criterion.text)

    found = search(fitness, CriterionSearch(population=5, evaluations=40, patience=1000))
    assert len(tried) == len(set(tried)) == found.evaluations == 40
    assert found.error == 1.0 + min(map(len, tried))
    tried.clear()
    # What comes behind the first trees is no better for so long.
    assert (
        search(lambda criterion: fitness(criterion) * 0 + 1, CriterionSearch(population=5, patience=7)).evaluations
        == 12
    )
    assert search(lambda criterion: 0.0).evaluations == 1


def test_formulas_without_numbers_lose() -> None:
    def fitness(criterion: Expression) -> float:
        if "div" in criterion.text:
            raise RefusedError("no number", hint="")
        return 2.0 if "sqr" in criterion.text else float("nan")

    assert "sqr" in search(fitness, CriterionSearch(evaluations=80)).text
    with pytest.raises(RefusedError, match="no formula"):
        search(lambda criterion: float("nan"), CriterionSearch(evaluations=30))


def test_only_layers_with_data_count() -> None:
    with pytest.raises(ValueError, match="no layer"):
        layer_error_of([sparse_problem(np.ones((2, 4)))], parse_pattern("2:4"))
    for nonsense in ({"population": 1}, {"deepest": 1}, {"symbols": ("X",)}, {"crossing": 2.0}):
        with pytest.raises(ValueError, match=r"need|about W"):
            CriterionSearch(**nonsense)  # type: ignore[arg-type]
