"""What every pass owes: each registered pass on each tiny graph, whatever it does."""

from __future__ import annotations

import ast
import inspect
import pickle
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
from helpers.graphs import random_feeds, tiny_graphs

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.batches import Batch
from secateur.calib.sources import open_source
from secateur.ir import Graph
from secateur.ir.errors import RefusedError
from secateur.passes import Context, Effect, Facet, Pass, Result, make_pass, parse_pipeline, run_pipeline
from secateur.passes.effects import differences
from secateur.passes.registry import PASSES, find
from secateur.passes.settings import Check, Settings

_RUNNER = partial(OnnxRuntimeRunner, optimize=False, threads=1)
_GRAPHS = tiny_graphs()
_CLEAN_UPS = {name for name, target in PASSES.items() if ".cleanup." in target}
_EVERY_PASS = pytest.mark.parametrize("name", sorted(PASSES))
_EVERY_CASE = pytest.mark.parametrize(
    ("name", "graph_name"), [(name, graph) for name in sorted(PASSES) for graph in _GRAPHS]
)


def _context(graph: Graph, *, data: bool) -> Context:
    source = open_source([Batch(random_feeds(graph, seed)) for seed in range(2)]) if data else None
    return Context(runner=_RUNNER, source=source, seed=3)


def _apply(name: str, graph: Graph) -> Result | None:
    """The pass with all checks on; None where it refuses."""
    one = make_pass(name)
    context = _context(graph, data=one.effect is Effect.LOSSY)
    try:
        return run_pipeline(graph, [one], context, settings=Settings(check=Check.FULL))
    except RefusedError as error:
        assert error.hint, "a refusal says what to do instead"
        return None


@cache
def _once(name: str, graph_name: str) -> Result | None:
    return _apply(name, _GRAPHS[graph_name]())


def _outputs(graph: Graph, feeds: Mapping[str, Any]) -> dict[str, Any]:
    with _RUNNER(graph) as runner:
        return runner.run(feeds)


@_EVERY_CASE
def test_valid_and_honest_and_it_does_what_its_effect_allows(name: str, graph_name: str) -> None:
    done = _once(name, graph_name)
    if done is None:
        return
    done.graph.verify()
    dense = _GRAPHS[graph_name]()
    kind = find(name)
    for seed in (10, 11):
        feeds = random_feeds(dense, seed)
        expected, found = _outputs(dense, feeds), _outputs(done.graph, feeds)
        assert list(expected) == list(found)
        assert [(a.shape, a.dtype) for a in expected.values()] == [(a.shape, a.dtype) for a in found.values()]
        if kind.effect is Effect.LOSSY:
            assert all(np.isfinite(array).all() for array in found.values())
        else:
            assert not list(differences(expected, found, kind.tolerance))


@_EVERY_CASE
def test_a_lossy_pass_reports_what_it_touched(name: str, graph_name: str) -> None:
    done = _once(name, graph_name)
    if done is not None and find(name).effect is Effect.LOSSY and done.report.rewrites:
        assert len(done.report.entries[0].rows) >= 1


@_EVERY_CASE
def test_the_interface_stays(name: str, graph_name: str) -> None:
    done, dense = _once(name, graph_name), _GRAPHS[graph_name]()
    if done is not None:
        for before, after in ((dense.inputs, done.graph.inputs), (dense.outputs, done.graph.outputs)):
            assert [(value.name, value.type) for value in before] == [(value.name, value.type) for value in after]


@_EVERY_CASE
def test_two_runs_give_the_same(name: str, graph_name: str) -> None:
    first, second = _once(name, graph_name), _apply(name, _GRAPHS[graph_name]())
    assert (first is None) == (second is None)
    if first is not None and second is not None:
        assert str(first.graph) == str(second.graph)
        assert first.report.to_json(timing=False) == second.report.to_json(timing=False)
        assert first.manifest.to_json() == second.manifest.to_json()


@_EVERY_CASE
def test_the_original_stays_as_it_was(name: str, graph_name: str) -> None:
    graph = _GRAPHS[graph_name]()
    text = str(graph)
    _apply(name, graph)
    assert str(graph) == text
    # In place too, a copy made before shares nothing that changes.
    worked_on = graph.clone()
    one, context = make_pass(name), _context(graph, data=find(name).effect is Effect.LOSSY)
    context.facts.graph = worked_on
    try:
        one.run(worked_on, context)
    except RefusedError:
        return
    assert str(graph) == text


@pytest.mark.parametrize(("name", "graph_name"), [(name, graph) for name in sorted(_CLEAN_UPS) for graph in _GRAPHS])
def test_a_second_clean_up_finds_nothing(name: str, graph_name: str) -> None:
    first = _once(name, graph_name)
    assert first is not None, "clean-ups never refuse"
    again = _apply(name, first.graph)
    assert again is not None and again.report.rewrites == 0
    assert str(again.graph) == str(first.graph)


@_EVERY_PASS
def test_a_pass_is_a_frozen_value(name: str) -> None:
    one = make_pass(name)
    assert is_dataclass(one) and type(one).__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(one)) == one == make_pass(name)
    assert hash(one) == hash(make_pass(name))
    assert one.name == name


@_EVERY_PASS
def test_its_text_gives_it_back(name: str) -> None:
    default = make_pass(name)
    assert str(default) == name
    assert parse_pipeline(name) == (default,)
    for one in _variants(default):
        assert parse_pipeline(str(one)) == (one,)
        assert str(parse_pipeline(str(one))[0]) == str(one) != name


def _variants(default: Pass) -> Iterator[Pass]:
    """The pass with one option changed, for each option of which we can guess another legal value."""
    for field in fields(default):
        value = getattr(default, field.name)
        guess = {bool: lambda v: not v, int: lambda v: v + 1, float: lambda v: v / 2 or 0.25}.get(type(value))
        if guess is None:
            continue
        try:
            yield type(default)(**{field.name: guess(value)})
        except ValueError:
            continue


@_EVERY_PASS
def test_it_says_what_it_does(name: str) -> None:
    kind = find(name)
    assert kind.__doc__ and not kind.__doc__.startswith(f"{kind.__name__}("), "dataclass writes a docstring of its own"
    assert isinstance(kind.changes, Facet) and kind.changes
    assert isinstance(kind.effect, Effect)
    assert kind.run.__doc__ and kind.run is not Pass.run
    undocumented = set(_options_in_source(kind, documented=False))
    assert not undocumented, f"options without a docstring: {undocumented}"


def _options_in_source(kind: type[Pass], *, documented: bool) -> Iterator[str]:
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    options = {field.name for field in fields(kind)}
    for statement, following in zip(definition.body, [*definition.body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            said = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            if statement.target.id in options and said is documented:
                yield statement.target.id


def test_the_suite_is_not_empty() -> None:
    """Every clean-up does something on some graph, and so do the other passes together."""
    for name in sorted(_CLEAN_UPS):
        assert any((done := _once(name, graph)) and done.report.rewrites for graph in _GRAPHS), name
    others = [_once(name, graph) for name in PASSES if name not in _CLEAN_UPS for graph in _GRAPHS]
    assert any(done and done.report.rewrites for done in others)
