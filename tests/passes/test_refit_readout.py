"""Wide last layers: narrow ones in their place give the same squared errors, and nothing of them is left behind."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from helpers.graphs import Net

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.backends.torch.tuning import TorchTuner
from secateur.calib.batches import Batch
from secateur.calib.sources import open_source
from secateur.ir import DataType, Graph, Tensor
from secateur.passes.cleanup.shapes import known
from secateur.passes.context import Context
from secateur.passes.manager import run_pipeline
from secateur.passes.pipeline import parse_pipeline
from secateur.passes.refit.readout import narrowed

_RUNNER = partial(OnnxRuntimeRunner, optimize=False, threads=1)
PRUNE = "prune{ratio=0.5,criterion=magnitude,repair=none,align=1}"


def _language_model(classes: int = 96, width: int = 16, *, tied: bool = True) -> Graph:
    """Tokens, one block, and a head that shares the embedding's table or not."""
    net = Net("language", seed=3)
    table = net.weight("table", classes, width)
    value = net.op("Gather", table, net.input("tokens", "n", 6, dtype=DataType.INT64))
    hidden = net.op("Relu", net.op("MatMul", value, net.weight("up", width, 32)))
    value = net.op("Add", value, net.op("MatMul", hidden, net.weight("down", 32, width)), to="trunk")
    head = net.op("Transpose", table, perm=[1, 0]) if tied else net.weight("head", width, classes)
    return net.done((net.op("MatMul", value, head, to="logits"), ("n", 6, classes)))


def _feeds(count: int, classes: int = 96) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(7)
    return [{"tokens": random.integers(0, classes, (10, 6))} for _ in range(count)]


def _errors(dense: Graph, present: Graph) -> float:
    """The sum of squares between what two models give."""
    (feeds,) = _feeds(1)
    with _RUNNER(dense) as first, _RUNNER(present) as second:
        return float(np.square(first.run(feeds)["logits"] - second.run(feeds)["logits"], dtype=np.float64).sum())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("is_changed", [True, False])
def test_squared_errors_are_the_same_numbers(tied: bool, is_changed: bool) -> None:
    dense = _language_model(tied=tied)
    present = run_pipeline(dense, parse_pipeline(PRUNE)).graph
    if is_changed and not tied:
        weight = present["head"].const
        assert weight is not None
        present["head"].set_const(Tensor(np.round(weight.numpy(), 1)))
    small, wanted = (one.graph for one in narrowed(known(present), known(dense)))
    (feeds,) = _feeds(1)
    with _RUNNER(small) as runner:
        width = runner.run(feeds)["logits"].shape[-1]
    assert width == (32 if is_changed and not tied else 16)
    np.testing.assert_allclose(_errors(wanted, small), _errors(dense, present), rtol=1e-5)
    assert _errors(dense, present) > 1


@pytest.mark.parametrize("classes", [8, 32])
def test_what_is_not_wide_stays(classes: int) -> None:
    dense = known(_language_model(classes))
    assert narrowed(dense, dense) == (dense, dense)


def test_the_fitted_model_keeps_its_head() -> None:
    dense = _language_model(tied=False)
    context = Context(runner=_RUNNER, tuner=TorchTuner, source=open_source([Batch(one) for one in _feeds(6)]), seed=5)
    pruned = run_pipeline(dense, parse_pipeline(PRUNE)).graph
    done = run_pipeline(dense, parse_pipeline(f"{PRUNE},refit-blocks{{steps=60,rate=0.03}}"), context)
    assert done.report.entries[-1].rewrites
    assert _errors(dense, done.graph) < 0.9 * _errors(dense, pruned)
    for name in ("head", "table"):
        np.testing.assert_array_equal(done.graph[name].const.numpy(), dense[name].const.numpy())
    assert {value.name for value in done.graph.constants()} == {value.name for value in pruned.constants()}
