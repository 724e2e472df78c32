"""smooth-quant: ranges of data and weights are balanced, and the model computes what it did."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.graphs import Net
from helpers.zoo import random_feeds, zoo

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.batches import Batch
from secateur.calib.sources import open_source
from secateur.ir import Graph
from secateur.ir.errors import RefusedError
from secateur.passes.context import Context
from secateur.passes.manager import Result, run_pipeline
from secateur.passes.pipeline import parse_pipeline
from secateur.passes.registry import find

Array = np.ndarray[Any, Any]


def compress(graph: Graph, text: str, *feeds: dict[str, Array]) -> Result:
    source = open_source([Batch(one) for one in feeds or [random_feeds(graph, seed) for seed in range(3)]])
    return run_pipeline(graph, parse_pipeline(text), Context(runner=OnnxRuntimeRunner, source=source))


def run(graph: Graph, feeds: dict[str, Array], *more: str) -> dict[str, Array]:
    with OnnxRuntimeRunner(graph, outputs=[*(value.name for value in graph.outputs), *more]) as runner:
        return runner.run(feeds)


def array(graph: Graph, name: str) -> Array:
    tensor = graph[name].const
    assert tensor is not None
    return tensor.numpy()


MODELS = ("llama", "llama-dynamic", "llama-opset23", "gpt2", "bert-dynamic", "t5", "swin", "vit")


@pytest.mark.parametrize("insert", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_models_compute_the_same(name: str, insert: bool) -> None:
    graph = zoo("small")[name]()
    entry = (result := compress(graph, f"clean,smooth-quant{{insert={str(insert).lower()}}}")).report.entries[-1]
    assert entry.rewrites == len(entry.rows) > 0
    assert all(row["folded"] for row in entry.rows) or insert
    feeds = random_feeds(graph, 7)
    dense, found = run(graph, feeds), run(result.graph, feeds)
    for key, wanted in dense.items():
        np.testing.assert_allclose(found[key], wanted, atol=1e-5 * np.abs(wanted).max())


def test_minilm_computes_the_same() -> None:
    graph = zoo("real")["minilm"]()
    result = compress(graph, "clean,smooth-quant")
    assert result.report.entries[-1].rewrites >= 6, "values into output projections, at least"
    feeds = random_feeds(graph, 7)
    dense, found = run(graph, feeds), run(result.graph, feeds)
    for key, wanted in dense.items():
        np.testing.assert_allclose(found[key], wanted, atol=1e-5 * np.abs(wanted).max())


def two_readers() -> Graph:
    """A normalisation that two products read."""
    net = Net("two_readers")
    normed = net.op(
        "LayerNormalization", net.input("x", 7, 5), net.scale("gain", 5), net.weight("beta", 5), to="h", axis=-1
    )
    outputs = [net.op("MatMul", normed, net.weight(f"w{at}", 5, 3 + at), to=f"y{at}") for at in range(2)]
    return net.done((outputs[0], (7, 3)), (outputs[1], (7, 4)))


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 1.0])
def test_scales_are_those_of_the_formula(alpha: float) -> None:
    graph = two_readers()
    feeds = {"x": np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32) * [1, 2, 3, 40, 5]}
    feeds["x"] = feeds["x"].astype(np.float32)
    done = compress(graph, f"smooth-quant{{alpha={alpha}}}", feeds).graph
    data = np.abs(run(graph, feeds, "h")["h"]).max(axis=0)
    weights = np.maximum(*(np.abs(array(graph, f"w{at}")).max(axis=1) for at in range(2)))
    scale = data**alpha / weights ** (1 - alpha)
    np.testing.assert_allclose(array(done, "gain"), array(graph, "gain") / scale, rtol=1e-5)
    np.testing.assert_allclose(array(done, "beta"), array(graph, "beta") / scale, rtol=1e-5)
    for at in range(2):
        np.testing.assert_allclose(array(done, f"w{at}"), array(graph, f"w{at}") * scale[:, None], rtol=1e-5)
    after = np.abs(run(done, feeds, "h")["h"]).max(axis=0)
    largest = np.maximum(*(np.abs(array(done, f"w{at}")).max(axis=1) for at in range(2)))
    if alpha == 0.5:
        np.testing.assert_allclose(after, largest, rtol=1e-4)
    if alpha == 1:
        np.testing.assert_allclose(after, 1, rtol=1e-4)
    if alpha == 0:
        np.testing.assert_allclose(largest, 1, rtol=1e-4)


def test_another_reader_holds_the_scale_unless_a_mul_may_come() -> None:
    graph = two_readers()
    net = Net("more", graph=graph)
    other = net.op("Softmax", graph["h"], to="z")
    net.done((graph["y0"], (7, 3)), (graph["y1"], (7, 4)), (other, (7, 5)))
    feeds = {"x": np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)}
    entry = compress(graph, "smooth-quant", feeds).report.entries[-1]
    assert entry.rewrites == 0
    assert "Softmax" in entry.notes[0]
    result = compress(graph, "smooth-quant{insert=true}", feeds)
    assert [op.op_type for op in result.graph.ops()].count("Mul") == 1, "one for both readers"
    dense, found = run(graph, feeds), run(result.graph, feeds)
    for key, wanted in dense.items():
        np.testing.assert_allclose(found[key], wanted, atol=1e-6)


def test_dead_channels_keep_their_scale() -> None:
    graph = two_readers()
    gain, beta = array(graph, "gain").copy(), array(graph, "beta").copy()
    gain[2] = beta[2] = 0
    for name, one in (("gain", gain), ("beta", beta)):
        graph[name].set_const(type(graph[name].const)(one))  # type: ignore[misc, call-arg, arg-type]
    done = compress(graph, "smooth-quant", {"x": np.ones((7, 5), np.float32)}).graph
    np.testing.assert_array_equal(array(done, "w0")[2], array(graph, "w0")[2])
    assert all(np.isfinite(array(done, name)).all() for name in ("gain", "beta", "w0", "w1"))


def with_outliers(graph: Graph, factor: float, every: int = 17) -> Graph:
    """A llama whose normalisations give some channels `factor` times as large, and whose weights make up for it."""
    graph = run_pipeline(graph, parse_pipeline("clean")).graph
    for op in graph.ops():
        gain = graph.constant(op.inputs[0])
        if op.op_type == "Mul" and gain is not None and len(gain.shape) == 1 and gain.size > 1:
            large = np.ones(gain.size, np.float32)
            large[::every] = factor
            assert op.inputs[0] is not None
            op.inputs[0].set_const(type(gain)(gain.numpy() * large))
            for reader in graph.consumers(op.output):
                weight = reader.inputs[1]
                assert weight is not None and weight.const is not None
                weight.set_const(type(gain)(weight.const.numpy() / large[:, None]))
    return graph


def test_outliers_cost_int8_less() -> None:
    graph = with_outliers(zoo("small")["llama"](), 60.0)
    feeds = [random_feeds(graph, seed) for seed in range(4)]
    dense = run(graph, feeds[0])["logits"]
    errors = []
    for text in ("quantize", "smooth-quant,quantize"):
        found = run(compress(graph, text, *feeds).graph, feeds[0])["logits"]
        errors.append(float(np.square(found - dense).mean() / np.square(dense).mean()))
    assert errors[1] < errors[0] / 10, "10 dB, at least"


def test_it_needs_data_and_a_sensible_alpha() -> None:
    with pytest.raises(RefusedError, match="calibration data"):
        run_pipeline(two_readers(), parse_pipeline("smooth-quant"), Context(runner=OnnxRuntimeRunner))
    with pytest.raises(ValueError, match="alpha"):
        find("smooth-quant")(alpha=1.5)  # type: ignore[call-arg]
