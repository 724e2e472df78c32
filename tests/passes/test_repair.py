"""Repairs: their identities, what they do with data that shows little, and what they are worth through the pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from helpers.brain_surgery import remove_columns
from helpers.convolutional import Net
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.gram import Gram
from secateur.calib.sources import open_source
from secateur.ir import Graph, Tensor
from secateur.ir.build import add_constant, add_input, emit
from secateur.ir.errors import RefusedError
from secateur.passes.context import Context
from secateur.passes.layers.evidence import Evidence
from secateur.passes.layers.rows import Rows
from secateur.passes.manager import Result, run_pipeline
from secateur.passes.pipeline import parse_pipeline
from secateur.passes.prune.problem import Layer, Problem
from secateur.passes.prune.repair import REPAIRS, Repaired

Array = np.ndarray[Any, Any]
WITH_DATA = ("bias", "fold", "least-squares", "none", "obs", "relu-aware")
KEPT = np.array([0, 2, 3, 5])
GONE = np.array([1, 4])


def gram(x: Array, y: Array) -> Gram:
    found = Gram(x.shape[1], y.shape[1])
    if len(x):
        found.update(x, y)
    return found


def layer_of(
    x: Array, matrix: Array, *, bias: bool = True, y: Array | None = None, held: int = 0, clip: bool = False
) -> Layer:
    """A layer that was calibrated on rows; the last `held` of them judge. The target is its own output unless given."""
    shift = np.arange(len(matrix), dtype=float) if bias else None
    target = x @ matrix.T + (0.0 if shift is None else shift) if y is None else y
    cut = len(x) - held
    samples = Rows(1000, (0,)), Rows(1000, (1,))
    samples[0].update(x[:cut], target[:cut])
    if held:
        samples[1].update(x[cut:], target[cut:])
    evidence = Evidence(gram(x[:cut], target[:cut]), gram(x[cut:], target[cut:]), *samples)
    return Layer(matrix, shift, np.arange(x.shape[1]), evidence, (0.0, math.inf) if clip else None)


def mend(way: str, layer: Layer, kept: Array = KEPT, damping: float = 0.01) -> Repaired:
    problem = Problem(len(layer.unit), (layer,), (), (), np.random.default_rng(0), damping)
    return REPAIRS[way](problem, layer, kept)


def rows(seed: int, count: int = 80) -> tuple[Array, Array]:
    """Correlated inputs [count, 6] far from zero, and a matrix [3, 6]."""
    random = np.random.default_rng(seed)
    mix = np.eye(6) + 0.5 * random.normal(size=(6, 6))
    return random.normal(size=(count, 6)) @ mix + random.normal(size=6), random.normal(size=(3, 6))


def output(one: Repaired, x: Array) -> Array:
    result: Array = x @ one.matrix.T + (0.0 if one.bias is None else one.bias)
    return result


def error(layer: Layer, one: Repaired, x: Array) -> float:
    old = x @ layer.matrix.T + (0.0 if layer.bias is None else layer.bias)
    return float(np.sum(np.square(output(one, x) - old)))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-4, 0.01, 1.0]))
def test_brain_surgery_in_any_order_is_the_obs_repair(seed: int, damping: float) -> None:
    x, matrix = rows(seed)
    layer = layer_of(x, matrix, bias=False)
    xx = layer.seen.fit.raw().xx
    ridge = damping * np.mean(xx.diagonal()[KEPT])
    for order in permutations(GONE):
        weight, inverse = matrix, np.linalg.inv(xx + ridge * np.eye(6))
        for column in order:
            weight, inverse = remove_columns(weight, inverse, [column])
        np.testing.assert_allclose(mend("obs", layer, damping=damping).matrix, weight, rtol=1e-9, atol=1e-9)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_folding_is_the_refit_on_what_is_left(seed: int) -> None:
    """Where the target is the layer's own output, T folded in and its means are plain least squares."""
    x, matrix = rows(seed)
    layer = layer_of(x, matrix)
    found = mend("fold", layer, damping=0.0)
    expected = np.linalg.lstsq(np.c_[x[:, KEPT], np.ones(len(x))], x @ matrix.T + layer.bias)[0]
    np.testing.assert_allclose(found.matrix[:, KEPT].T, expected[:-1], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(found.bias, expected[-1], rtol=1e-8, atol=1e-8)
    refit = mend("least-squares", layer, damping=0.0)
    np.testing.assert_allclose(refit.matrix, found.matrix, atol=1e-8)


def test_the_bias_takes_up_the_means() -> None:
    x, matrix = rows(1)
    layer = layer_of(x, matrix)
    found = mend("bias", layer)
    assert found.bias is not None
    assert np.array_equal(found.matrix[:, KEPT], matrix[:, KEPT])
    np.testing.assert_allclose(output(found, x).mean(0), (x @ matrix.T + layer.bias).mean(0))
    # What is left is the variance of what went (FLAP's fluctuation).
    expected = np.sum(np.square((x - x.mean(0))[:, GONE] @ matrix[:, GONE].T))
    assert error(layer, found, x) == pytest.approx(expected)


@pytest.mark.parametrize("way", ["fold", "least-squares", "obs"])
def test_a_duplicate_goes_at_no_cost_and_its_twin_takes_over(way: str) -> None:
    x, matrix = rows(2)
    x[:, 1], x[:, 4] = x[:, 0], x[:, 2] - x[:, 5]
    layer = layer_of(x, matrix, held=20)
    found = mend(way, layer, damping=1e-9)
    assert error(layer, found, x) < 1e-6 * np.sum(np.square(x @ matrix.T))
    np.testing.assert_allclose(found.matrix[:, 0], matrix[:, 0] + matrix[:, 1], atol=1e-4)


@pytest.mark.parametrize("way", WITH_DATA)
@pytest.mark.parametrize("bias", [True, False])
def test_keeping_everything_changes_nothing(way: str, bias: bool) -> None:
    x, matrix = rows(3)
    layer = layer_of(x, matrix, bias=bias, held=20, clip=True)
    found = mend(way, layer, np.arange(6))
    np.testing.assert_allclose(found.matrix, matrix, atol=1e-9)
    assert found.bias is layer.bias or np.allclose(found.bias, layer.bias)


@pytest.mark.parametrize("way", [*WITH_DATA, "merge", "neuron-merging"])
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([0.0, 3.0]))
def test_it_is_never_worse_on_what_was_held_out(way: str, seed: int, bias: bool, drift: float) -> None:
    x, matrix = rows(seed, 30)
    random = np.random.default_rng(seed)
    x[20:] += drift * random.normal(size=6)  # what judges comes from elsewhere
    layer = layer_of(x, matrix, bias=bias, held=10, y=x @ matrix.T + drift * random.normal(size=(30, 3)))
    found = mend(way, layer)
    assert found.error is not None and found.unrepaired is not None
    assert found.error <= found.unrepaired * (1 + 1e-12)
    assert not found.matrix[:, GONE].any()


