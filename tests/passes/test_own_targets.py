"""Layers that are to give what they give by then: what the papers have, from inputs alone."""

from __future__ import annotations

from dataclasses import fields
from functools import partial

import numpy as np
import pytest
from helpers.graphs import Net
from helpers.sparse_problems import random_rows, sparse_problem

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.batches import Batch
from secateur.calib.gram import Gram
from secateur.calib.sources import open_source
from secateur.ir import Graph, Tensor
from secateur.passes.context import Context
from secateur.passes.layers.evidence import HELD_OUT, Evidence
from secateur.passes.layers.own_problem import OwnProblem
from secateur.passes.layers.problem import Problem
from secateur.passes.manager import Result, run_pipeline
from secateur.passes.pipeline import parse_pipeline

_RUNNER = partial(OnnxRuntimeRunner, optimize=False, threads=1)
METHODS = (
    "criterion=sparsegpt, repair=sweep",
    "criterion=sparsegpt, repair=least-squares",
    "criterion=wanda, refine=swap, repair=none",
    "criterion=magnitude, repair=bias",
)


def _attention() -> Graph:
    """Three layers that read the same, and two behind them."""
    net = Net("own", seed=1)
    x = net.input("x", "samples", 5, 16)
    queries, keys, values = (net.op("MatMul", x, net.weight(name, 16, 16), to=f"{name}_out") for name in "qkv")
    scores = net.op("Softmax", net.op("MatMul", queries, net.op("Transpose", keys, perm=[0, 2, 1])), axis=-1)
    mixed = net.op("MatMul", net.op("MatMul", scores, values), net.weight("o", 16, 16), to="mixed")
    hidden = net.op("Relu", net.op("Add", net.op("Add", x, mixed), net.weight("shift", 16)), to="hidden")
    return net.done(
        (
            net.op("Gemm", net.op("Flatten", hidden, axis=1), net.weight("head", 80, 8), net.weight("b", 8)),
            ("samples", 8),
        )
    )


def _feeds(count: int = 3) -> list[dict[str, np.ndarray]]:
    return [{"x": random_rows(seed, 40, 16).reshape(8, 5, 16).astype(np.float32)} for seed in range(count)]


def _run(graph: Graph, options: str) -> Result:
    context = Context(runner=_RUNNER, source=open_source([Batch(one) for one in _feeds()]), seed=0)
    return run_pipeline(graph, parse_pipeline(f"sparsify{{worthwhile=false, {options}}}"), context)


def _weight(graph: Graph, name: str) -> np.ndarray:
    tensor = graph[name].const
    assert tensor is not None
    return tensor.numpy()


@pytest.mark.parametrize("bias", [True, False])
def test_errors_are_those_of_the_held_out_rows(bias: bool) -> None:
    weight, x = np.random.default_rng(0).normal(size=(6, 8)), random_rows(1, 50, 8)
    own = np.arange(6.0) if bias else None
    plain = sparse_problem(weight, x, x @ weight.T + (0 if own is None else own), bias=bias)
    held = np.arange(50) % HELD_OUT == HELD_OUT - 1
    alone = Evidence(Gram(8), Gram(8))
    alone.fit.update(x[~held])
    alone.held_out.update(x[held])
    given = {one.name: getattr(plain, one.name) for one in fields(Problem)}
    problem = OwnProblem(**given | {"evidence": alone, "bias": own})
    other, shift = weight + 0.1 * np.random.default_rng(2).normal(size=weight.shape), None if own is None else own + 0.3
    wanted = np.square(x[held] @ (other - weight).T + (0.3 if bias else 0.0)).sum(axis=0)
    np.testing.assert_allclose(problem.errors(other, shift), wanted)
    np.testing.assert_allclose(
        problem.errors(other[[4, 1]], None if shift is None else shift[[4, 1]], np.array([4, 1])), wanted[[4, 1]]
    )
    np.testing.assert_allclose(problem.target_mean, plain.seen.fit.target_mean)
    if bias:
        np.testing.assert_allclose(problem.compensated(other), plain.compensated(other))
    which, errors = problem.judge([(other, shift), (weight, own)])
    spread = np.square((x[held] - x[held].mean(axis=0)) @ weight.T).sum()
    assert which == 1
    np.testing.assert_allclose(errors, [wanted.sum() / spread, 0.0], atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_first_layers_are_what_they_are_with_the_dense_model(method: str) -> None:
    """Nothing has been lost before them: their own outputs are those of the dense model."""
    own, dense = (_run(_attention(), f"{method}, targets={one}").graph for one in ("own", "dense"))
    for name in "qkv":
        np.testing.assert_array_equal(_weight(own, name) == 0, _weight(dense, name) == 0)
        # Published sweeps calculate in float32.
        np.testing.assert_allclose(_weight(own, name), _weight(dense, name), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_later_layers_know_of_no_dense_model(method: str) -> None:
    """What is sparse already is what there is: done in two runs, the same comes out as in one."""
    once = _run(_attention(), f"{method}, targets=own").graph
    first = _run(_attention(), f"{method}, targets=own, patterns=[o:dense, head:dense]").graph
    twice = _run(first, f"{method}, targets=own").graph
    for name in ("q", "k", "v", "o", "head"):
        np.testing.assert_array_equal(_weight(once, name), _weight(twice, name))
    against = _run(_attention(), f"{method}, targets=dense").graph
    if "magnitude" not in method and "wanda" not in method:
        assert not np.array_equal(_weight(once, "o"), _weight(against, "o"))


def test_scaled_weights_are_mended_as_scaled() -> None:
    """Twin of the first test: a model that is not what it was is taken as it is."""
    graph = _attention()
    weight = graph["q"]
    assert weight.const is not None
    weight.set_const(Tensor(2 * weight.const.numpy(), weight.const.dtype))
    method = "criterion=wanda, repair=least-squares, targets=own"
    np.testing.assert_allclose(
        _weight(_run(graph, method).graph, "q"), 2 * _weight(_run(_attention(), method).graph, "q"), rtol=1e-5
    )
