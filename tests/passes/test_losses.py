"""Losses that groups can be compared by: of samples that were not fitted on, and in errors of the model's answers."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from helpers.problems import problem
from helpers.problems import seen as evidence_of

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.sources import open_source
from secateur.ir import Graph
from secateur.ir.build import add_constant, add_input, emit
from secateur.ir.dims.groups import groups
from secateur.passes.context import Context
from secateur.passes.layers.evidence import Streams, gather
from secateur.passes.manager import Result, run_pipeline
from secateur.passes.pipeline import parse_pipeline
from secateur.passes.prune.criteria import CRITERIA
from secateur.passes.prune.facts import dims
from secateur.passes.prune.losses import SIZES, STRENGTHS, held_out
from secateur.passes.prune.probe import Probe, in_answers, probe_of
from secateur.passes.prune.problem import Layer, Problem, problem_of
from secateur.passes.prune.ranking import Ranking
from secateur.passes.prune.units import Units, units_of

Array = np.ndarray[Any, Any]


def judged(seed: int, rows: int, unit: list[int], bias: bool) -> tuple[Problem, Array, Array]:
    """One layer whose own output is the target, rows to fit and rows to judge; the rows too."""
    random = np.random.default_rng(seed)
    width = len(unit)
    mix = np.eye(width) + 0.5 * random.normal(size=(width, width))
    x, other = (random.normal(size=(count, width)) @ mix + 1.0 for count in (rows, 40))
    layer = Layer(random.normal(size=(3, width)), np.ones(3) if bias else None, np.array(unit), None)

    def given(data: Array) -> Array:
        return np.asarray(data @ layer.matrix.T + (1.0 if bias else 0.0))

    one, two = evidence_of(layer, x, given(x)), evidence_of(layer, other, given(other))
    joined = replace(one.layer, evidence=replace(one.layer.seen, held_out=two.layer.seen.fit))
    return problem(replace(one, layer=joined), size=max(unit) + 1), x, other


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_sums_are_the_errors_of_refits_on_rows_that_were_not_fitted_on(seed: int, bias: bool) -> None:
    """The twin: ridge regression on the rows themselves, at each size by itself. Two columns belong to no unit."""
    unit = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, -1, 3, -1]
    given, x, other = judged(seed, 60, unit, bias)
    layer = given.layers[0]
    ranking = CRITERIA["obs"](given, 9)
    found = held_out(given, ranking)
    assert found.order.tolist() == ranking.order.tolist() and (found.loss >= 0).all()

    def error(gone: list[int], strength: float) -> float:
        kept = [column for column, owner in enumerate(unit) if owner not in gone]
        center = x.mean(0) if bias else np.zeros(len(unit))
        inputs, target = (x - center)[:, kept], (x - center) @ layer.matrix.T
        ridge = 0.01 * strength * np.mean(np.square(x - center).sum(axis=0))
        start = layer.matrix[:, kept].T
        solved = np.linalg.solve(inputs.T @ inputs + ridge * np.eye(len(kept)), inputs.T @ (target - inputs @ start))
        left = (other - center)[:, kept] @ (start + solved) - (other - center) @ layer.matrix.T
        return float(np.square(left).sum())

    target = x @ layer.matrix.T
    energy = np.square(target - target.mean(0) if bias else target).sum() * len(other) / len(x)
    totals = np.cumsum(found.loss)
    expected = 0.0
    for stop in sorted({round((1 - share) * 10) for share in SIZES} - {0}):
        gone = ranking.order[:stop].tolist()
        expected = max(expected, min(error(gone, strength) for strength in STRENGTHS) / energy)
        assert totals[stop - 1] == pytest.approx(expected, rel=1e-6)


def test_rows_fewer_than_inputs_deceive_nobody() -> None:
    """Of forty inputs that have nothing to do with each other, thirty rows make ten look free."""
    given, _, _ = judged(0, 30, list(range(40)), bias=True)
    given = replace(given, damping=1e-6)
    ranking = CRITERIA["obs"](given, 10)
    assert ranking.loss.sum() < 1e-3
    assert held_out(given, ranking).loss.sum() > 0.02


def test_where_nothing_was_held_out_losses_stay() -> None:
    given, _, _ = judged(0, 60, list(range(6)), bias=True)
    layer = given.layers[0]
    bare = replace(
        given, layers=(replace(layer, evidence=evidence_of(layer, np.ones((3, 6)), np.ones((3, 3))).layer.evidence),)
    )
    ranking = Ranking(np.arange(3), np.ones(3))
    assert held_out(bare, ranking) is ranking


def test_what_nobody_could_try_counts_as_the_others() -> None:
    rankings = [Ranking(np.arange(2), np.array([1.0, 2.0])) for _ in range(4)]
    found = in_answers(zip(rankings, (0.1, None, 0.3, 0.2), strict=True))
    np.testing.assert_allclose([one.loss[1] for one in found], [0.2, 0.4, 0.6, 0.4])
    assert [one.loss[1] for one in in_answers([(rankings[0], None)])] == [2.0]


WIDTHS = (6, 24, 24, 4)


def _network(loud: float) -> Graph:
    """A perceptron; its second layer gives little beside what the first passes on, unless it is loud."""
    random, graph = np.random.default_rng(0), Graph("network")
    value = add_input(graph, "x", ("n", WIDTHS[0]))
    for index, (inputs, outputs) in enumerate(pairwise(WIDTHS)):
        weight = random.normal(size=(inputs, outputs)) / np.sqrt(inputs) * (loud if index == 2 else 1.0)
        made = add_constant(graph, f"w{index}", weight.astype(np.float32))
        value = emit(
            graph, "Gemm", [value, made, add_constant(graph, f"b{index}", np.zeros(outputs, np.float32))]
        ).output
        if index < 2:
            value = emit(graph, "Relu", [value]).output
    graph.set_interface(outputs=[value])
    return graph


def _context() -> Context:
    rows = np.random.default_rng(1).normal(size=(120, WIDTHS[0])).astype(np.float32)
    return Context(runner=OnnxRuntimeRunner, source=open_source({"x": rows}, batch_size=40))


def _tried(graph: Graph) -> list[float]:
    found, context = dims(graph), _context()
    probe = probe_of(found, context)
    assert isinstance(probe, Probe)
    wanted: list[Units] = [units_of(found, group) for group in groups(found) if group.pin is None]
    worths = []
    for units in wanted:
        streams = Streams.whole(graph, graph, context.needed_source("the test"))
        evidence = gather(streams, [reader.use for reader in units.readers], context, 0)
        given = problem_of(found.known, units, evidence, context.random(), 0.01)
        worth = probe.worth(units, given, CRITERIA["obs"](given, units.group.size - 1))
        assert worth is not None
        worths.append(worth)
    return worths


def test_an_error_of_the_last_layer_is_one_of_the_answers() -> None:
    graph = _network(1.0)
    before = {value.name: value.const.numpy().copy() for value in graph.constants() if value.const is not None}
    worths = _tried(graph)
    with OnnxRuntimeRunner(graph) as runner:
        source = _context().needed_source("the test")
        (answers,) = zip(*(runner.run(batch.feeds).values() for batch in source), strict=True)
    rows = np.concatenate(answers).astype(np.float64)
    assert worths[-1] == pytest.approx(np.square(rows - rows.mean(0)).sum() / np.square(rows).sum(), rel=1e-4)
    # Trying leaves the model as it was.
    for name, array in before.items():
        value = graph[name].const
        assert value is not None
        np.testing.assert_array_equal(value.numpy(), array)


def test_the_size_of_answers_is_no_matter() -> None:
    np.testing.assert_allclose(_tried(_network(1.0)), _tried(_network(100.0)), rtol=1e-4)


@pytest.mark.parametrize("allocation", ["global", "threshold"])
def test_allocations_by_loss_ask_for_it(allocation: str) -> None:
    def run(more: str) -> Result:
        text = f"prune{{ratio=0.4, align=1, allocation={allocation}{more}}}"
        return run_pipeline(_network(1.0), parse_pipeline(text), _context())

    one, again, unrepaired = run(""), run(""), run(", repair=none")
    sizes = [[row["kept"] for row in result.report.entries[0].rows] for result in (one, again, unrepaired)]
    assert sizes[0] == sizes[1]
    assert all(0 < int(str(size)) <= 24 for size in sizes[0])