@pytest.mark.parametrize("held", [0, 20])
@pytest.mark.parametrize("bias", [True, False])
def test_what_the_data_does_not_show_stays_as_it_was(held: int, bias: bool) -> None:
    """Inputs of rank 3: of the four that stay, some directions are never seen."""
    random = np.random.default_rng(4)
    x = random.normal(size=(80, 3)) @ random.normal(size=(3, 6))
    x[:, 5] = 0.0
    matrix = random.normal(size=(3, 6))
    found = mend("least-squares", layer_of(x, matrix, bias=bias, held=held))
    assert np.array_equal(found.matrix[:, 5], matrix[:, 5])
    unseen = np.linalg.svd(x[:, KEPT[:-1]] - (x.mean(0)[KEPT[:-1]] if bias else 0))[2][3:]
    change = (found.matrix - matrix)[:, KEPT[:-1]]
    np.testing.assert_allclose(change @ unseen.T, 0.0, atol=1e-9)
    assert np.abs(change).max() > 1e-3


def test_narrow_data_does_not_wreck_what_is_elsewhere() -> None:
    """Calibrated where two directions hardly vary, judged everywhere: plain least squares does harm, the repair none.

    What was held out is as narrow as what was fitted.
    """
    better = []
    for seed in range(20):
        random = np.random.default_rng(seed)
        x = random.normal(size=(90, 12)) * np.r_[np.ones(4), np.full(8, 0.05)]
        matrix, everywhere = random.normal(size=(4, 12)), random.normal(size=(500, 12))
        x[:, 8:] += 0.02 * random.normal(size=(90, 4))
        y = x @ matrix.T + np.arange(4) + 0.3 * random.normal(size=(90, 4))
        layer, kept = layer_of(x, matrix, y=y, held=30), np.arange(2, 12)
        exact = np.linalg.lstsq(np.c_[x[:60, kept], np.ones(60)], y[:60])[0]
        plain = Repaired(np.c_[np.zeros((4, 2)), exact[:-1].T], exact[-1])
        found, untouched = mend("least-squares", layer, kept), mend("none", layer, kept)
        assert error(layer, found, everywhere) < 1.1 * error(layer, untouched, everywhere)
        better.append(error(layer, plain, everywhere) / error(layer, found, everywhere))
    assert np.median(better) > 2


