"""awq: weights that large inputs meet round better, none worse, and the model computes what it did."""

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
    return tensor.numpy().astype(np.float64)


@pytest.mark.parametrize("name", ["llama", "llama-opset23", "gpt2", "t5", "vit"])
def test_models_compute_the_same_and_no_product_errs_more(name: str) -> None:
    graph = zoo("small")[name]()
    result = compress(graph, "clean,awq{block=16}")
    entry = result.report.entries[-1]
    assert entry.rewrites > 0
    assert all(row["error_after"] <= row["error_before"] for row in entry.rows)
    assert any(row["error_after"] < 0.95 * row["error_before"] for row in entry.rows)
    feeds = random_feeds(graph, 7)
    dense, found = run(graph, feeds), run(result.graph, feeds)
    for key, wanted in dense.items():
        np.testing.assert_allclose(found[key], wanted, atol=1e-5 * np.abs(wanted).max())


def gated() -> Graph:
    """A normalisation, two products that read it, and one that reads the product of both."""
    net = Net("gated")
    normed = net.op("LayerNormalization", net.input("x", 40, 12), net.scale("gain", 12), to="h", axis=-1)
    gate = net.op("Relu", net.op("MatMul", normed, net.weight("gate", 12, 10)))
    up = net.op("MatMul", normed, net.weight("up", 12, 10))
    return net.done((net.op("MatMul", net.op("Mul", gate, up, to="m"), net.weight("down", 10, 12), to="y"), (40, 12)))


def rounded(weight: Array, block: int) -> Array:
    """Rows of [r, c] to INT4 codes times a scale for each block, by loops."""
    found = np.zeros_like(weight)
    for row in range(len(weight)):
        for start in range(0, weight.shape[1], block):
            part = weight[row, start : start + block]
            scale = np.float32(np.abs(part).max() / 7)
            found[row, start : start + block] = np.clip(np.round(part / scale), -8, 7) * scale
    return found


def test_the_search_is_that_of_the_paper() -> None:
    """Against outputs of the products themselves, for all 20 exponents."""
    graph, random = gated(), np.random.default_rng(3)
    feeds = {"x": (random.normal(size=(40, 12)) * np.exp(random.normal(size=12))).astype(np.float32)}
    result = compress(graph, "awq{block=4}", feeds)
    data = run(graph, feeds, "h")["h"].astype(np.float64)
    size, errors = np.abs(data).mean(axis=0), {}
    weights = [array(graph, name).T for name in ("gate", "up")]
    for step in range(20):
        scale = size ** (step / 20)
        scale /= np.sqrt(scale.max() * scale.min())
        parts = [rounded(weight * scale, 4) / scale - weight for weight in weights]
        errors[step / 20] = sum(float(np.square(data @ part.T).sum()) for part in parts)
    best = min(errors, key=errors.__getitem__)
    row = result.report.entries[-1].rows[0]
    assert row["power"] == pytest.approx(best)
    energy = sum(float(np.square(data @ weight.T).sum()) for weight in weights)
    assert row["error_before"] == pytest.approx(errors[0] / energy, rel=1e-3)
    assert row["error_after"] == pytest.approx(errors[best] / energy, rel=1e-3)
    scale = size**best
    scale /= np.sqrt(scale.max() * scale.min())
    # Rows of the gate have taken up the scales of what `down` reads, too.
    np.testing.assert_allclose(array(result.graph, "up"), array(graph, "up") * scale[:, None], rtol=1e-5)
    np.testing.assert_allclose(array(result.graph, "gain"), array(graph, "gain") / scale, rtol=1e-5)


def test_of_two_factors_the_one_that_may_takes_the_scale() -> None:
    """The gate goes through a Relu, up does not: both could; with a Sigmoid only up can."""
    graph = gated()
    relu = next(op for op in graph.ops() if op.op_type == "Relu")
    relu.op_type = "Sigmoid"
    feeds = {"x": np.random.default_rng(0).normal(size=(40, 12)).astype(np.float32)}
    result = compress(graph, "smooth-quant", feeds)
    assert result.report.entries[-1].rewrites == 2
    dense, found = run(graph, feeds), run(result.graph, feeds)
    np.testing.assert_allclose(found["y"], dense["y"], atol=1e-5 * np.abs(dense["y"]).max())


def test_what_needs_no_protection_stays() -> None:
    """On a grid that holds the weights exactly nothing is won by a scale."""
    graph = gated()
    for name in ("gate", "up", "down"):
        tensor = graph[name].const
        assert tensor is not None
        codes = np.random.default_rng(0).integers(-7, 8, tensor.shape).astype(np.float32)
        codes[0], codes[-1] = 7, -7
        graph[name].set_const(type(tensor)(codes))
    feeds = {"x": np.random.default_rng(0).normal(size=(40, 12)).astype(np.float32)}
    result = compress(graph, "awq{block=128}", feeds)
    assert result.report.entries[-1].rewrites == 0
    assert str(result.graph) == str(graph)


@pytest.mark.parametrize("form", ["int8", "fp8", "int8-block", "nvfp4", "mxfp8"])
def test_formats_are_those_of_quantize(form: str) -> None:
    """The error without scales is that of the weights as `quantize` rounds them."""
    net, random = Net("wide"), np.random.default_rng(5)
    normed = net.op("LayerNormalization", net.input("x", 40, 64), net.scale("gain", 64), to="h", axis=-1)
    graph = net.done((net.op("MatMul", normed, net.weight("w", 64, 24), to="y"), (40, 24)))
    feeds = {"x": (random.normal(size=(40, 64)) * np.exp(random.normal(size=64))).astype(np.float32)}
    row = compress(graph, f"awq{{format={form}, block=32}}", feeds).report.entries[-1].rows[0]
    text = f"quantize{{format={form}, block=32, clip=max, rounding=nearest}},dequantize"
    made = compress(graph, text, feeds).graph
    weight = next(made.constant(op.input(1)) for op in made.ops() if op.op_type == "MatMul")
    assert weight is not None
    data, dense = run(graph, feeds, "h")["h"].astype(np.float64), array(graph, "w")
    error = np.square(data @ (weight.numpy() - dense)).sum() / np.square(data @ dense).sum()
    assert row["error_before"] == pytest.approx(error, rel=1e-2)
    assert row["error_after"] <= row["error_before"]


def test_unknown_formats_are_refused() -> None:
    with pytest.raises(ValueError, match="there is no number format 'fp4'"):
        find("awq")(format="fp4")  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="one that rounds"):
        find("awq")(format="float")  # type: ignore[call-arg]


def test_it_needs_data_and_a_sensible_block() -> None:
    with pytest.raises(RefusedError, match="calibration data"):
        run_pipeline(gated(), parse_pipeline("awq"), Context(runner=OnnxRuntimeRunner))
    with pytest.raises(ValueError, match="block"):
        find("awq")(block=-1)  # type: ignore[call-arg]
