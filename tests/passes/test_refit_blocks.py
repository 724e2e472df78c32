"""Refitting blocks: what least squares says where that knows the answer, never worse, and zeros stay zero."""

from __future__ import annotations

import importlib
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
from helpers.graphs import Net
from helpers.zoo import random_feeds, zoo

import secateur
from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.backends.torch import lazy
from secateur.backends.torch.tuning import TorchTuner
from secateur.calib.batches import Batch
from secateur.calib.sources import open_source
from secateur.ir import DataType, Graph, Tensor
from secateur.ir.errors import BackendError, DataError, RefusedError
from secateur.ir.rules.weights import weight_uses
from secateur.ir.runner import Example
from secateur.passes.cleanup.shapes import known
from secateur.passes.context import Context
from secateur.passes.layers.evidence import HELD_OUT
from secateur.passes.manager import Result, run_pipeline
from secateur.passes.pipeline import parse_pipeline
from secateur.passes.refit.blocks import step_samples
from secateur.passes.refit.parts import SPARSE, shared_parts, weights_of
from secateur.passes.refit.split import Split

_RUNNER = partial(OnnxRuntimeRunner, optimize=False, threads=1)
PRUNE = "prune{ratio=0.5,criterion=magnitude,repair=none,align=1}"


def _context(feeds: list[dict[str, np.ndarray]], original: Graph | None = None) -> Context:
    source = open_source([Batch(one) for one in feeds])
    return Context(runner=_RUNNER, tuner=TorchTuner, source=source, original=original, seed=5)


def _mlp() -> Graph:
    """Two residual blocks of two layers each, in which only the neurons can go."""
    net = Net("mlp", seed=1)
    value = net.op("MatMul", net.input("x", "samples", 8), net.weight("stem", 8, 16), to="trunk0")
    for at in (1, 2):
        hidden = net.op("MatMul", value, net.weight(f"up{at}", 16, 32))
        hidden = net.op("Relu", net.op("Add", hidden, net.weight(f"bias{at}", 32)))
        value = net.op("Add", value, net.op("MatMul", hidden, net.weight(f"down{at}", 32, 16)), to=f"trunk{at}")
    return net.done((net.op("MatMul", value, net.weight("head", 16, 4), to="y"), ("samples", 4)))


def _feeds(count: int = 4, samples: int = 50) -> list[dict[str, np.ndarray]]:
    return [{"x": np.random.default_rng(seed).normal(size=(samples, 8)).astype(np.float32)} for seed in range(count)]


@cache
def _refitted(options: str = "", first: str = PRUNE) -> Result:
    pipeline = f"{first},refit-blocks{{steps=30,rate=0.03{options}}}"
    return run_pipeline(_mlp(), parse_pipeline(pipeline), _context(_feeds()))


def _weights(graph: Graph) -> dict[str, np.ndarray]:
    return {value.name: value.const.numpy() for value in graph.constants() if value.const is not None}


@pytest.mark.parametrize(("dtype", "slack"), [(DataType.FLOAT32, 1.05), (DataType.FLOAT16, 1.1)])
def test_a_masked_layer_comes_to_its_least_squares(dtype: DataType, slack: float) -> None:
    net, random = Net("linear"), np.random.default_rng(2)
    given = net.constant("w", random.normal(size=(12, 6)).astype(dtype.numpy))
    made = net.op("MatMul", net.input("x", "n", 12, dtype=dtype), given, to="y")
    dense = net.done((made, ("n", 6)), dtype=dtype)
    x = (random.normal(size=(400, 12)) @ random.normal(size=(12, 12)) / 3).astype(dtype.numpy)
    weight = _weights(dense)["w"]
    mask = random.random(weight.shape) < 0.5
    present = dense.clone()
    present["w"].set_const(Tensor(weight * mask))
    one = parse_pipeline("refit-blocks{steps=150,rate=0.05,batch_size=64}")
    done = run_pipeline(present, one, _context([{"x": x[at : at + 100]} for at in range(0, 400, 100)], dense))

    held_out = np.arange(400) % HELD_OUT == HELD_OUT - 1
    x, weight = x.astype(np.float64), weight.astype(np.float64)
    best = np.zeros_like(weight)
    for column in range(6):
        rows = mask[:, column]
        best[rows, column] = np.linalg.lstsq(x[~held_out][:, rows], x[~held_out] @ weight[:, column], rcond=None)[0]

    def error(found: np.ndarray) -> float:
        return float(np.square(x[held_out] @ (found - weight)).mean())

    found = _weights(done.graph)["w"]
    assert error(weight * mask) > 1.5 * error(best), "or there is nothing to win"
    assert error(found) <= slack * error(best)
    assert not found[~mask].any()


