"""Heads in another basis: the same function, and what is cut from it is the best that there is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.zoo import random_feeds, zoo

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.batches import Batch
from secateur.calib.solvers.rotation import balanced_rotation
from secateur.calib.sources import open_source
from secateur.ir import Graph
from secateur.passes.context import Context
from secateur.passes.manager import Result, run_pipeline
from secateur.passes.pipeline import parse_pipeline

Array = np.ndarray[Any, Any]


def compress(graph: Graph, text: str, batches: int = 3) -> Result:
    source = open_source([Batch(random_feeds(graph, seed)) for seed in range(batches)]) if batches else None
    return run_pipeline(graph, parse_pipeline(text), Context(runner=OnnxRuntimeRunner, source=source))


def run(graph: Graph, feeds: dict[str, Array], *more: str) -> dict[str, Array]:
    with OnnxRuntimeRunner(graph, outputs=[*(value.name for value in graph.outputs), *more]) as runner:
        return runner.run(feeds)


def sides(seed: int, spread: float = 3.0) -> tuple[Array, Array]:
    """Rows of two sides [n, 6] and [m, 6], some directions much weaker than others."""
    random = np.random.default_rng(seed)
    scale = np.diag(np.exp(-np.linspace(0, spread, 6)))
    return tuple(random.normal(size=(n, 6)) @ scale @ random.normal(size=(6, 6)) for n in (50, 40))  # type: ignore[return-value]


@pytest.mark.parametrize("seed", range(4))
def test_the_solver_changes_nothing_and_cuts_what_eckart_and_young_would(seed: int) -> None:
    a, b = sides(seed)
    found = balanced_rotation(a.T @ a, b.T @ b, 0.0)
    turned, other = a @ found.forward, b @ found.backward
    np.testing.assert_allclose(turned @ other.T, a @ b.T, rtol=1e-8, atol=1e-8 * np.abs(a @ b.T).max())
    left, values, right = np.linalg.svd(a @ b.T, full_matrices=False)
    for rank in range(1, 7):
        best = left[:, :rank] * values[:rank] @ right[:rank]
        np.testing.assert_allclose(turned[:, :rank] @ other[:, :rank].T, best, atol=1e-7 * np.abs(best).max())
        cut = np.sum(np.square(turned[:, :rank] @ other[:, :rank].T - a @ b.T))
        np.testing.assert_allclose(found.energy[rank:].sum(), cut, rtol=1e-6, atol=1e-7 * found.energy[0])


def test_what_carries_nothing_stays_finite() -> None:
    a, b = sides(0)
    a[:, 2] = 0.0
    for one, other in ((a, b), (b, a), (0 * a, b)):
        found = balanced_rotation(one.T @ one, other.T @ other, 1e-4)
        np.testing.assert_allclose(found.forward @ found.backward.T, np.eye(6), atol=1e-6)
        assert found.energy[-1] < 1e-2 * found.energy[0] or not one.any()


WHOLE = ("bert", "bert-dynamic", "bert-opset23", "gpt2", "vit", "t5", "swin", "llama", "mixtral")


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("batches", [0, 2])
def test_models_compute_the_same(name: str, batches: int) -> None:
    graph = zoo("small")[name]()
    result = compress(graph, "clean,rotate-heads", batches)
    assert result.report.entries[-1].rewrites == len(result.report.entries[-1].rows) > 0
    feeds = random_feeds(graph, 7)
    dense, found = run(graph, feeds), run(result.graph, feeds)
    for key, array in dense.items():
        np.testing.assert_allclose(found[key], array, atol=1e-5 * np.abs(array).max())


@pytest.mark.parametrize("name", ["llama", "llama-opset23"])
def test_rotary_positions_keep_queries_and_keys_as_they_are(name: str) -> None:
    result = compress(zoo("small")[name](), "clean,rotate-heads{dims=query-key}", 0)
    entry = result.report.entries[-1]
    assert not entry.rows
    assert entry.notes or name == "llama-opset23"


def test_asking_for_shapes_of_keys_does_not_hide_them() -> None:
    """With dynamic axes, keys are asked for their shape, too."""
    entry = compress(zoo("small")["bert-dynamic"](), "clean,rotate-heads{dims=query-key}", 0).report.entries[-1]
    assert entry.rows
    assert not entry.notes


def test_what_cannot_be_told_apart_stays() -> None:
    entry = compress(zoo("small")["vit-packed"](), "clean,rotate-heads", 0).report.entries[-1]
    assert not entry.rows
    assert all("told apart" in note for note in entry.notes)


def _scores(graph: Graph) -> list[str]:
    """Names of what goes into softmaxes."""
    return [op.inputs[0].name for op in graph.ops() if op.op_type == "Softmax" and op.inputs[0] is not None]


@pytest.mark.parametrize("dims", ["query-key", "value-output"])
@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_cut_by_a_quarter_it_errs_less_than_raw_units(name: str, dims: str) -> None:
    graph = zoo("small")[name]()
    errors = []
    for text in ("clean", f"clean,rotate-heads{{dims={dims}}}"):
        cut = compress(graph, f"{text},prune{{dims={dims}, ratio=0.34, align=1}}").graph
        feeds = random_feeds(graph, 7)
        dense, found = run(graph, feeds), run(cut, feeds)
        errors.append(sum(float(np.square(found[key] - array).sum()) for key, array in dense.items()))
    assert errors[1] < 0.9 * errors[0]


def test_scores_stay_divided_by_the_root_of_the_width_that_heads_had() -> None:
    """The scores of the first layer, cut, are the best of their rank: near, and of the same size."""
    graph = compress(zoo("small")["bert"](), "clean", 0).graph
    cut = compress(graph, "rotate-heads{dims=query-key},prune{dims=query-key, ratio=0.25, align=1}").graph
    feeds = random_feeds(graph, 0)
    names = _scores(graph)[0], _scores(cut)[0]
    dense, found = run(graph, feeds, names[0])[names[0]], run(cut, feeds, names[1])[names[1]]
    centred = [array - array.mean(axis=-1, keepdims=True) for array in (dense, found)]
    slope = float(np.vdot(*centred) / np.vdot(centred[0], centred[0]))
    assert 0.9 < slope < 1.02
