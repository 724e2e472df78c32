"""Bisecting finds the very rewrite, whichever it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from helpers.example_passes import Scale
from helpers.graphs import gemm_mlp, residual

from secateur.ir import Graph, Tensor
from secateur.ir.errors import DataError
from secateur.passes import Context, Effect, Facet, Pass
from secateur.passes.bisect import bisect
from secateur.passes.cleanup.dead_code import RemoveDeadCode


def _scaled(graph: Graph, name: str) -> bool:
    now, before = graph[name].const, residual()[name].const
    assert now is not None and before is not None
    return not now.equals(before)


@pytest.mark.parametrize("name", [value.name for value in residual().constants()])
def test_the_rewrite_that_broke_it_is_named(name: str) -> None:
    constants = [value.name for value in residual().constants()]
    passes = [RemoveDeadCode(), Scale(1.0), Scale(3.0), Scale(2.0)]
    culprit = bisect(residual(), passes, lambda graph: not _scaled(graph, name))
    assert culprit is not None and culprit.rewrite is not None
    assert (culprit.index, culprit.running) == (2, Scale(3.0))
    assert (culprit.number, culprit.of) == (constants.index(name) + 1, len(constants))
    reader = next(op for op in residual().ops() if name in [value.name for value in op.inputs if value is not None])
    assert culprit.rewrite == ("scale", reader.title)
    assert str(culprit).startswith(
        f"pass 3, scale{{factor=3.0}}, rewrite {culprit.number} of {len(constants)}: scale at"
    )


def test_a_good_pipeline_has_no_culprit() -> None:
    assert bisect(gemm_mlp(), [Scale(), RemoveDeadCode()], lambda graph: True) is None
    assert bisect(gemm_mlp(), [], lambda graph: True) is None


def test_a_model_that_is_bad_to_begin_with() -> None:
    with pytest.raises(DataError, match="bad before any pass"):
        bisect(gemm_mlp(), [Scale()], lambda graph: False)


@dataclass(frozen=True)
class Unasked(Pass):
    """Zeroes a weight without asking."""

    name: ClassVar[str] = "unasked"
    changes: ClassVar[Facet] = Facet.WEIGHTS
    effect: ClassVar[Effect] = Effect.LOSSY

    def run(self, graph: Graph, context: Context) -> int:
        graph["w1"].set_const(Tensor(np.zeros((10, 6), np.float32)))
        context.allow("something", graph.ops()[0])
        return 1


def test_a_pass_that_does_not_ask_is_to_blame_as_a_whole() -> None:
    culprit = bisect(gemm_mlp(), [Scale(), Unasked()], lambda graph: bool(graph["w1"].const.numpy().any()))  # type: ignore[union-attr]
    assert culprit is not None and culprit.rewrite is None
    assert str(culprit) == "pass 2, unasked, as a whole"


def test_the_search_runs_the_guilty_pass_a_few_times_only() -> None:
    graph = gemm_mlp()
    checks: list[Graph] = []

    def is_good(graph: Graph) -> bool:
        checks.append(graph)
        return bool(graph["b2"].const.numpy()[0] == gemm_mlp()["b2"].const.numpy()[0])  # type: ignore[union-attr]

    assert bisect(graph, [Scale(1.0)] * 30 + [Scale(2.0)], is_good) is not None
    assert len(checks) <= 2 + 5 + 1 + 2
