"""Selections of a trunk's channels: the same as masks, the trunk whole, and what they cost said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.convolutional import Net
from helpers.zoo import random_feeds, zoo

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.batches import Batch
from secateur.calib.sources import open_source
from secateur.ir import Graph, Tensor
from secateur.ir.build import emit
from secateur.ir.errors import RefusedError, TextError
from secateur.passes.context import Context
from secateur.passes.manager import Result, run_pipeline
from secateur.passes.pipeline import parse_pipeline

Array = np.ndarray[Any, Any]
PADS = [1, 1, 1, 1]


def compress(graph: Graph, text: str, *feeds: dict[str, Array]) -> Result:
    source = open_source([Batch(one) for one in feeds]) if feeds else None
    return run_pipeline(graph, parse_pipeline(text), Context(runner=OnnxRuntimeRunner, source=source))


def run(graph: Graph, feeds: dict[str, Array]) -> Array:
    with OnnxRuntimeRunner(graph) as runner:
        return next(iter(runner.run(feeds).values()))


def images(seed: int, count: int = 40) -> dict[str, Array]:
    return {"x": np.random.default_rng(seed).normal(size=(count, 3, 9, 9)).astype(np.float32)}


def residual(blocks: int = 2) -> Graph:
    """A stem and residual blocks of two convolutions, of which the first is what samples; its weights are w_2, ..."""
    net = Net().conv(12, pads=PADS).op("Relu")
    for _ in range(blocks):
        trunk = net.value
        net.conv(8, pads=PADS).op("Relu").conv(12, 1)
        net.value = emit(net.graph, "Add", [trunk, net.value]).output
        net.op("Relu")
    return net.conv(4, 1).op("GlobalAveragePool").done()


def _masked(graph: Graph, done: Result) -> Graph:
    """The graph with the inputs that a selection leaves out masked, layer by layer."""
    masked = graph.clone()
    for op in done.graph.ops():
        data = op.inputs[0]
        maker = None if data is None else done.graph.producer(data)
        if maker is None or maker.op_type != "Gather" or op.op_type != "Conv":
            continue
        kept = done.graph.constant(maker.inputs[1])
        weight = masked[op.inputs[1].name]  # type: ignore[union-attr]
        assert kept is not None and weight.const is not None
        array = np.zeros_like(weight.const.numpy())
        array[:, kept.numpy()] = weight.const.numpy()[:, kept.numpy()]
        weight.set_const(Tensor(array))
    return masked


@pytest.mark.parametrize("criterion", ["magnitude", "obs", "lasso"])
@pytest.mark.parametrize("shared", ["true", "false"])
def test_a_selection_is_a_mask(criterion: str, shared: str) -> None:
    graph = residual()
    data = () if criterion == "magnitude" else (images(1),)
    text = f"sample-channels{{ratio=0.5, align=1, repair=none, criterion={criterion}, shared={shared}}}"
    done = compress(graph, text, *data)
    assert done.report.rewrites == len([op for op in done.graph.ops() if op.op_type == "Gather"]) == 3
    masked = _masked(graph, done)
    np.testing.assert_allclose(run(done.graph, images(2)), run(masked, images(2)), rtol=1e-4, atol=1e-5)
    assert np.abs(run(masked, images(2)) - run(graph, images(2))).max() > 1e-3


def test_only_layers_behind_the_trunk_sample_and_the_trunk_is_whole() -> None:
    graph = residual(1)
    done = compress(graph, "sample-channels{ratio=0.5, align=1}", images(1))
    sizes = {value.name: value.const.shape for value in done.graph.constants() if value.const is not None}
    before = {value.name: value.const.shape for value in graph.constants() if value.const is not None}
    changed = {name for name, shape in before.items() if sizes.get(name) != shape}
    assert len(changed) == 2
    assert all(sizes[name][1] == 6 == before[name][1] // 2 for name in changed)


def test_repair_helps_and_the_costs_are_reported() -> None:
    graph = residual()
    errors = []
    for repair in ("none", "least-squares"):
        done = compress(graph, f"sample-channels{{ratio=0.34, align=1, repair={repair}}}", images(1))
        errors.append(float(np.square(run(done.graph, images(2)) - run(graph, images(2))).sum()))
        for row in done.report.entries[0].rows:
            assert row["gather_bytes"] == 2 * 4 * 81 * row["kept"]
            assert row["saved_bytes"] > 0
            assert row["error"] <= row["unrepaired"]
    assert errors[1] < 0.7 * errors[0]


def test_queries_keys_and_values_share_a_selection_if_they_may() -> None:
    graph = zoo("small")["bert"]()
    feeds = [random_feeds(graph, seed) for seed in range(3)]
    counts = {}
    for shared in ("true", "false"):
        done = compress(graph, f"clean,sample-channels{{ratio=0.25, align=1, shared={shared}}}", *feeds)
        counts[shared] = done.report.rewrites
        assert np.isfinite(run(done.graph, random_feeds(graph, 9))).all()
    assert counts["false"] > counts["true"]


def test_nothing_is_selected_where_all_would_stay() -> None:
    graph = residual()
    done = compress(graph, "sample-channels{ratio=0.1, align=12}")
    assert done.report.rewrites == 0
    assert str(done.graph) == str(graph)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(RefusedError, match="calibration data"):
        compress(residual(), "sample-channels{criterion=obs}")
    for text, word in (("ratio=1.0", "ratio"), ("align=0", "align"), ("criterion=fisher", "fisher")):
        with pytest.raises(TextError, match=word):
            parse_pipeline(f"sample-channels{{{text}}}")
