"""Statistics of normalisations from data: each is what its inputs have once those before it are changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.convolutional import Net

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.batches import Batch
from secateur.calib.sources import open_source
from secateur.ir import Graph, Tensor
from secateur.ir.errors import RefusedError
from secateur.passes.context import Context
from secateur.passes.manager import Result, run_pipeline
from secateur.passes.pipeline import parse_pipeline

Array = np.ndarray[Any, Any]


def images(count: int = 40, seed: int = 0) -> Array:
    return (2 * np.random.default_rng(seed).normal(size=(count, 3, 9, 9)) + 1).astype(np.float32)


def apply(graph: Graph, text: str, batches: list[Batch] | None = None) -> Result:
    given = [Batch({"x": images()[start : start + 7]}) for start in range(0, 40, 7)] if batches is None else batches
    context = Context(runner=OnnxRuntimeRunner, source=open_source(given) if given else None)
    return run_pipeline(graph, parse_pipeline(text), context)


def norms(graph: Graph) -> list[Any]:
    return [op for op in graph.ops() if op.op_type == "BatchNormalization"]


def array(graph: Graph, value: Any) -> Array:
    tensor = graph.constant(value)
    assert tensor is not None
    return tensor.numpy()


def at(graph: Graph, name: str, feeds: Array) -> Array:
    with OnnxRuntimeRunner(graph, outputs=[name]) as runner:
        return runner.run({"x": feeds})[name]


def two_norms() -> Graph:
    return Net().conv(6).norm().op("Relu").conv(5).norm().done()


@pytest.mark.parametrize("build", [two_norms, lambda: Net().norm().conv(4).done()])
def test_what_comes_out_has_the_mean_and_spread_that_the_norm_says(build: Any) -> None:
    result = apply(build(), "reestimate-batchnorm")
    graph = result.graph
    assert result.report.rewrites == len(norms(graph)) == len(result.report.entries[0].rows)
    assert not result.manifest.exact
    for op in norms(graph):
        out = np.moveaxis(at(graph, op.output.name, images()), 1, -1).reshape(-1, len(array(graph, op.input(1))))
        np.testing.assert_allclose(out.mean(0), array(graph, op.input(2)), atol=1e-3)
        np.testing.assert_allclose(out.std(0), np.abs(array(graph, op.input(1))), rtol=1e-3, atol=1e-4)


def test_right_statistics_stay_and_a_second_run_changes_nothing() -> None:
    once = apply(two_norms(), "reestimate-batchnorm").graph
    twice = apply(once, "reestimate-batchnorm")
    for one, other in zip(norms(once), norms(twice.graph), strict=True):
        for port in (3, 4):
            np.testing.assert_allclose(array(twice.graph, other.input(port)), array(once, one.input(port)), rtol=1e-4)
    assert all(abs(row["shift"]) < 1e-4 for row in twice.report.entries[0].rows)
    thrice = apply(twice.graph, "reestimate-batchnorm")
    assert thrice.report.rewrites <= twice.report.rewrites


def test_batches_weigh_and_those_of_weight_zero_do_not_count() -> None:
    x = images()
    together = apply(two_norms(), "reestimate-batchnorm", [Batch({"x": np.concatenate([x[:10], x[:10], x[10:20]])})])
    apart = apply(
        two_norms(),
        "reestimate-batchnorm",
        [Batch({"x": x[:10]}, weight=2.0), Batch({"x": x[20:]}, weight=0.0), Batch({"x": x[10:20]})],
    )
    for one, other in zip(norms(together.graph), norms(apart.graph), strict=True):
        for port in (3, 4):
            found = array(together.graph, one.input(port)), array(apart.graph, other.input(port))
            np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-5)


def test_a_share_goes_so_far_and_no_further() -> None:
    dense, whole = two_norms(), apply(two_norms(), "reestimate-batchnorm").graph
    part = apply(two_norms(), "reestimate-batchnorm{share=0.25}").graph
    for port in (3, 4):
        old, new, some = (array(graph, norms(graph)[0].input(port)) for graph in (dense, whole, part))
        np.testing.assert_allclose(some, old + 0.25 * (new - old), rtol=1e-5, atol=1e-6)


def test_a_channel_that_does_not_vary_keeps_its_numbers() -> None:
    graph = two_norms()
    value = graph["w"]
    assert value.const is not None
    weight = value.const.numpy().copy()
    weight[2] = 0.0
    value.set_const(Tensor(weight))
    before = [array(graph, norms(graph)[0].input(port)) for port in (3, 4)]
    result = apply(graph, "reestimate-batchnorm")
    after = [array(result.graph, norms(result.graph)[0].input(port)) for port in (3, 4)]
    for old, new in zip(before, after, strict=True):
        assert new[2] == old[2]
        assert not np.isclose(new[[0, 1, 3, 4, 5]], old[[0, 1, 3, 4, 5]], rtol=1e-5).any()
    assert result.report.entries[0].rows[0]["kept"] == 1


def test_it_brings_a_pruned_net_nearer_to_the_dense_one() -> None:
    """A net with true statistics loses a quarter of what its norms hear from, at random, and gets no other repair."""
    net = Net().conv(24).norm().op("Relu").conv(8).norm().op("Relu").conv(4)
    dense = apply(net.done(), "reestimate-batchnorm").graph
    text = "prune{ratio=0.25, align=1, criterion=random, repair=none}"
    pruned = apply(dense, text).graph
    mended = apply(pruned, "reestimate-batchnorm").graph
    unseen = images(40, 1)
    expected = at(dense, dense.outputs[0].name, unseen)
    errors = [np.square(at(one, one.outputs[0].name, unseen) - expected).sum() for one in (pruned, mended)]
    assert errors[1] < 0.6 * errors[0]


def test_without_data_it_is_refused_and_without_norms_there_is_nothing_to_do() -> None:
    with pytest.raises(RefusedError, match="calibration data"):
        apply(two_norms(), "reestimate-batchnorm", [])
    assert apply(Net().conv(4).done(), "reestimate-batchnorm", []).report.rewrites == 0


@pytest.mark.parametrize("options", ["share=0", "share=1.5", "least=-1"])
def test_options_that_make_no_sense_are_refused(options: str) -> None:
    with pytest.raises(Exception, match="must"):
        parse_pipeline(f"reestimate-batchnorm{{{options}}}")
