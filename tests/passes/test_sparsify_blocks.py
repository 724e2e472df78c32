"""Allocations that try whole blocks: BESA by gradients, and coordinate descent without."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from helpers.convolutional import Net
from helpers.sparse_problems import random_rows

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.solvers.column_sweep import column_sweep, factor
from secateur.calib.sources import open_source
from secateur.ir import Graph
from secateur.ir.errors import BackendError, TextError
from secateur.passes.context import Context
from secateur.passes.layers.evidence import Streams
from secateur.passes.layers.problem import Problem
from secateur.passes.manager import Result, run_pipeline
from secateur.passes.pipeline import parse_pipeline
from secateur.passes.sparsify.allocation import besa as besa_module
from secateur.passes.sparsify.allocation import coordinate as coordinate_module
from secateur.passes.sparsify.allocation.row_shares import RowShares
from secateur.passes.sparsify.allocation.trial import Masks, Trial, layer_of
from secateur.passes.sparsify.methods import Methods
from secateur.passes.sparsify.patterns import parse_pattern
from secateur.passes.sparsify.spots import Demands, spots_of

torch = pytest.importorskip("torch")

Array = np.ndarray[Any, Any]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Nets as small as these are slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _images(count: int = 12) -> Array:
    images = np.random.default_rng(1).normal(size=(count, 8, 5, 5)).astype(np.float32)
    images[:, 3:] *= 0.02  # most channels say nothing, so the first layer can lose more than the second
    return images


def _context(**given: Any) -> Context:
    from secateur.backends.torch.tuning import TorchTuner

    source = open_source({"x": _images()}, batch_size=4)
    return Context(**{"runner": OnnxRuntimeRunner, "tuner": TorchTuner, "source": source, **given})


def _net() -> Graph:
    return Net(8, 5).conv(8, kernel=1).op("Relu").conv(8, kernel=1).done()


def _run(graph: Graph, options: str, context: Context | None = None) -> Result:
    pipeline = parse_pipeline(f"sparsify{{{options},criterion=wanda,repair=none,worthwhile=false}}")
    return run_pipeline(graph, pipeline, context or _context())


def _zeros(result: Result) -> list[int]:
    weights = [value.const.numpy() for value in result.graph.constants() if value.const is not None]
    return [int((one == 0).sum()) for one in weights if one.ndim == 4]


def _error(dense: Graph, graph: Graph) -> float:
    """The mean over channels, each relative to its energy."""
    with OnnxRuntimeRunner(dense) as one, OnnxRuntimeRunner(graph) as other:
        feeds = {"x": _images()}
        wanted, found = (next(iter(runner.run(feeds).values())) for runner in (one, other))
    return float(np.mean(np.square(wanted - found).sum((0, 2, 3)) / np.square(wanted).sum((0, 2, 3))))


def _trial(graph: Graph, context: Context, pattern: str = "50%") -> Trial:
    methods, wanted = Methods("magnitude", "none", "none", 0.01, 0), parse_pattern(pattern)
    from secateur.ir.rules.known import Known

    spots = spots_of(Known(graph), Demands(wanted, worthwhile=False), context)
    layers = []
    for spot in spots:
        matrices = spot.fold(spot.use.tensor.numpy()).astype(np.float64)
        random = np.random.default_rng(0)
        problems = [Problem("w", one, None, spot.order, None, spot.channels, random, 0.01) for one in matrices]
        layers.append(layer_of(spot, problems, methods, wanted))
    assert context.source is not None
    return Trial(tuple(layers), Streams.whole(graph, graph, context.source), graph.outputs[0].name, context)


def _full(trial: Trial) -> list[Array]:
    return [np.ones(layer.ranks.shape) for layer in trial.layers]


def test_gradients_at_masks_are_those_of_the_error_that_is_measured() -> None:
    """Kernels of two taps and a matrix that is transposed: what belongs to what is not at once seen."""
    graph = Net(4, 5).conv(4, kernel=2).op("Relu").conv(4, kernel=2, group=2).op("GlobalAveragePool").op("Flatten")
    net = graph.gemm(4, 6, transposed=False).done()
    images = np.random.default_rng(0).normal(size=(6, 4, 5, 5)).astype(np.float32)
    trial = _trial(net, _context(source=open_source({"x": images}, batch_size=6)))
    assert [layer.ranks.shape for layer in trial.layers] == [(1, 64), (2, 16), (1, 24)]
    random = np.random.default_rng(2)
    masks = [random.uniform(0.3, 1.0, one.shape) for one in _full(trial)]
    with trial.measure() as measure, trial.slopes() as slopes:
        assert measure(_full(trial)) < 1e-10
        found = slopes(masks, 0)
        for which, layer in enumerate(trial.layers):
            direction = random.normal(size=layer.ranks.shape)
            ends = []
            for sign in (1, -1):
                moved: Masks = [m + sign * 1e-2 * direction if w == which else m for w, m in enumerate(masks)]
                ends.append(measure(moved))
            np.testing.assert_allclose(float(np.sum(found[which] * direction)), (ends[0] - ends[1]) / 2e-2, rtol=2e-2)


def test_an_output_that_comes_to_nothing_has_an_error_of_one() -> None:
    trial = _trial(Net(8, 5).conv(8, kernel=1, bias=False).done(), _context())
    with trial.measure() as measure:
        np.testing.assert_allclose(measure([np.zeros(one.shape) for one in _full(trial)]), 1.0, rtol=1e-5)


@pytest.mark.parametrize("name", ["besa", "coordinate"])
def test_blocks_have_the_zeros_that_are_asked_for_where_they_hurt_least(name: str) -> None:
    net = _net()
    for share in (50, 75):
        even, found = (_run(net, f"pattern={share}%,allocation={one}") for one in ("uniform", name))
        zeros = _zeros(found)
        assert sum(zeros) == 128 * share // 100
        assert zeros[0] > zeros[1]
        assert _error(net, found.graph) < _error(net, even.graph)


@pytest.mark.parametrize("name", ["besa", "coordinate", "closed-form"])
def test_the_same_comes_out_each_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(besa_module, "STEPS", 5)
    monkeypatch.setattr(coordinate_module, "TRIES", 5)
    one, other = (_run(_net(), f"pattern=40%,scope=row,allocation={name}") for _ in range(2))
    for value in one.graph.constants():
        assert value.const is not None
        twin = other.graph[value.name].const
        assert twin is not None
        np.testing.assert_array_equal(value.const.numpy(), twin.numpy())
    # Shares of rows are cut down to whole weights in each.
    assert sum(_zeros(one)) <= 128 * 0.4


@pytest.mark.parametrize("name", ["besa", "coordinate", "closed-form"])
def test_some_layers_stay_dense(name: str) -> None:
    """Of two layers one may have 2:4: that which hardly adds to what comes out."""
    net = _net()
    for value in net.constants():
        if value.name == "w" and value.const is not None:
            weight = value.const.numpy().copy()
            weight[:, 1::2] *= 1e-3  # 2:4 takes nothing that counts
            value.set_const(type(value.const)(weight, value.const.dtype))
    found = _run(net, f"pattern=2:4,allocation={name}:25%")
    assert _zeros(found) == [32, 0]
    everything = _run(net, f"pattern=2:4,allocation={name}:50%")
    assert _zeros(everything) == [32, 32]


@pytest.mark.parametrize("name", ["besa", "coordinate"])
def test_a_model_may_be_one_block(name: str) -> None:
    """Four layers are two blocks, each with its half of zeros; as one, they share."""
    net = Net(8, 5).conv(8, kernel=1).op("Relu").conv(8, kernel=1).op("Relu").conv(8, kernel=1).op("Relu")
    done = net.conv(8, kernel=1).done()
    blocks = _run(done, f"pattern=50%,allocation={name}")
    assert (sum(_zeros(blocks)[:2]), sum(_zeros(blocks)[2:])) == (64, 64)
    whole = _run(done, f"pattern=50%,allocation={name}:model")
    assert sum(_zeros(whole)) == 128
    assert sum(_zeros(whole)[:2]) != 64
    if name == "coordinate":  # what it tries begins with even shares, and only gets better
        assert _error(done, whole.graph) < _error(done, _run(done, "pattern=50%,allocation=uniform").graph)
    chosen = _zeros(_run(done, f"pattern=2:4,allocation={name}:model+25%"))
    assert sorted(chosen) == [0, 0, 32, 32]


def test_besa_says_what_it_needs() -> None:
    with pytest.raises(BackendError, match="gradients"):
        _run(_net(), "pattern=50%,allocation=besa", _context(tuner=None))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("pattern=2:4,allocation=besa", "besa:25%"),
        ("pattern=2:4,allocation=coordinate:60%", "50%"),
        ("pattern=50%,allocation=closed-form:30%", "says how many"),
        ("pattern=96%,allocation=besa", "95%"),
        ("pattern=2:4,allocation=besa:half", "30%"),
        ("pattern=50%,allocation=coordinate:rows", "30% or model"),
        ("pattern=50%,allocation=coordinate,max_error=0.1", "allocation=budget"),
    ],
)
def test_targets_that_make_no_sense_are_refused(options: str, words: str) -> None:
    with pytest.raises(TextError, match=words):
        parse_pipeline(f"sparsify{{{options}}}")


def test_outputs_may_have_shares_of_their_own() -> None:
    """Of one output all weights are alike; another has few that count, and loses more."""
    net = _net()
    for value in net.constants():
        if value.name == "w_2" and value.const is not None:
            weight = value.const.numpy().copy()
            weight[:4, 2:] *= 1e-2
            value.set_const(type(value.const)(weight, value.const.dtype))
    result = _run(net, "pattern=70%,scope=row,allocation=besa:rows")
    assert sum(_zeros(result)) == int(0.7 * 128)
    last = result.graph["w_2"].const
    assert last is not None
    gone = (last.numpy() == 0).sum((1, 2, 3))
    assert gone[:4].sum() > gone[4:].sum()
    even = _run(net, "pattern=70%,scope=row,allocation=uniform")
    assert _error(net, result.graph) < _error(net, even.graph)
    with pytest.raises(TextError, match="scope=row"):
        parse_pipeline("sparsify{pattern=50%,allocation=besa:rows}")


@pytest.mark.parametrize("seed", range(5))
def test_rows_lose_what_they_are_to_lose(seed: int) -> None:
    random = np.random.default_rng(seed)
    saliency = random.integers(0, 4, (5, 12)).astype(float)
    gone = tuple(random.integers(0, 12, 5).tolist())
    pattern = RowShares(gone, 12)
    mask = pattern.mask(saliency)
    for row, count, stays in zip(saliency, gone, mask, strict=True):
        wanted = sorted(range(12), key=lambda place: (-row[place], place))[: 12 - count]
        assert sorted(wanted) == np.flatnonzero(stays).tolist()
    assert pattern.holds(mask * 1.0)
    assert not RowShares(tuple(max(one, 11) for one in gone), 12).holds(np.ones((5, 12)))
    weight, rows = random.normal(size=(5, 12)), random_rows(seed, 40, 12)
    swept = column_sweep(weight, factor(rows.T @ rows), pattern.choose(), block=4)
    np.testing.assert_array_equal((~swept.mask).sum(axis=1), gone)