@pytest.mark.parametrize("options", ["", ",span=2", ",span=0", ",augment=1"])
def test_held_out_errors_fall_and_are_those_of_the_models(options: str) -> None:
    done = _refitted(options)
    rows = done.report.entries[-1].rows
    assert len(rows) == {"": 4, ",span=2": 2, ",span=0": 1, ",augment=1": 4}[options]
    assert all(row["after"] <= row["before"] for row in rows)
    assert rows[-1]["before"] > 0.01 and min(row["after"] / (row["before"] or 1.0) for row in rows) < 0.7
    assert done.report.entries[-1].rewrites == sum(row["after"] < row["before"] for row in rows)
    assert not done.manifest.exact
    # The last block ends with the output, so that both models say what its error is.
    x = np.concatenate([one["x"] for one in _feeds()])
    held_out = x[np.arange(len(x)) % HELD_OUT == HELD_OUT - 1]
    with _RUNNER(_mlp()) as dense, _RUNNER(done.graph) as present:
        wanted, found = dense.run({"x": held_out})["y"], present.run({"x": held_out})["y"]
    assert rows[-1]["block"] == "y"
    np.testing.assert_allclose(rows[-1]["after"], np.square(found - wanted).mean() / wanted.var(), rtol=1e-3)


def test_what_does_not_help_is_not_taken() -> None:
    pipeline = f"{PRUNE},refit-blocks{{steps=10,rate=1e9}}"
    done = run_pipeline(_mlp(), parse_pipeline(pipeline), _context(_feeds()))
    pruned = run_pipeline(_mlp(), parse_pipeline(PRUNE), _context(_feeds()))
    assert [row["after"] == row["before"] for row in done.report.entries[-1].rows] == [True] * 4
    assert done.report.entries[-1].rewrites == 0
    assert str(done.graph) == str(pruned.graph)


def test_a_model_that_lost_nothing_stays() -> None:
    done = run_pipeline(_mlp(), parse_pipeline("refit-blocks{steps=2}"), _context(_feeds(), _mlp()))
    assert done.report.rewrites == 0 and done.manifest.exact


@pytest.mark.parametrize("keep", [True, False])
def test_zeros_stay_zero_if_told(keep: bool) -> None:
    first = "sparsify{worthwhile=false,repair=none}"
    sparse = run_pipeline(_mlp(), parse_pipeline(first), _context(_feeds()))
    done = _refitted(f",keep_zeros={str(keep).lower()}", first)
    before, after = _weights(sparse.graph), _weights(done.graph)
    masked = [name for name, array in before.items() if array.ndim == 2 and (array == 0).mean() >= SPARSE]
    assert len(masked) >= 4
    assert all(not after[name][before[name] == 0].any() for name in masked) == keep
    assert any((after[name] != before[name]).any() for name in masked)


def test_the_same_bytes_twice() -> None:
    first = _weights(_refitted().graph)
    _refitted.cache_clear()
    second = _weights(_refitted().graph)
    assert {name: array.tobytes() for name, array in first.items()} == {n: a.tobytes() for n, a in second.items()}


def test_it_says_what_it_lacks() -> None:
    given, passes = _context(_feeds()), parse_pipeline(f"{PRUNE},refit-blocks")
    with pytest.raises(RefusedError, match="none has taken"):
        run_pipeline(_mlp(), parse_pipeline("refit-blocks"), given)
    with pytest.raises(DataError, match="calibration data"):
        run_pipeline(_mlp(), passes, replace(given, source=None))
    with pytest.raises(BackendError, match="gradients"):
        run_pipeline(_mlp(), passes, replace(given, tuner=None))


def test_compress_hands_it_all_that_it_needs() -> None:
    done = secateur.compress(_mlp(), f"{PRUNE},refit-blocks{{steps=20}}", _feeds())
    row = done.report.run.entries[-1].rows[-1]
    assert row["block"] == "y" and row["after"] < row["before"]
    assert not done.manifest.exact


@pytest.mark.parametrize("after", ["quantize{rounding=gptq}", "quantize{rounding=obr}", "quantize,correct-bias"])
def test_what_follows_goes_by_layers_as_they_were_fitted_together(after: str) -> None:
    """As if the fitted model were all that there ever was."""
    sparse = "sparsify{worthwhile=false,criterion=magnitude,repair=none}"
    fitted = _refitted(first=sparse)
    assert fitted.report.entries[-1].rewrites
    context = _context(_feeds())
    alone = run_pipeline(fitted.graph, parse_pipeline(after), context)
    whole = run_pipeline(_mlp(), parse_pipeline(f"{sparse},refit-blocks{{steps=30,rate=0.03}},{after}"), context)
    assert str(whole.graph) == str(alone.graph)


