"""correct-bias: what rounding shifts on average, biases take back."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from helpers.graphs import Net
from helpers.zoo import random_feeds, zoo
from scipy.stats import norm

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.batches import Batch
from secateur.calib.sources import open_source
from secateur.ir import Graph, Tensor, Value
from secateur.passes.context import Context
from secateur.passes.facts import Facts
from secateur.passes.manager import Result, run_pipeline
from secateur.passes.pipeline import parse_pipeline
from secateur.passes.report import Entry
from secateur.passes.scale.correct import CorrectBias

Array = np.ndarray[Any, Any]

RUNNER = partial(OnnxRuntimeRunner, optimize=False, threads=1)
"""Without fusions: these round biases to integers, which would be measured along."""


def compress(graph: Graph, text: str, feeds: list[dict[str, Array]]) -> Result:
    source = open_source([Batch(one) for one in feeds])
    return run_pipeline(graph, parse_pipeline(text), Context(runner=RUNNER, source=source))


def corrected(graph: Graph, original: Graph | None, feeds: list[dict[str, Array]], method: str = "empirical") -> Entry:
    """The pass alone, in place."""
    source, entry = open_source([Batch(one) for one in feeds]), Entry("")
    context = Context(Facts(graph), RUNNER, source=source, reference=original, report=entry)
    entry.rewrites = CorrectBias(method=method).run(graph, context)  # type: ignore[arg-type]
    graph.verify()
    return entry


def means(graph: Graph, names: list[str], feeds: list[dict[str, Array]]) -> dict[str, Array]:
    """The mean of each channel: axis 1 of images, the last axis of others."""
    found: dict[str, list[Array]] = {}
    with RUNNER(graph, outputs=names) as runner:
        for one in feeds:
            for name, array in runner.run(one).items():
                axis = 1 if array.ndim == 4 else array.ndim - 1
                found.setdefault(name, []).append(np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis]))
    return {name: np.concatenate(some).mean(axis=0, dtype=np.float64) for name, some in found.items()}


@pytest.mark.parametrize("name", ["resnet50", "vgg16", "bert", "gpt2"])
def test_mean_channel_errors_are_zero_on_the_calibration_data(name: str) -> None:
    graph = zoo("small")[name]()
    feeds = [random_feeds(graph, seed) for seed in range(3)]
    dense = compress(graph, "clean,fold-batchnorm", feeds).graph
    plain = compress(dense, "quantize", feeds).graph
    result = compress(dense, "quantize,correct-bias{judge=false}", feeds)
    entry = result.report.entries[-1]
    assert entry.rewrites == len(entry.rows) > 5
    done = {str(row["weight"]).removesuffix("_quantized") for row in entry.rows}
    ops = [op for op in dense.ops() if any(value and value.name in done for value in op.inputs)]
    # A MatMul has its bias in the Add behind it.
    names = [(dense.consumers(op.output)[0] if op.op_type == "MatMul" else op).output.name for op in ops]
    assert len(names) == len(done)
    wanted, before, after = (means(one, names, feeds) for one in (dense, plain, result.graph))
    for one in names:
        assert np.abs(after[one] - wanted[one]).max() < 1e-4 * max(1, np.abs(wanted[one]).max())
    assert any(np.abs(before[one] - wanted[one]).max() > 1e-3 for one in names)


@pytest.mark.parametrize("name", ["resnet50", "vgg16", "shufflenet-v2", "bert"])
def test_outputs_never_err_more_on_the_calibration_data(name: str) -> None:
    graph = zoo("small")[name]()
    feeds = [random_feeds(graph, seed) for seed in range(3)]
    dense = compress(graph, "clean,fold-batchnorm", feeds).graph
    plain = compress(dense, "quantize", feeds).graph
    result = compress(dense, "quantize,correct-bias", feeds)
    errors = [0.0, 0.0]
    for one in feeds:
        with RUNNER(dense) as runner:
            wanted = runner.run(one)
        for at, other in enumerate((plain, result.graph)):
            with RUNNER(other) as runner:
                found = runner.run(one)
            errors[at] += sum(float(np.square(found[key] - array).sum()) for key, array in wanted.items())
    assert errors[1] <= errors[0] * (1 + 1e-6)
    if not result.report.entries[-1].rewrites:
        assert "no bias is corrected" in result.report.entries[-1].notes[-1]
        assert str(result.graph) == str(plain), "everything is as it was"


def test_nothing_is_done_where_nothing_is_quantized() -> None:
    graph = zoo("small")["vgg16"]()
    result = compress(graph, "clean,correct-bias", [random_feeds(graph, 0)])
    assert result.report.entries[-1].rewrites == 0
    assert str(result.graph) == str(compress(graph, "clean", [random_feeds(graph, 0)]).graph)


def layer(kind: str, weight: Array | None = None, *, codes: bool, bias: bool = True) -> Graph:
    """x -> one layer, its weight as it is or as INT4 codes with one scale for each output channel."""
    net = Net("layer")
    random = np.random.default_rng(4)
    shape = {"Gemm": (6, 8), "MatMul": (8, 6), "Conv": (6, 4, 3, 3)}[kind]
    dense = random.normal(size=shape).astype(np.float32)
    produced = int(kind == "MatMul")
    value: Value = net.constant("w", dense)
    if codes:
        others = tuple(axis for axis in range(dense.ndim) if axis != produced)
        scale = (np.abs(dense).max(axis=others, keepdims=True) / 7).astype(np.float32)
        stored = net.constant("w_codes", np.rint(dense / scale).astype(np.int8))
        value = net.op(
            "DequantizeLinear", stored, net.constant("w_scale", scale.reshape(-1)), axis=produced, to="w_real"
        )
        net.graph.remove(net.graph["w"])
    shift = [net.constant("b", random.normal(size=6).astype(np.float32))] if bias else []
    x = net.input("x", *((5, 4, 7, 7) if kind == "Conv" else (9, 8)))
    if kind == "MatMul":
        made = net.op("MatMul", x, value, to="product")
        return net.done((net.op("Add", made, *shift, to="y") if bias else made, (9, 6)))
    attributes = {"transB": 1} if kind == "Gemm" else {"pads": [1, 1, 1, 1]}
    return net.done((net.op(kind, x, value, *shift, to="y", **attributes), (5, 6, 7, 7) if kind == "Conv" else (9, 6)))


def some_feeds(graph: Graph) -> list[dict[str, Array]]:
    random = np.random.default_rng(0)
    shape = (5, 4, 7, 7) if graph.name and len(graph.inputs[0].type.shape) == 4 else (9, 8)  # type: ignore[union-attr, arg-type]
    return [{"x": (random.normal(size=shape) + 1.5).astype(np.float32)} for _ in range(3)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("method", ["empirical", "analytic"])
@pytest.mark.parametrize("kind", ["Gemm", "MatMul", "Conv"])
def test_one_layer_gives_what_it_gave_on_average(kind: str, method: str, bias: bool) -> None:
    """Whichever way: with weights alone rounded, both shifts are the same numbers. A bias comes where there is none."""
    dense, graph = layer(kind, codes=False, bias=bias), layer(kind, codes=True, bias=bias)
    feeds = some_feeds(graph)
    name = graph.outputs[0].name
    before = means(graph, [name], feeds)[name]
    entry = corrected(graph, dense, feeds, method)
    if kind == "MatMul" and not bias:
        assert entry.rewrites == 0
        assert "no constant is added" in entry.notes[0]
        return
    assert entry.rewrites == 1
    wanted, after = means(dense, [name], feeds)[name], means(graph, [name], feeds)[name]
    assert np.abs(before - wanted).max() > 1e-2
    np.testing.assert_allclose(after, wanted, atol=1e-5)


def test_grouped_and_transposed_kernels() -> None:
    for kind, shape, attributes in (
        ("Conv", (6, 2, 3, 3), {"group": 2}),
        ("ConvTranspose", (4, 3, 3, 3), {"group": 2}),
    ):
        graphs = []
        for codes in (False, True):
            net = Net("grouped")
            dense = np.random.default_rng(2).normal(size=shape).astype(np.float32)
            x = net.input("x", 5, 4, 7, 7)
            if codes:
                step = np.float32(np.abs(dense).max() / 7)
                stored = net.constant("w_codes", np.rint(dense / step).astype(np.int8))
                weight = net.op("DequantizeLinear", stored, net.constant("w_scale", step), to="w_real")
            else:
                weight = net.constant("w", dense)
            graphs.append(net.done((net.op(kind, x, weight, to="y", **attributes), (5, 6, None, None))))
        dense_graph, graph = graphs
        feeds = some_feeds(graph)
        for method in ("empirical", "analytic"):
            one = graph.clone()
            if kind == "ConvTranspose" and method == "analytic":
                continue  # covered by the matrices' own tests
            assert corrected(one, dense_graph, feeds, method).rewrites == 1
            wanted, after = means(dense_graph, ["y"], feeds)["y"], means(one, ["y"], feeds)["y"]
            np.testing.assert_allclose(after, wanted, atol=1e-5)


def test_without_the_original_only_activations_are_corrected() -> None:
    graph = layer("Gemm", codes=True)
    entry = corrected(graph, None, some_feeds(graph))
    assert entry.rewrites == 0, "nothing is rounded but the weight, and that is all there is"
    assert "not known" in entry.notes[0]


def test_weights_that_were_rescaled_since_are_no_measure() -> None:
    """Where a scale moved into a weight since, the layer of the same name gives something else."""
    graph, other = layer("Gemm", codes=True), layer("Gemm", codes=False)
    tensor = other["w"].const
    assert tensor is not None
    scaled = tensor.numpy() * np.exp(np.random.default_rng(0).normal(size=(6, 1)))
    other["w"].set_const(Tensor(scaled.astype(np.float32)))
    entry = corrected(graph, other, some_feeds(graph))
    assert entry.rewrites == 0
    assert "rescaled" in entry.notes[0]


def test_a_bias_that_came_since_is_no_measure() -> None:
    graph, other = layer("Gemm", codes=True), layer("Gemm", codes=False)
    other["b"].set_const(Tensor(np.arange(6, dtype=np.float32)))
    entry = corrected(graph, other, some_feeds(graph))
    assert entry.rewrites == 0
    assert "bias has changed" in entry.notes[0]


def test_the_analytic_mean_is_that_of_a_clipped_normal() -> None:
    """BatchNormalization -> Relu -> Conv: no data is needed."""
    graphs = []
    for codes in (False, True):
        net = Net("normal")
        random = np.random.default_rng(8)
        x = net.op("Relu", net.batch_norm(net.input("x", 2, 4, 5, 5), "norm", 4))
        dense = random.normal(size=(6, 4, 1, 1)).astype(np.float32)
        if codes:
            step = np.float32(np.abs(dense).max() / 7)
            stored = net.constant("w_codes", np.rint(dense / step).astype(np.int8))
            weight = net.op("DequantizeLinear", stored, net.constant("w_scale", step), to="w_real")
        else:
            weight = net.constant("w", dense)
        graphs.append(net.done((net.op("Conv", x, weight, net.weight("b", 6), to="y"), (2, 6, 5, 5))))
    before, graph = graphs
    context = Context(Facts(graph), RUNNER, reference=before)
    old = graph["b"].const
    assert old is not None
    old_bias = old.numpy()
    assert CorrectBias(method="analytic").run(graph, context) == 1
    new = graph["b"].const
    assert new is not None
    gamma, beta = (graph[f"norm.{name}"].const.numpy().astype(np.float64) for name in ("scale", "bias"))  # type: ignore[union-attr]
    mean = gamma * norm.pdf(-beta / gamma) + beta * (1 - norm.cdf(-beta / gamma))
    step, codes_array = (graph[name].const.numpy().astype(np.float64) for name in ("w_scale", "w_codes"))  # type: ignore[union-attr]
    error = step * codes_array - before["w"].const.numpy()  # type: ignore[union-attr]
    np.testing.assert_allclose(new.numpy() - old_bias, -error[:, :, 0, 0] @ mean, rtol=1e-4, atol=1e-6)


def test_it_runs_in_a_recipe_behind_the_scales() -> None:
    """The original is the one that had its scales moved: nothing is held against another layer."""
    graph = zoo("small")["gpt2"]()
    feeds = [random_feeds(graph, seed) for seed in range(3)]
    result = compress(graph, "clean,smooth-quant,equalize,quantize,correct-bias{judge=false}", feeds)
    entry = result.report.entries[-1]
    assert entry.rewrites > 5
    assert not any("held against" in note for note in entry.notes)