def test_it_fits_the_target_of_the_dense_model_not_its_own_output() -> None:
    """A shortcut that has drifted: with the corrected target the sum is nearer to that of the dense model."""
    x, matrix = rows(5)
    drift = 0.7 * x[:, :3] - 1.0
    own, corrected = layer_of(x, matrix), layer_of(x, matrix, y=x @ matrix.T + np.arange(3) + drift)

    def on_the_trunk(layer: Layer, way: str) -> float:
        found = mend(way, layer, damping=1e-6)
        return float(np.sum(np.square(output(found, x) - (x @ matrix.T + np.arange(3) + drift))))

    assert on_the_trunk(corrected, "least-squares") < 0.5 * on_the_trunk(own, "least-squares")
    same = layer_of(x, matrix, y=x @ matrix.T + np.arange(3))
    assert np.array_equal(mend("least-squares", same).matrix, mend("least-squares", own).matrix)


def test_features_that_span_the_target_leave_nothing() -> None:
    x, matrix = rows(6)
    y = x[:, KEPT] @ np.ones((4, 3)) + 2.0
    found = mend("least-squares", layer_of(x, matrix, y=y, held=20), damping=1e-9)
    assert found.error is not None and found.error < 1e-8


def test_behind_a_relu_it_does_better_than_least_squares() -> None:
    random = np.random.default_rng(0)
    x, matrix = random.normal(size=(2000, 6)), random.normal(size=(3, 6))
    y = x[:, KEPT] @ matrix[:, KEPT].T + 3 * np.minimum(x[:, GONE] @ matrix[:, GONE].T, 0) - 0.5
    layer = layer_of(x, matrix, y=y, held=400, clip=True)

    def behind(one: Repaired) -> float:
        return float(np.sum(np.square(np.maximum(output(one, x), 0) - np.maximum(y, 0))))

    aware, plain = mend("relu-aware", layer), mend("least-squares", layer)
    assert not aware.note
    assert behind(aware) < 0.95 * behind(plain)
    elsewhere = mend("relu-aware", replace(layer, clip=None))
    assert "no Relu" in elsewhere.note
    assert np.array_equal(elsewhere.matrix, plain.matrix)


# Through the pass.

PADS = [1, 1, 1, 1]


def compress(graph: Graph, text: str, feeds: dict[str, Array] | None = None) -> Result:
    source = None if feeds is None else open_source(feeds, batch_size=8)
    return run_pipeline(graph, parse_pipeline(text), Context(runner=OnnxRuntimeRunner, source=source))


def images(count: int, seed: int) -> dict[str, Array]:
    return {"x": np.random.default_rng(seed).normal(size=(count, 3, 9, 9)).astype(np.float32)}


def run(graph: Graph, feeds: dict[str, Array]) -> Array:
    with OnnxRuntimeRunner(graph) as runner:
        return next(iter(runner.run(feeds).values()))


def twins(net: Net, share: float, names: tuple[str, ...] = ("w", "w_1")) -> Graph:
    """Channel 1 of the first layer becomes `share` times channel 0, before the activation."""
    graph = net.done()
    for name in names:
        value = graph[name]
        assert value.const is not None
        array = value.const.numpy().copy()
        array[1] = share * array[0]
        value.set_const(Tensor(array))
    return graph


