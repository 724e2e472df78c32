"""Wide last layers: narrow ones in their place say what errors do to answers, and nothing of them is left behind."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from helpers.graphs import Net
from scipy.special import log_softmax, softmax

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.backends.torch.tuning import TorchTuner
from secateur.calib.batches import Batch
from secateur.calib.sources import open_source
from secateur.ir import DataType, Graph, Tensor
from secateur.ir.build import emit
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


def _logits(graph: Graph, feeds: dict[str, np.ndarray]) -> np.ndarray:
    with _RUNNER(graph) as runner:
        made = runner.run(feeds)["logits"]
    return made.reshape(-1, made.shape[-1]).astype(np.float64)


def _errors(dense: Graph, present: Graph) -> float:
    """The sum of squares between what two models give."""
    (feeds,) = _feeds(1)
    return float(np.square(_logits(dense, feeds) - _logits(present, feeds)).sum())


def _context(count: int) -> Context:
    source = open_source([Batch(one) for one in _feeds(count)])
    return Context(runner=_RUNNER, tuner=TorchTuner, source=source, seed=5)


def _information(dense: Graph, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """By the definition: [classes, classes]."""
    beliefs = softmax(_logits(dense, feeds), axis=1)
    return np.mean([np.diag(one) - np.outer(one, one) for one in beliefs], axis=0)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("is_changed", [True, False])
def test_squared_errors_are_those_of_answers_in_the_fisher_metric(tied: bool, is_changed: bool) -> None:
    dense = _language_model(tied=tied)
    present = run_pipeline(dense, parse_pipeline(PRUNE)).graph
    if is_changed and not tied:
        weight = present["head"].const
        assert weight is not None
        present["head"].set_const(Tensor(np.round(weight.numpy(), 1)))
    small, wanted = (one.graph for one in narrowed(known(present), known(dense), _context(1)))
    (feeds,) = _feeds(1)
    assert _logits(small, feeds).shape[1] == (32 if is_changed and not tied else 16)
    some = {"tokens": np.stack([feeds["tokens"][at] for at in (0, 1, 3, 4, 5, 6, 8, 9)])}
    difference = _logits(present, feeds) - _logits(dense, feeds)
    expected = np.einsum("ni,ij,nj->", difference, _information(dense, some), difference)
    np.testing.assert_allclose(_errors(wanted, small), expected, rtol=1e-4)


def test_half_the_squared_error_is_the_divergence_of_close_answers() -> None:
    net = _language_model()
    close = net.clone()
    weight = close["down"].const
    assert weight is not None
    close["down"].set_const(Tensor(weight.numpy() * np.float32(1.01)))
    small, wanted = (one.graph for one in narrowed(known(close), known(net), _context(1)))
    (feeds,) = _feeds(1)
    ours, theirs = (log_softmax(_logits(graph, feeds), axis=1) for graph in (close, net))
    divergence = float((np.exp(theirs) * (theirs - ours)).sum())
    np.testing.assert_allclose(_errors(wanted, small) / 2, divergence, rtol=0.1)


@pytest.mark.parametrize("classes", [8, 32])
def test_what_is_not_wide_stays(classes: int) -> None:
    dense = known(_language_model(classes))
    assert narrowed(dense, dense, _context(1)) == (dense, dense)


def test_codes_are_no_matrix() -> None:
    dense = _language_model(width=32, tied=False)
    coded = known(run_pipeline(dense, parse_pipeline("quantize{format=int8-block}")).graph)
    maker = coded.graph.producer(coded.graph["logits"])
    assert maker is not None and maker.inputs[1] is not None
    assert coded.graph.producer(maker.inputs[1]).op_type == "DequantizeLinear"
    assert narrowed(coded, coded, _context(1)) == (coded, coded)


def test_a_head_that_is_cast_is_left_alone() -> None:
    net = Net("half")
    table = net.constant("table", np.ones((16, 96), np.float16))
    cast = emit(net.graph, "Cast", [table], {"to": int(DataType.FLOAT32)}).output
    dense = known(net.done((net.op("MatMul", net.input("x", "n", 16), cast, to="logits"), ("n", 96))))
    source = open_source([Batch({"x": np.ones((2, 16), np.float32)})])
    assert narrowed(dense, dense, Context(runner=_RUNNER, source=source)) == (dense, dense)


def test_the_fitted_model_keeps_its_head() -> None:
    dense = _language_model(tied=False)
    pruned = run_pipeline(dense, parse_pipeline(PRUNE)).graph
    done = run_pipeline(dense, parse_pipeline(f"{PRUNE},refit-blocks{{steps=60,rate=0.03}}"), _context(6))
    assert done.report.entries[-1].rewrites
    assert _errors(dense, done.graph) < 0.9 * _errors(dense, pruned)
    for name in ("head", "table"):
        np.testing.assert_array_equal(done.graph[name].const.numpy(), dense[name].const.numpy())
    assert {value.name for value in done.graph.constants()} == {value.name for value in pruned.constants()}
