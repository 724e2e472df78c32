"""Experts that are left are fitted to what all of them gave."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.zoo import random_feeds, zoo

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.batches import Batch
from secateur.ir import Graph
from secateur.passes.context import Context
from secateur.passes.manager import Result, run_pipeline
from secateur.passes.pipeline import parse_pipeline

MODEL = "experts-dense"


class _Feeds:
    name = "random feeds"

    def __init__(self, graph: Graph) -> None:
        self.batches = [Batch(random_feeds(graph, seed)) for seed in range(20)]

    def __iter__(self):
        return iter(self.batches)


def _pruned(name: str, more: str) -> tuple[Result, float]:
    """With half of the experts, and the squared error of its answers to the data, relative to the dense ones."""
    graph = zoo("small")[name]()
    source = _Feeds(graph)
    text = f"prune{{ratio=0.5, dims=experts, exact=false, align=1{more}}}"
    result = run_pipeline(graph, parse_pipeline(text), Context(runner=OnnxRuntimeRunner, source=source))
    error = scale = 0.0
    with OnnxRuntimeRunner(zoo("small")[name]()) as dense, OnnxRuntimeRunner(result.graph) as left:
        for batch in source:
            (wanted,), (given,) = dense.run(batch.feeds).values(), left.run(batch.feeds).values()
            error += float(np.square(wanted - given, dtype=np.float64).sum())
            scale += float(np.square(wanted, dtype=np.float64).sum())
    return result, error / scale


def test_what_is_left_comes_nearer_to_what_all_gave() -> None:
    (fitted, error), (bare, before) = _pruned(MODEL, ""), _pruned(MODEL, ", repair=none")
    rows = [row for row in fitted.report.entries[0].rows if row.get("error") is not None]
    assert rows and all(float(str(row["error"])) < float(str(row["unrepaired"])) for row in rows)
    assert not any(row.get("error") is not None for row in bare.report.entries[0].rows)
    assert error < before


@pytest.mark.parametrize("name", ["experts-routed", "mixtral"])
def test_experts_that_see_tokens_of_their_own_are_left_alone(name: str) -> None:
    (_, error), (_, before) = _pruned(name, ""), _pruned(name, ", repair=none")
    assert error == pytest.approx(before)
