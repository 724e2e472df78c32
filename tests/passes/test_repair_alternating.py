"""Both layers around the units fitted together, through the pass: what it gains, and where it says that it cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers.convolutional import Net

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.sources import open_source
from secateur.ir import Graph, Value
from secateur.ir.build import add_constant, add_input, emit
from secateur.passes.context import Context
from secateur.passes.manager import Result, run_pipeline
from secateur.passes.pipeline import parse_pipeline

Array = np.ndarray[Any, Any]
Between = Callable[[Graph, Callable[[], Value]], Value]


def compress(graph: Graph, repair: str, feeds: dict[str, Array], more: str = "") -> Result:
    text = f"prune{{ratio=0.5, align=1, criterion=magnitude, repair={repair}{more}}}"
    context = Context(runner=OnnxRuntimeRunner, source=open_source(feeds, batch_size=64))
    return run_pipeline(graph, parse_pipeline(text), context)


def run(graph: Graph, feeds: dict[str, Array]) -> Array:
    with OnnxRuntimeRunner(graph) as runner:
        return next(iter(runner.run(feeds).values()))


def relu(graph: Graph, made: Callable[[], Value]) -> Value:
    return emit(graph, "Relu", [made()]).output


def gelu(graph: Graph, made: Callable[[], Value]) -> Value:
    """As exporters write it."""
    one, half, root = (add_constant(graph, "c", np.float32(number)) for number in (1.0, 0.5, np.sqrt(2)))
    value = made()
    inner = emit(graph, "Erf", [emit(graph, "Div", [value, root]).output]).output
    whole = emit(graph, "Mul", [value, emit(graph, "Add", [inner, one]).output]).output
    return emit(graph, "Mul", [whole, half]).output


def gated(graph: Graph, made: Callable[[], Value]) -> Value:
    value = made()
    silu = emit(graph, "Mul", [value, emit(graph, "Sigmoid", [value]).output]).output
    return emit(graph, "Mul", [silu, made()]).output


def feed_forward(between: Between, *, biased: bool = True) -> Graph:
    """x + FFN(x) of two positions."""
    random, graph = np.random.default_rng(0), Graph("ffn")
    x = add_input(graph, "x", ["n", 2, 8])

    def weight(*shape: int) -> Value:
        return add_constant(graph, "w", (random.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32))

    def layer(value: Value, inputs: int, outputs: int) -> Value:
        made = emit(graph, "MatMul", [value, weight(inputs, outputs)]).output
        return emit(graph, "Add", [made, weight(outputs)]).output if biased else made

    hidden = between(graph, lambda: layer(x, 8, 16))
    graph.set_interface(outputs=[emit(graph, "Add", [x, layer(hidden, 16, 8)]).output])
    graph.verify()
    return graph


def feeds(seed: int, count: int = 500) -> dict[str, Array]:
    return {"x": np.random.default_rng(seed).normal(size=(count, 2, 8)).astype(np.float32)}


@pytest.mark.parametrize("between", [relu, gelu, gated])
@pytest.mark.parametrize("biased", [True, False])
def test_it_does_better_than_the_reader_alone_on_what_it_has_not_seen(between: Between, biased: bool) -> None:
    graph = feed_forward(between, biased=biased)
    dense, errors, rows = run(graph, feeds(2)), [], []
    for repair in ("least-squares", "alternating"):
        result = compress(graph, repair, feeds(1))
        assert not any("alone" in note for note in result.report.entries[0].notes)
        errors.append(float(np.square(run(result.graph, feeds(2)) - dense).sum()))
        rows.append(result.report.entries[0].rows[0])
    assert errors[1] < 0.93 * errors[0]
    assert rows[1]["error"] < 0.93 * rows[0]["error"]
    assert rows[1]["unrepaired"] == rows[0]["unrepaired"]


def test_convolutions_are_followed_where_the_second_reads_each_position_by_itself() -> None:
    def images(seed: int) -> dict[str, Array]:
        return {"x": np.random.default_rng(seed).normal(size=(200, 3, 9, 9)).astype(np.float32)}

    graph = Net().conv(12, pads=[1, 1, 1, 1]).norm().op("Relu").conv(6, 1).done()
    dense, errors = run(graph, images(2)), []
    for repair in ("least-squares", "alternating"):
        result = compress(graph, repair, images(1), more=", positions=16")
        assert not any("alone" in note for note in result.report.entries[0].notes)
        errors.append(float(np.square(run(result.graph, images(2)) - dense).sum()))
    assert errors[1] < 0.98 * errors[0]


def test_where_it_cannot_it_is_least_squares_and_says_why() -> None:
    images = {"x": np.random.default_rng(1).normal(size=(60, 3, 9, 9)).astype(np.float32)}
    graph = Net().conv(12, pads=[1, 1, 1, 1]).op("Relu").conv(6, 3).done()
    mended, plain = (compress(graph, repair, images) for repair in ("alternating", "least-squares"))
    assert str(mended.graph) == str(plain.graph)
    assert any("not one plain layer" in note for note in mended.report.entries[0].notes)


def test_too_few_samples_are_not_fitted_to() -> None:
    """Noise to learn by heart: what was held out says no, or nothing was held out."""
    for count in (3, 10):
        graph = feed_forward(relu)
        mended, plain = (compress(graph, repair, feeds(1, count)) for repair in ("alternating", "least-squares"))
        left = [float(np.square(run(one.graph, feeds(2)) - run(graph, feeds(2))).sum()) for one in (mended, plain)]
        assert left[0] < 1.05 * left[1]
