"""Low rank: the solver's identities, and that two ops compute what their product does."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.convolutional import Net
from helpers.zoo import random_feeds, zoo

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.batches import Batch
from secateur.calib.solvers.low_rank import spatial_factors, spatial_spectrum, spectrum
from secateur.calib.sources import open_source
from secateur.ir import Graph
from secateur.ir.rules.known import Known
from secateur.ir.rules.weights import weight_uses
from secateur.passes.context import Context
from secateur.passes.factorize.layouts import LAYOUTS
from secateur.passes.factorize.rewrite import split_layer
from secateur.passes.layers.evidence import Streams, gather
from secateur.passes.layers.matrix import write_layer
from secateur.passes.manager import Result, run_pipeline
from secateur.passes.pipeline import parse_pipeline


def _layer(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    rows = random.normal(size=(200, 12)) @ random.normal(size=(12, 12))
    return rows, random.normal(size=(7, 12))


def test_the_error_is_the_energy_that_is_left_out_and_none_at_full_rank() -> None:
    rows, weight = _layer()
    found = spectrum(rows.T @ rows, weight.T)
    assert (np.diff(found.energy) <= 1e-9 * found.energy[0]).all()
    for rank in range(1, 8):
        up, down = found.factors(rank)
        error = np.sum((rows @ (up @ down - weight).T) ** 2)
        np.testing.assert_allclose(error, found.energy[rank:].sum(), rtol=1e-9, atol=1e-8 * found.energy[0])


def test_it_equals_the_whitened_decomposition_and_beats_the_plain_one() -> None:
    rows, weight = _layer()
    gram = rows.T @ rows
    up, down = spectrum(gram, weight.T).factors(3)
    root = np.linalg.cholesky(gram)
    left, values, right = np.linalg.svd(weight @ root, full_matrices=False)
    whitened = left[:, :3] * values[:3] @ right[:3] @ np.linalg.inv(root)
    np.testing.assert_allclose(up @ down, whitened, atol=1e-8)
    left, values, right = np.linalg.svd(weight, full_matrices=False)
    plain = left[:, :3] * values[:3] @ right[:3]
    assert np.sum((rows @ (up @ down - weight).T) ** 2) < np.sum((rows @ (plain - weight).T) ** 2)


def test_without_data_it_is_the_plain_decomposition() -> None:
    _, weight = _layer()
    up, down = spectrum(np.eye(12), weight.T).factors(4)
    left, values, right = np.linalg.svd(weight, full_matrices=False)
    np.testing.assert_allclose(up @ down, left[:, :4] * values[:4] @ right[:4], atol=1e-10)


def test_columns_and_rows_give_a_kernel_back_and_err_by_what_is_left_out() -> None:
    weight = np.random.default_rng(0).normal(size=(6, 4, 3, 5))
    energy = spatial_spectrum(weight)
    for rank in (1, 5, 12):
        vertical, horizontal = spatial_factors(weight, rank)
        product = np.einsum("nrow,rchi->nchw", horizontal, vertical)
        np.testing.assert_allclose(np.sum((product - weight) ** 2), energy[rank:].sum(), atol=1e-9)


def _net() -> Graph:
    net = Net().conv(20, pads=[1, 0, 1, 2], strides=[1, 2], dilations=[2, 1]).op("Relu").conv(24, pads=[1, 1, 1, 1])
    return net.op("GlobalAveragePool").op("Flatten").gemm(24, 18, True).gemm(18, 18, False).done()


class _Images:
    name = "images"

    def __iter__(self):
        random = np.random.default_rng(0)
        return iter([Batch({"x": random.normal(size=(40, 3, 9, 9)).astype(np.float32)}) for _ in range(3)])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("data", [True, False])
@pytest.mark.parametrize("make", [_net, lambda: zoo("small")["gpt2"](), lambda: zoo("small")["bert-opset17"]()])
def test_two_ops_compute_what_their_product_does(layout: str, data: bool, make) -> None:
    whole, split = make(), make()
    feeds = random_feeds(whole)
    context = Context(runner=OnnxRuntimeRunner, source=_Images() if "x" in feeds else None)
    done = 0
    for one, other in zip(weight_uses(Known(whole)), weight_uses(Known(split)), strict=True):
        if LAYOUTS[layout].refusal(one) or one.groups > 1 or len(split.consumers(other.weight)) > 1:
            continue
        evidence = None
        if data and context.source is not None:
            (evidence,) = gather(Streams.whole(whole, whole, context.source), [one], context, 16)
        factors = LAYOUTS[layout].factors(one, 3, evidence, 0.01)
        write_layer(whole, one, factors.matrix, factors.bias)
        split_layer(split, other, factors)
        done += 1
    split.verify()
    assert done or layout == "spatial"
    with OnnxRuntimeRunner(whole) as here, OnnxRuntimeRunner(split) as there:
        for name, expected in here.run(feeds).items():
            np.testing.assert_allclose(there.run(feeds)[name], expected, rtol=1e-3, atol=1e-4)


def _size(graph: Graph) -> int:
    return sum(value.const.size for value in graph.constants() if value.const is not None)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_data_makes_it_better_and_the_share_that_goes_is_the_one_asked_for(layout: str) -> None:
    dense, errors = Net().conv(48, pads=[1, 1, 1, 1]).op("Relu").conv(48, pads=[1, 1, 1, 1]).done(), []
    with OnnxRuntimeRunner(dense) as runner:
        batch = next(iter(_Images())).feeds
        (wanted,) = runner.run(batch).values()
    for source in (None, _Images()):
        text = f"factorize{{ratio=0.5, align=1, layout={layout}}}"
        result = run_pipeline(dense, parse_pipeline(text), Context(runner=OnnxRuntimeRunner, source=source))
        with OnnxRuntimeRunner(result.graph) as runner:
            (found,) = runner.run(batch).values()
        errors.append(float(np.square(found - wanted).sum()))
        before, after = (_size(graph) for graph in (dense, result.graph))
        assert 0.4 * before < after < 0.53 * before
    assert errors[1] < errors[0]


def test_a_layer_that_would_hardly_gain_stays_whole_and_is_named() -> None:
    result = run_pipeline(_net(), parse_pipeline("factorize{ratio=0.1}"), Context(runner=OnnxRuntimeRunner))
    entry = result.report.entries[0]
    assert not entry.rows
    assert any("stays whole: rank" in note for note in entry.notes)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_relu_behind_is_fitted_through(layout: str) -> None:
    """Behind the Relu it errs less on other data; where none follows, nothing changes."""

    def images(seed: int) -> dict[str, np.ndarray]:
        return {"x": np.random.default_rng(seed).normal(size=(60, 3, 9, 9)).astype(np.float32)}

    def outputs(graph: Graph) -> np.ndarray:
        with OnnxRuntimeRunner(graph) as runner:
            return next(iter(runner.run(images(5)).values()))

    errors, same = {}, []
    for fit in ("linear", "relu-aware"):
        text = f"factorize{{ratio=0.6, align=1, layout={layout}, fit={fit}}}"
        for net in (Net().conv(24, 3, pads=[1, 1, 1, 1]).op("Relu"), Net().conv(24, 3, pads=[1, 1, 1, 1])):
            graph = net.done()
            source = open_source(images(0), batch_size=20)
            result = run_pipeline(graph, parse_pipeline(text), Context(runner=OnnxRuntimeRunner, source=source))
            if graph.ops()[-1].op_type == "Relu":
                errors[fit] = float(np.square(outputs(result.graph) - outputs(graph)).sum())
                assert all(row.get("behind_relu") is (True if fit == "relu-aware" else None) for row in _rows(result))
            else:
                same.append(str(result.graph))
    assert errors["relu-aware"] < 0.98 * errors["linear"]
    assert same[0] == same[1]


def _rows(result: Result) -> list[dict[str, object]]:
    rows = result.report.entries[0].rows
    assert rows
    return [dict(row) for row in rows]
