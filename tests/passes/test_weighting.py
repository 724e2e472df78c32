"""Errors that count by what they do to the model's answers: losses in nats, comparable between layers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.sources import open_source
from secateur.ir import Graph, Tensor
from secateur.ir.build import add_constant, add_input, emit
from secateur.ir.dims.groups import groups
from secateur.ir.errors import BackendError, RefusedError
from secateur.passes.context import Context
from secateur.passes.layers.evidence import Streams, gather
from secateur.passes.manager import run_pipeline
from secateur.passes.pipeline import parse_pipeline
from secateur.passes.prune.criteria import CRITERIA
from secateur.passes.prune.facts import dims
from secateur.passes.prune.problem import problem_of
from secateur.passes.prune.units import Units, units_of
from secateur.passes.prune.weighting import measure, weighted

pytest.importorskip("torch")
import itertools

from secateur.backends.torch.scores import TorchDifferentiator

WIDTHS = (6, 12, 10, 8, 5)


def _classifier() -> Graph:
    """A small multilayer perceptron, whose deeper layers matter differently."""
    random, graph = np.random.default_rng(0), Graph("classifier")
    value = add_input(graph, "x", ("n", WIDTHS[0]))
    for index, (inputs, outputs) in enumerate(itertools.pairwise(WIDTHS)):
        weight = random.normal(size=(inputs, outputs)) * (1.6, 0.5, 1.2, 0.8)[index] / np.sqrt(inputs)
        bias = add_constant(graph, f"b{index}", 0.1 * random.normal(size=outputs).astype(np.float32))
        made = add_constant(graph, f"w{index}", weight.astype(np.float32))
        value = emit(graph, "Gemm", [value, made, bias]).output
        if index < len(WIDTHS) - 2:
            value = emit(graph, "Relu", [value]).output
    graph.set_interface(outputs=[value])
    return graph


def _data() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).normal(size=(600, WIDTHS[0])).astype(np.float32)}


def _context(graph: Graph) -> Context:
    source = open_source(_data(), batch_size=100)
    return Context(runner=OnnxRuntimeRunner, differentiator=TorchDifferentiator, source=source)


def _beliefs(graph: Graph) -> np.ndarray:
    with OnnxRuntimeRunner(graph) as runner:
        (logits,) = runner.run(_data()).values()
    exponents = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def _measured(units: Units) -> list[float]:
    """The divergence, in nats a sample, that taking out each unit alone causes, its mean left in."""
    before, found = _beliefs(_classifier()), []
    reader = units.readers[0].use
    hidden = _hidden(reader.data.name)
    for unit in range(units.group.size):
        graph = _classifier()
        weight, bias = graph[reader.weight.name], graph[reader.weight.name.replace("w", "b")]
        assert weight.const is not None and bias.const is not None
        rows = weight.const.numpy().copy()
        bias.set_const(Tensor(bias.const.numpy() + hidden[:, unit].mean() * rows[unit]))
        rows[unit] = 0
        weight.set_const(Tensor(rows))
        after = _beliefs(graph)
        found.append(float(np.sum(before * np.log(before / after)) / len(before)))
    return found


def _hidden(name: str) -> np.ndarray:
    with OnnxRuntimeRunner(_classifier(), outputs=[name]) as runner:
        return runner.run(_data())[name]


def test_losses_are_divergences_in_one_unit_for_all_layers() -> None:
    graph = _classifier()
    context, found = _context(graph), dims(graph)
    wanted = [units_of(found, group) for group in groups(found) if group.pin is None]
    assert len(wanted) == 3
    sensitivity = measure(found, wanted, context)
    predicted, true = [], []
    for units in wanted:
        streams = Streams.whole(graph, graph, context.needed_source("the test"))
        evidence = gather(streams, [reader.use for reader in units.readers], context, 0)
        problem = problem_of(found.known, units, evidence, context.random(), 0.01)
        ranking = CRITERIA["second-moment"](weighted(problem, units, sensitivity), 1)
        losses = np.empty(units.group.size)
        losses[ranking.order] = ranking.loss
        predicted.extend(losses)
        true.extend(_measured(units))
    assert spearmanr(predicted, true).statistic > 0.8
    ratio = np.log(np.array(predicted) / np.array(true))
    assert abs(np.median(ratio)) < np.log(2)


def test_it_can_be_asked_for_with_any_criterion_and_allocation() -> None:
    graph = _classifier()
    plain = run_pipeline(graph, parse_pipeline("prune{ratio=0.4, align=1}"), _context(graph))
    text = "prune{ratio=0.4, align=1, allocation=global, weighting=fisher}"
    weighed, again = (run_pipeline(graph, parse_pipeline(text), _context(graph)) for _ in range(2))
    sizes = [[row["kept"] for row in result.report.entries[0].rows] for result in (plain, weighed, again)]
    assert sizes[1] == sizes[2] != sizes[0]


def test_without_data_or_gradients_it_is_refused() -> None:
    graph = _classifier()
    with pytest.raises(RefusedError, match="needs calibration data"):
        run_pipeline(graph, parse_pipeline("prune{weighting=fisher}"), Context(runner=OnnxRuntimeRunner))
    context = Context(runner=OnnxRuntimeRunner, source=open_source(_data(), batch_size=100))
    with pytest.raises(BackendError, match="needs gradients"):
        run_pipeline(graph, parse_pipeline("prune{weighting=fisher}"), context)
