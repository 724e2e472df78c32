"""The prune pass: the mask oracle through the pass, refusals with reasons, and what reconstruction is worth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.convolutional import Net
from helpers.masking import mask_readers
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.sources import open_source
from secateur.ir import Graph, Tensor
from secateur.ir.build import emit
from secateur.ir.dims.analysis import Dimensions
from secateur.ir.dims.groups import Group, groups
from secateur.ir.dims.shrink import shrink
from secateur.ir.errors import RefusedError
from secateur.ir.onnx_read import load
from secateur.ir.onnx_write import to_bytes
from secateur.passes.context import Context
from secateur.passes.manager import Result, run_pipeline
from secateur.passes.pipeline import parse_pipeline
from secateur.passes.prune.facts import dims

RESNET = Path(__file__).parents[2] / "examples" / "fashion_mnist" / "resnet.onnx"
PADS = [1, 1, 1, 1]


def _two_readers(net: Net) -> Graph:
    start = net.value
    first = net.conv(5).value
    net.value, net.width = start, 8
    second = net.conv(5).value
    net.value = emit(net.graph, "Add", [first, second]).output
    return net.done()


def _shared(net: Net) -> Graph:
    """The weight of the reader also scales its output."""
    shared = net.weight(3, 8, 3, 3)
    net.op("Relu").op("Conv", shared)
    total = emit(net.graph, "ReduceSum", [emit(net.graph, "Abs", [shared]).output], {"keepdims": 0}).output
    return net.op("Mul", total).done()


def _scaled(net: Net) -> Net:
    return net.op("Mul", net.weight(1, 8, 1, 1)).op("Add", net.weight(8, 1, 1)).op("PRelu", net.weight(8, 1, 1))


def _residual(net: Net) -> Net:
    start = net.value
    net.conv(8, pads=PADS).op("Relu").conv(8, pads=PADS)
    return net.op("Add", start)


def _dense(net: Net) -> Net:
    start = net.value
    net.conv(4, pads=PADS).op("Relu")
    net.value, net.width = emit(net.graph, "Concat", [start, net.value], {"axis": 1}).output, 12
    return net


NETS: dict[str, Callable[[], Graph]] = {
    "conv, relu, conv": lambda: Net().conv(8, pads=PADS).op("Relu").conv(5).done(),
    "no bias, strides and dilations": lambda: (
        Net().conv(8, bias=False, strides=[2, 2]).op("Relu").conv(5, bias=False, dilations=[2, 2], pads=PADS).done()
    ),
    "batch norm between": lambda: Net().conv(8).norm().op("Relu").conv(5).done(),
    "depthwise between": lambda: Net().conv(8, 1).op("Relu").conv(8, 3, group=8).norm().op("Relu").conv(5, 1).done(),
    "swish between": lambda: Net().conv(8).swish().conv(5).done(),
    "pool and flatten into gemm": lambda: (
        Net()
        .conv(8)
        .op("Relu")
        .op("MaxPool", kernel_shape=[3, 3], strides=[3, 3])
        .op("Flatten")
        .gemm(32, 6, True)
        .done()
    ),
    "global pool into gemm": lambda: Net().conv(8).op("GlobalAveragePool").op("Flatten").gemm(8, 6, False).done(),
    "scale for each channel": lambda: _scaled(Net().conv(8)).conv(5).done(),
    "two readers": lambda: _two_readers(Net().conv(8).op("Relu")),
    "weight shared with another op": lambda: _shared(Net().conv(8, pads=PADS)),
    "residual trunk": lambda: _residual(_residual(Net().conv(8)).op("Relu")).conv(5).done(),
    "dense concatenation": lambda: _dense(Net().conv(8)).conv(5).done(),
    "grouped convolution": lambda: Net().conv(8).op("Relu").conv(12, group=4, pads=PADS).op("Relu").conv(5).done(),
}


def _images(count: int, seed: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).normal(size=(count, 3, 9, 9)).astype(np.float32)}


def _run(graph: Graph) -> np.ndarray:
    with OnnxRuntimeRunner(graph) as runner:
        return next(iter(runner.run(_images(4, 0)).values()))


def _array(graph: Graph, name: str) -> np.ndarray:
    tensor = graph[name].const
    assert tensor is not None
    return tensor.numpy()


def _free(found: Dimensions) -> list[Group]:
    return [group for group in groups(found) if group.pin is None and group.inexact is None]


def _compress(graph: Graph, text: str, feeds: dict[str, Any] | None = None) -> Result:
    source = None if feeds is None else open_source(feeds, batch_size=2)
    return run_pipeline(graph, parse_pipeline(text), Context(runner=OnnxRuntimeRunner, source=source))


@pytest.mark.parametrize("name", NETS)
@settings(max_examples=6, deadline=None, derandomize=True)
@given(st.data())
def test_removing_units_equals_masking_them(name: str, data: st.DataObject) -> None:
    masked, pruned = NETS[name](), NETS[name]()
    here, there = dims(masked), dims(pruned)
    kept_here, kept_there = {}, {}
    assert _free(here)
    for one, other in zip(_free(here), _free(there), strict=True):
        some = sorted(data.draw(st.sets(st.integers(0, one.size - 1), min_size=1), label=one.name))
        kept_here[one.dim], kept_there[other.dim] = np.array(some), np.array(some)
    mask_readers(masked, here, kept_here)
    shrink(pruned, there, kept_there)
    pruned.verify()
    np.testing.assert_allclose(_run(pruned), _run(masked), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NETS)
def test_the_manifest_replays_the_surgery(name: str) -> None:
    """Taking the kept indices of every weight named there gives the weights of the pruned graph."""
    dense = NETS[name]()
    result = _compress(dense, "prune{ratio=0.4, align=1, dims=all}")
    assert result.manifest.kept
    for weight, axes in result.manifest.kept.items():
        expected = _array(dense, weight if dense.get(weight) else weight.rpartition("_")[0])
        for axis, indices in axes.items():
            expected = expected.take(indices, axis)
        np.testing.assert_array_equal(_array(result.graph, weight), expected)
    for value in dense.constants():
        if value.name not in result.manifest.kept and value.const is not None and value.const.dtype.is_float:
            np.testing.assert_array_equal(_array(result.graph, value.name), value.const.numpy())


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Net().conv(8).done(), "output of the model"),
        (lambda: Net().conv(8).op("NonMaxThing").conv(5), "no rule"),
        (
            lambda: (net := Net(8)).conv(8, pads=PADS).op("Add", net.graph.inputs[0]).conv(5).done(),
            "input of the model",
        ),
    ],
)
def test_what_cannot_be_pruned_says_why(build: Callable[[], Any], words: str) -> None:
    graph = build()
    if isinstance(graph, Net):
        graph.graph.set_interface(outputs=[graph.value])
        graph = graph.graph
    pins = [group.pin for group in groups(dims(graph)) if group.pin and "kernel" not in group.pin]
    assert any(words in pin for pin in pins)


def test_without_data_it_prunes_by_magnitude_and_says_so() -> None:
    graph = NETS["conv, relu, conv"]()
    norms = np.linalg.norm(_array(graph, "w").reshape(8, -1), axis=1)
    result = _compress(graph, "prune{ratio=0.5, align=1}")
    assert result.manifest.kept["w"][0].tolist() == sorted(np.argsort(-norms)[:4])
    assert result.manifest.exact
    assert any("magnitude" in note for note in result.report.entries[0].notes)


def test_trunks_are_left_alone_unless_asked_for() -> None:
    graph = NETS["residual trunk"]()
    inner, everything = (_compress(graph, f"prune{{align=1, dims={dims}}}") for dims in ("inner", "all"))
    assert inner.report.rewrites == 2
    assert everything.report.rewrites == 3
    assert any("it is hidden" in note for note in inner.report.entries[0].notes)


def test_lasso_without_data_is_refused_and_nothing_changes() -> None:
    graph = NETS["conv, relu, conv"]()
    before = to_bytes(graph)
    with pytest.raises(RefusedError, match="calibration data"):
        _compress(graph, "prune{criterion=lasso}")
    assert to_bytes(graph) == before


@pytest.mark.parametrize("name", NETS)
def test_reconstruction_never_hurts_the_held_out_samples(name: str) -> None:
    result = _compress(NETS[name](), "prune{ratio=0.5, align=1, positions=0, dims=all}", _images(40, 3))
    touched = [row for row in result.report.entries[0].rows if "error" in row]
    assert touched
    assert not result.manifest.exact
    for row in touched:
        error, unrepaired = row["error"], row["unrepaired"]
        assert isinstance(error, float)
        assert isinstance(unrepaired, float)
        assert error <= unrepaired


def test_channels_that_others_determine_cost_nothing() -> None:
    """Four channels are sums of the other four: LASSO and least squares lose nothing without them."""
    graph = Net().conv(8, bias=False).conv(5).done()
    weight = _array(graph, "w").copy()
    weight[4:] = np.einsum("ij,jchw->ichw", np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32), weight[:4])
    graph["w"].set_const(Tensor(weight))
    result = _compress(graph, "prune{ratio=0.5, align=1, positions=0, damping=0}", _images(60, 3))
    np.testing.assert_allclose(_run(result.graph), _run(graph), rtol=1e-3, atol=1e-3)


def test_same_seed_same_bytes() -> None:
    text = "prune{ratio=0.5, align=1, positions=5},sparsify{worthwhile=false},quantize"
    first, second = (_compress(NETS["depthwise between"](), text, _images(20, 3)) for _ in range(2))
    assert to_bytes(first.graph) == to_bytes(second.graph)


def test_alignment_rounds_the_kept_count_up() -> None:
    result = _compress(Net().conv(32).conv(5).done(), "prune{ratio=0.4, align=8}")
    assert result.report.entries[0].rows[0]["kept"] == 24


def test_a_real_network_keeps_its_outputs_where_magnitude_loses_them() -> None:
    """A trained ResNet on coarse noise: half of the inner channels go."""
    graph = load(RESNET)
    noise = np.random.default_rng(0).normal(size=(160, 1, 7, 7)).repeat(4, axis=2).repeat(4, axis=3).astype(np.float32)

    def logits(model: Graph) -> np.ndarray:
        with OnnxRuntimeRunner(model) as runner:
            return runner.run({"image": noise[96:]})["logits"]

    dense = logits(graph)

    def error(text: str) -> float:
        source = open_source({"image": noise[:96]}, batch_size=32)
        result = run_pipeline(graph, parse_pipeline(text), Context(runner=OnnxRuntimeRunner, source=source))
        return float(np.square(logits(result.graph) - dense).sum() / np.square(dense - dense.mean(0)).sum())

    repaired, plain = error("prune{ratio=0.5}"), error("prune{ratio=0.5, criterion=magnitude, repair=none}")
    assert repaired < plain / 5