def chain(*, norm: bool = False, activation: str = "Relu", kernel: int = 3) -> Net:
    net = Net().conv(6, pads=PADS)
    return (net.norm() if norm else net).op(activation).conv(4, kernel, pads=[kernel // 2] * 4)


@pytest.mark.parametrize("way", ["merge", "neuron-merging"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_positive_multiple_goes_through_a_relu_unharmed(tmp_path: Any, way: str, kernel: int) -> None:
    graph = twins(chain(kernel=kernel), 0.5)
    units = tmp_path / "units.json"
    units.write_text('{"w:0": [0, 2, 3, 4, 5]}')
    result = compress(graph, f"prune{{units={units}, repair={way}, criterion=magnitude}}")
    expected, plain = run(graph, images(4, 0)), compress(graph, f"prune{{units={units}}}").graph
    left = np.abs(run(result.graph, images(4, 0)) - expected).max()
    assert left < (1e-5 if way == "neuron-merging" else 0.05) * np.abs(expected).max()
    assert left < 0.1 * np.abs(run(plain, images(4, 0)) - expected).max()
    assert not result.manifest.exact
    assert any("repaired from weights" in note for note in result.report.entries[0].notes)


def test_a_normalisation_between_is_part_of_the_map(tmp_path: Any) -> None:
    """Channel 1 is a positive multiple of channel 0 only once the norm is counted in."""
    graph = twins(chain(norm=True), 1.0)
    gamma, beta, mean, variance = (graph[name].const for name in ("w_2", "w_3", "w_4", "var"))
    assert gamma is not None and beta is not None and mean is not None and variance is not None
    factor = np.abs(gamma.numpy()) / np.sqrt(variance.numpy() + 1e-5)
    shift = beta.numpy() - mean.numpy() * factor
    shift[1] = shift[0] * factor[1] / factor[0]
    graph["w_2"].set_const(Tensor(np.abs(gamma.numpy())))
    graph["w_3"].set_const(Tensor((shift + mean.numpy() * factor).astype(np.float32)))
    units = tmp_path / "units.json"
    units.write_text('{"w:0": [0, 2, 3, 4, 5]}')
    result = compress(graph, f"prune{{units={units}, repair=neuron-merging, criterion=magnitude}}")
    np.testing.assert_allclose(run(result.graph, images(4, 0)), run(graph, images(4, 0)), rtol=1e-4, atol=1e-4)


def test_combinations_are_exact_without_an_activation() -> None:
    graph = Net().conv(6, pads=PADS).conv(4, 1).done()
    for name in ("w", "w_1"):
        value = graph[name]
        assert value.const is not None
        array = value.const.numpy().copy()
        array[4:] = 0.3 * np.einsum("ij,j...->i...", np.array([[1, -2, 0, 1], [0, 1, 1, -1.0]], np.float32), array[:4])
        value.set_const(Tensor(array))
    result = compress(graph, "prune{ratio=0.34, align=1, repair=merge, criterion=magnitude}")
    assert result.manifest.kept["w"][0].tolist() == [0, 1, 2, 3]
    dense, found = run(graph, images(4, 0)), run(result.graph, images(4, 0))
    assert np.abs(found - dense).max() < 0.03 * np.abs(dense).max(), "but for the ridge"


def test_what_cannot_be_merged_says_why() -> None:
    graph = Net().conv(8, 1).op("Relu").conv(8, 3, group=8).op("Relu").conv(5, 1).done()
    result = compress(graph, "prune{ratio=0.5, align=1, repair=merge, criterion=magnitude}")
    assert any("not merged" in note for note in result.report.entries[0].notes)
    assert result.report.rewrites == 1


@pytest.mark.parametrize("way", ["bias", "fold", "least-squares", "obs", "relu-aware"])
def test_without_data_it_is_refused(way: str) -> None:
    with pytest.raises(RefusedError, match="calibration data"):
        compress(chain().done(), f"prune{{repair={way}}}")


def clipped(net: Net, low: float, high: float) -> Net:
    bounds = [add_constant(net.graph, "bound", np.float32(bound)) for bound in (low, high)]
    return net.op("Clip", *bounds)


@pytest.mark.parametrize(
    ("build", "is_seen"),
    [
        (lambda net: net.op("Relu"), True),
        (lambda net: clipped(net, 0.0, 6.0), True),
        (lambda net: clipped(net, -1.0, 1.0), False),
        (lambda net: net.op("Sigmoid"), False),
        (lambda net: net, False),
    ],
)
def test_the_relu_behind_a_layer_is_seen(build: Callable[[Net], Net], is_seen: bool) -> None:
    graph = build(Net().conv(6).op("Relu").conv(4)).done()
    notes = compress(graph, "prune{ratio=0.5, align=1, repair=relu-aware}", images(40, 1)).report.entries[0].notes
    assert any("no Relu" in note for note in notes) != is_seen


def transformer_layer() -> Graph:
    """x + FFN(x) with MatMul and Add, as exporters write it."""
    random, graph = np.random.default_rng(0), Graph("ffn")

    def weight(*shape: int) -> Any:
        return add_constant(graph, "w", (random.normal(size=shape) / 3).astype(np.float32))

    x = add_input(graph, "x", ["n", 5, 8])
    hidden = emit(graph, "Add", [emit(graph, "MatMul", [x, weight(8, 16)]).output, weight(16)]).output
    read = emit(graph, "MatMul", [emit(graph, "Relu", [hidden]).output, weight(16, 8)]).output
    biased = emit(graph, "Add", [read, weight(8)]).output
    graph.set_interface(outputs=[emit(graph, "Add", [x, biased]).output])
    graph.verify()
    return graph


def test_a_product_has_its_bias_in_the_sum_behind_it() -> None:
    graph = transformer_layer()
    feeds = {"x": np.random.default_rng(1).normal(size=(60, 5, 8)).astype(np.float32)}
    unseen = {"x": np.random.default_rng(2).normal(size=(60, 5, 8)).astype(np.float32)}
    dense = run(graph, unseen)
    errors = {}
    for way in ("none", "bias", "least-squares"):
        text = f"prune{{ratio=0.5, align=1, criterion=magnitude, repair={way}}}"
        pruned = compress(graph, text, feeds).graph
        errors[way] = float(np.square(run(pruned, unseen) - dense).sum())
        assert len(pruned.ops()) == len(graph.ops())
    assert errors["least-squares"] < errors["bias"] < errors["none"]