def test_without_torch_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(lazy.importlib, "import_module", missing)
    with (
        pytest.raises(BackendError, match="torch is needed"),
        TorchTuner(_mlp(), inputs=["x"], output="y", weights={"head": None}),
    ):
        pass
    monkeypatch.undo()
    assert importlib.import_module("torch")


@pytest.mark.parametrize("name", ["resnet50", "llama-dynamic", "bert-dynamic", "swin"])
def test_parts_begin_and_end_in_both_models(name: str) -> None:
    graph = run_pipeline(zoo("small")[name](), parse_pipeline("clean"), Context()).graph
    pruned = run_pipeline(graph, parse_pipeline("prune{ratio=0.5,criterion=magnitude,repair=none,align=1}")).graph
    here, there = known(pruned), known(graph)
    parts = shared_parts(here, there, 1, open_source([random_feeds(graph, 0)]), _RUNNER)
    assert len(parts) >= 3
    ops = [op for part in parts for op in part.ops]
    assert len(ops) == len(set(ops))
    feeds = random_feeds(graph, 1)
    names = [part.exit.name for part in parts]
    with _RUNNER(graph, outputs=names) as dense, _RUNNER(pruned, outputs=names) as present:
        wanted, found = dense.run(feeds), present.run(feeds)
    assert [wanted[name].shape for name in names] == [found[name].shape for name in names]
    weights = [value for part in parts for value in weights_of(here, part)]
    assert len(weights) == len(set(weights))
    # Layers are fitted but for the few before the first part and behind the last.
    layers = {use.weight for use in weight_uses(here)}
    sizes = [sum(value.const.numpy().size for value in some) for some in (layers & set(weights), layers)]
    assert sizes[0] >= 0.9 * sizes[1]


def test_a_chain_that_shrank_throughout_is_one_part() -> None:
    net = Net("chain")
    value = net.input("x", "n", 8)
    for at in range(4):
        value = net.op("Relu", net.op("MatMul", value, net.weight(f"w{at}", 8, 8)))
    dense = net.done((net.op("MatMul", value, net.weight("head", 8, 4), to="y"), ("n", 4)))
    pruned = run_pipeline(dense, parse_pipeline(PRUNE)).graph
    source = open_source([{"x": np.ones((2, 8), np.float32)}])
    for present, ends in ((pruned, ["y"]), (dense, ["relu", "relu_1", "relu_2", "relu_3", "y"])):
        assert [part.exit.name for part in shared_parts(known(present), known(dense), 1, source, _RUNNER)] == ends


def test_logits_are_fitted_rather_than_probabilities() -> None:
    net = Net("classes")
    hidden = net.op("Relu", net.op("MatMul", net.input("x", "n", 8), net.weight("w", 8, 8)))
    logits = net.op("MatMul", hidden, net.weight("head", 8, 4), to="logits")
    dense = net.done((net.op("Softmax", logits, to="y"), ("n", 4)))
    source = open_source([{"x": np.ones((2, 8), np.float32)}])
    for span, ends in ((1, ["relu", "logits"]), (0, ["logits"])):
        assert [one.exit.name for one in shared_parts(known(dense), known(dense), span, source, _RUNNER)] == ends


@pytest.mark.parametrize(
    ("shape", "samples"), [((4, 512, 8), 2), ((4, 32, 8), 32), ((4, 3, 8), 32), ((4, 2000, 8), 1), ((4, 8), 32)]
)
def test_long_samples_make_a_step_sooner(shape: tuple[int, ...], samples: int) -> None:
    assert step_samples(32, Example({}, np.zeros(shape, np.float32))) == samples


@pytest.mark.parametrize(("samples", "divisible"), [(16, True), (7, True), (16, False)])
def test_every_sample_is_fitted_on_or_held_out(samples: int, divisible: bool) -> None:
    rows = np.arange(104, dtype=np.float32)
    source = open_source([Batch({"x": part}) for part in np.split(rows, 13)])
    found = list(Split(source, samples, divisible=divisible).walk())
    every = np.concatenate([batch.feeds["x"] for batch, _ in found])
    np.testing.assert_array_equal(np.sort(every), rows)
    held_out = np.concatenate([batch.feeds["x"] for batch, held in found if held])
    if divisible:
        np.testing.assert_array_equal(held_out, rows[HELD_OUT - 1 :: HELD_OUT])
        assert max(len(batch.feeds["x"]) for batch, held in found if not held) <= samples
    else:
        np.testing.assert_array_equal(held_out.reshape(-1, 8)[:, 0], [32, 72])
