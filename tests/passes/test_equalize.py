"""equalize: what makes a channel and what reads it have weights of one range, and the model computes what it did."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from helpers.graphs import Net
from helpers.zoo import random_feeds, zoo

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.batches import Batch
from secateur.calib.sources import open_source
from secateur.ir import Graph, Tensor
from secateur.passes.context import Context
from secateur.passes.manager import Result, run_pipeline
from secateur.passes.pipeline import parse_pipeline

Array = np.ndarray[Any, Any]


def equalized(graph: Graph, text: str = "equalize") -> Result:
    return run_pipeline(graph, parse_pipeline(text), Context(runner=OnnxRuntimeRunner))


def run(graph: Graph, feeds: dict[str, Array]) -> dict[str, Array]:
    with OnnxRuntimeRunner(graph) as runner:
        return runner.run(feeds)


def array(graph: Graph, name: str) -> Array:
    tensor = graph[name].const
    assert tensor is not None
    return tensor.numpy().astype(np.float64)


def same(graph: Graph, after: Graph, feeds: dict[str, Array], tolerance: float = 1e-5) -> None:
    dense, found = run(graph, feeds), run(after, feeds)
    for key, wanted in dense.items():
        np.testing.assert_allclose(found[key], wanted, atol=tolerance * np.abs(wanted).max())


def rows(graph: Graph, name: str) -> Array:
    """The largest weight of each output channel."""
    weight = np.abs(array(graph, f"{name}.weight"))
    return weight.reshape(len(weight), -1).max(axis=1)


def columns(graph: Graph, name: str) -> Array:
    """The largest weight of each input channel."""
    return np.asarray(np.abs(array(graph, f"{name}.weight")).max(axis=(0, 2, 3)))


MODELS = ("resnet50", "vgg16", "mobilenet-v2", "shufflenet-v2", "densenet121", "llama", "gpt2", "t5", "llama-mqa")


@pytest.mark.parametrize("name", MODELS)
def test_models_compute_the_same_and_ranges_agree(name: str) -> None:
    graph = zoo("small")[name]()
    result = equalized(graph, "clean,fold-batchnorm,equalize")
    entry = result.report.entries[-1]
    assert entry.rewrites == len(entry.rows) > 0
    assert all(row["mismatch_after"] < 1.0001 for row in entry.rows)
    assert any(row["mismatch_before"] > 1.2 for row in entry.rows)
    same(graph, result.graph, random_feeds(graph, 7))


def test_efficientnet_computes_the_same() -> None:
    graph = zoo("real")["efficientnet-lite0"]()
    result = equalized(graph, "clean,fold-batchnorm,equalize")
    assert result.report.entries[-1].rewrites >= 5, "the trunks: its own activations clip at 6"
    same(graph, result.graph, random_feeds(graph, 1))


def chain(*between: str) -> Graph:
    """Convolutions of 6 channels, the second depthwise, with an activation behind each but the last."""
    net, value = Net("chain"), None
    value = net.conv(net.input("x", 1, 3, 6, 6), "first", 6, 3, 3, 3)
    value = net.conv(net.op(between[0], value), "second", 6, 1, 3, 3, group=6, pads=[1, 1, 1, 1])
    value = net.conv(net.op(between[1], value), "third", 4, 6, 1, 1)
    return net.done((value, (1, 4, 4, 4)))


def test_one_pair_is_the_formula() -> None:
    net = Net("pair")
    value = net.op("Relu", net.conv(net.input("x", 1, 3, 6, 6), "first", 8, 3, 3, 3))
    graph = net.done((net.conv(value, "second", 4, 8, 3, 3), (1, 4, 2, 2)))
    result = equalized(graph)
    scale = np.sqrt(rows(graph, "first") / columns(graph, "second"))
    after = result.graph
    np.testing.assert_allclose(array(after, "first.bias"), array(graph, "first.bias") / scale, rtol=1e-5)
    np.testing.assert_allclose(rows(after, "first"), rows(graph, "first") / scale, rtol=1e-5)
    np.testing.assert_allclose(columns(after, "second"), rows(after, "first"), rtol=1e-5)
    np.testing.assert_allclose(array(after, "second.bias"), array(graph, "second.bias"))
    same(graph, after, {"x": np.random.default_rng(0).normal(size=(1, 3, 6, 6)).astype(np.float32)})


@pytest.mark.parametrize("between", [("Relu", "Relu"), ("LeakyRelu", "Identity"), ("Abs", "Relu")])
def test_depthwise_triplets_get_the_cube_root(between: tuple[str, str]) -> None:
    graph = chain(*between)
    after = equalized(graph).graph
    wanted = np.cbrt(rows(graph, "first") * rows(graph, "second") * columns(graph, "third"))
    for found in (rows(after, "first"), rows(after, "second"), columns(after, "third")):
        np.testing.assert_allclose(found, wanted, rtol=1e-4)
    same(graph, after, {"x": np.random.default_rng(0).normal(size=(1, 3, 6, 6)).astype(np.float32)})


def chain_scales(weights: list[Array]) -> list[Array]:
    """Scales between the layers [outputs, inputs] of a chain, pair after pair until they are settled."""
    scales = [np.ones(len(weight)) for weight in weights[:-1]]
    for _ in range(1000):
        for at, scale in enumerate(scales):
            before = 1.0 if at == 0 else scales[at - 1]
            behind = 1.0 if at + 1 == len(scales) else scales[at + 1][:, None]
            first, second = np.abs(weights[at] * before), np.abs(weights[at + 1] / behind)
            scale[:] = np.sqrt(first.max(axis=1) / second.max(axis=0))
    return scales


def test_chains_settle_where_pair_after_pair_does() -> None:
    net, value = Net("long"), None
    value = net.input("x", 1, 3, 5, 5)
    widths = (3, 6, 5, 8, 4)
    for at, (inputs, outputs) in enumerate(pairwise(widths)):
        value = net.conv(value, f"c{at}", outputs, inputs, 1, 1)
        value = net.op("Relu", value) if at < 3 else value
    graph = net.done((value, (1, 4, 5, 5)))
    after = equalized(graph).graph
    weights = [array(graph, f"c{at}.weight")[:, :, 0, 0] for at in range(4)]
    scales = [np.ones(3), *chain_scales(weights), np.ones(4)]
    for at, weight in enumerate(weights):
        wanted = weight / scales[at + 1][:, None] * scales[at]
        np.testing.assert_allclose(array(after, f"c{at}.weight")[:, :, 0, 0], wanted, rtol=1e-3, atol=1e-6)


def test_dead_channels_stay() -> None:
    graph = chain("Relu", "Relu")
    weight = array(graph, "first.weight").astype(np.float32)
    weight[2] = 0
    tensor = graph["first.weight"].const
    assert tensor is not None
    graph["first.weight"].set_const(type(tensor)(weight))
    after = equalized(graph).graph
    assert np.isfinite(array(after, "second.weight")).all()
    assert (array(after, "first.weight")[2] == 0).all()
    same(graph, after, {"x": np.random.default_rng(0).normal(size=(1, 3, 6, 6)).astype(np.float32)})


@pytest.mark.parametrize("between", ["Sigmoid", "HardSwish", "Gelu"])
def test_nothing_goes_through_what_does_not_commute(between: str) -> None:
    entry = equalized(chain(between, between)).report.entries[-1]
    assert entry.rewrites == 0
    assert sum(between in note for note in entry.notes) == 2


def test_normalisations_are_to_be_folded_first() -> None:
    net = Net("normed")
    value = net.conv(net.input("x", 1, 3, 6, 6), "first", 6, 3, 3, 3)
    value = net.op("Relu", net.batch_norm(value, "norm", 6))
    graph = net.done((net.conv(value, "second", 4, 6, 1, 1), (1, 4, 4, 4)))
    assert equalized(graph).report.entries[-1].rewrites == 0
    folded = equalized(graph, "fold-batchnorm,equalize")
    assert folded.report.entries[-1].rewrites == 1
    same(graph, folded.graph, {"x": np.random.default_rng(0).normal(size=(1, 3, 6, 6)).astype(np.float32)})


def trunk(*, leaks: bool) -> Graph:
    """A trunk that three convolutions write and three read; what leaks is an output."""
    net = Net("trunk")
    value = net.op("Relu", net.conv(net.input("x", 1, 3, 5, 5), "stem", 6, 3, 1, 1))
    for at in range(2):
        inner = net.op("Relu", net.conv(value, f"in{at}", 8, 6, 1, 1))
        value = net.op("Add", value, net.conv(inner, f"out{at}", 6, 8, 1, 1), to=f"trunk{at}")
    last = net.conv(value, "head", 4, 6, 1, 1)
    outputs = [(last, (1, 4, 5, 5)), *([(value, (1, 6, 5, 5))] if leaks else [])]
    return net.done(*outputs)


def test_trunks_are_scaled_jointly_or_not_at_all() -> None:
    graph = trunk(leaks=False)
    result = equalized(graph)
    after = result.graph
    assert result.report.entries[-1].rewrites == 3
    made = np.max([rows(after, name) for name in ("stem", "out0", "out1")], axis=0)
    read = np.max([columns(after, name) for name in ("in0", "in1", "head")], axis=0)
    np.testing.assert_allclose(made, read, rtol=1e-4)
    same(graph, after, {"x": np.random.default_rng(0).normal(size=(1, 3, 5, 5)).astype(np.float32)})
    held = equalized(trunk(leaks=True))
    assert held.report.entries[-1].rewrites == 2
    assert any("output of the model" in note for note in held.report.entries[-1].notes)


def test_a_second_time_nothing_is_left_to_do() -> None:
    once = equalized(chain("Relu", "Relu"))
    again = equalized(once.graph)
    for name in ("first", "second", "third"):
        np.testing.assert_allclose(array(again.graph, f"{name}.weight"), array(once.graph, f"{name}.weight"), rtol=1e-5)


def test_quantized_weights_of_one_scale_a_tensor_err_less() -> None:
    """What equalization is for: channels of very different ranges in one tensor."""
    net = Net("wide")
    value = net.op("Relu", net.conv(net.input("x", 1, 3, 6, 6), "first", 16, 3, 3, 3))
    graph = net.done((net.conv(value, "second", 4, 16, 1, 1), (1, 4, 4, 4)))
    ranges = np.exp(np.random.default_rng(0).normal(size=16) * 2)
    for name, factor in (("first.weight", ranges[:, None, None, None]), ("first.bias", ranges)):
        tensor = graph[name].const
        assert tensor is not None
        graph[name].set_const(type(tensor)((tensor.numpy() * factor).astype(np.float32)))
    tensor = graph["second.weight"].const
    assert tensor is not None
    graph["second.weight"].set_const(type(tensor)((tensor.numpy() / ranges[:, None, None]).astype(np.float32)))
    feeds = {"x": np.random.default_rng(0).normal(size=(1, 3, 6, 6)).astype(np.float32)}
    dense = run(graph, feeds)
    errors = []
    for one in (graph.clone(), equalized(graph).graph):
        for name in ("first.weight", "second.weight"):
            weight = array(one, name)
            step = np.abs(weight).max() / 127
            one[name].set_const(type(tensor)((np.rint(weight / step) * step).astype(np.float32)))
        errors.append(sum(float(np.square(run(one, feeds)[key] - wanted).sum()) for key, wanted in dense.items()))
    assert errors[1] < errors[0] / 10


def biased(kernel: int, pad: int) -> Graph:
    """Conv -> Relu -> Conv of a kernel, the first with biases large and small."""
    net = Net("biased")
    value = net.conv(net.input("x", 4, 3, 6, 6), "first", 8, 3, 3, 3)
    tensor = graph_bias(net.graph)
    tensor[::2] += 20
    net.graph["first.bias"].set_const(Tensor(tensor))
    value = net.conv(net.op("Relu", value), "second", 4, 4, kernel, kernel, group=2, pads=[pad] * 4)
    return net.done((value, (4, 4, 5 - kernel + 2 * pad, 5 - kernel + 2 * pad)))


def graph_bias(graph: Graph) -> Array:
    return array(graph, "first.bias").astype(np.float32)


def absorbed(graph: Graph, feeds: dict[str, Array]) -> Result:
    source = open_source([Batch(feeds)])
    return run_pipeline(graph, parse_pipeline("absorb-bias"), Context(runner=OnnxRuntimeRunner, source=source))


@pytest.mark.parametrize("kernel", [1, 3])
def test_biases_move_on_where_a_relu_never_cuts(kernel: int) -> None:
    graph = biased(kernel, 0)
    feeds = {"x": np.random.default_rng(0).normal(size=(4, 3, 6, 6)).astype(np.float32)}
    result = absorbed(graph, feeds)
    (row,) = result.report.entries[-1].rows
    assert row["channels"] == 4
    assert np.abs(array(result.graph, "first.bias")).max() < 10 < np.abs(array(graph, "first.bias")).max()
    dense, found = run(graph, feeds), run(result.graph, feeds)
    for key, wanted in dense.items():
        # What lies more than three deviations below the mean is cut now; that is hardly anything.
        assert float(np.square(found[key] - wanted).mean()) < 1e-3 * float(np.var(wanted))


def test_biases_stay_before_what_pads_with_zeros() -> None:
    graph = biased(3, 1)
    entry = absorbed(graph, {"x": np.zeros((4, 3, 6, 6), np.float32)}).report.entries[-1]
    assert entry.rewrites == 0
    assert "pads it with zeros" in entry.notes[0]
