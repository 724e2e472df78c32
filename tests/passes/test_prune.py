"""Channel pruning: the mask oracle, refusals with reasons, and what reconstruction is worth on a real network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.convolutional import Net
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.sources import open_source
from secateur.ir import Graph, Tensor
from secateur.ir.build import emit
from secateur.ir.errors import RefusedError
from secateur.ir.onnx_read import load
from secateur.ir.onnx_write import to_bytes
from secateur.passes.cleanup.shapes import known
from secateur.passes.context import Context
from secateur.passes.manager import Result, run_pipeline
from secateur.passes.manifest import Manifest
from secateur.passes.pipeline import parse_pipeline
from secateur.passes.prune.chains import Chain, Refusal, chains
from secateur.passes.prune.surgery import remove_channels

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
    total = emit(net.graph, "ReduceSum", [shared], {"keepdims": 0}).output
    return net.op("Mul", total).done()


def _scaled(net: Net) -> Net:
    return net.op("Mul", net.weight(1, 8, 1, 1)).op("Add", net.weight(8, 1, 1)).op("PRelu", net.weight(8, 1, 1))


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


def _first_chain(graph: Graph) -> Chain:
    return next(chain for chain in chains(known(graph)) if isinstance(chain, Chain))


def _mask_readers(graph: Graph, removed: np.ndarray) -> None:
    """Zeroes what the readers of the first chain multiply the removed channels with: the dense half of the oracle."""
    for consumer in _first_chain(graph).consumers:
        use = consumer.use
        weight = np.moveaxis(use.tensor.numpy().copy(), use.contracted, 0)
        weight.reshape(-1, consumer.stride, *weight.shape[1:])[removed] = 0
        masked = graph.add_constant("masked", Tensor(np.ascontiguousarray(np.moveaxis(weight, 0, use.contracted))))
        graph.set_inputs(use.op, [masked if port == use.port else value for port, value in enumerate(use.op.inputs)])


def _compress(graph: Graph, text: str, feeds: dict[str, Any] | None = None) -> Result:
    source = None if feeds is None else open_source(feeds, batch_size=2)
    return run_pipeline(graph, parse_pipeline(text), Context(runner=OnnxRuntimeRunner, source=source))


@pytest.mark.parametrize("name", NETS)
@settings(max_examples=6, deadline=None, derandomize=True)
@given(kept=st.sets(st.integers(0, 7), min_size=1, max_size=7))
def test_removing_channels_equals_masking_them(name: str, kept: set[int]) -> None:
    indices = np.array(sorted(kept))
    masked, pruned = NETS[name](), NETS[name]()
    _mask_readers(masked, np.setdiff1d(np.arange(8), indices))
    remove_channels(pruned, _first_chain(pruned), indices, Manifest())
    pruned.verify()
    np.testing.assert_allclose(_run(pruned), _run(masked), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NETS)
def test_the_manifest_replays_the_surgery(name: str) -> None:
    """Taking the kept indices of every weight named there gives the weights of the pruned graph."""
    dense, pruned, manifest = NETS[name](), NETS[name](), Manifest()
    remove_channels(pruned, _first_chain(pruned), [1, 4, 6], manifest)
    assert manifest.kept
    for weight, axes in manifest.kept.items():
        expected = _array(dense, weight if dense.get(weight) else weight.rpartition("_")[0])
        for axis, indices in axes.items():
            expected = expected.take(indices, axis)
        np.testing.assert_array_equal(_array(pruned, weight), expected)
    untouched = {value.name for value in dense.constants()} - set(manifest.kept)
    for weight in untouched:
        np.testing.assert_array_equal(_array(pruned, weight), _array(dense, weight))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Net().conv(8).done(), "output of the model"),
        (lambda: Net().conv(8).op("Softmax", axis=1).conv(5).done(), "no rule"),
        (lambda: Net().conv(8).conv(8, group=2).op("Relu").done(), "neither depthwise"),
        (lambda: (net := Net(8)).conv(8, pads=PADS).op("Add", net.graph.inputs[0]).done(), "made elsewhere"),
        (lambda: Net().conv(8).op("Flatten", axis=2).done(), "does not flatten"),
    ],
)
def test_what_cannot_be_pruned_says_why(build: Callable[[], Graph], words: str) -> None:
    first = chains(known(build()))[0]
    assert isinstance(first, Refusal)
    assert words in first.reason


def test_without_data_it_prunes_by_magnitude_and_says_so() -> None:
    graph = NETS["conv, relu, conv"]()
    norms = np.linalg.norm(_array(graph, "w").reshape(8, -1), axis=1)
    result = _compress(graph, "prune{ratio=0.5, align=1}")
    assert result.manifest.kept["w"][0].tolist() == sorted(np.argsort(-norms)[:4])
    assert result.manifest.exact
    assert any("magnitude" in note for note in result.report.entries[0].notes)


def test_lasso_without_data_is_refused_and_nothing_changes() -> None:
    graph = NETS["conv, relu, conv"]()
    before = to_bytes(graph)
    with pytest.raises(RefusedError, match="calibration data"):
        _compress(graph, "prune{criterion=lasso}")
    assert to_bytes(graph) == before


@pytest.mark.parametrize("name", NETS)
def test_reconstruction_never_hurts_the_held_out_samples(name: str) -> None:
    result = _compress(NETS[name](), "prune{ratio=0.5, align=1, positions=0}", _images(40, 3))
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
