"""Facts: computed once, dropped when what they read has changed, honest about what they read."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.graphs import gemm_mlp

from secateur.ir import Graph, Tensor
from secateur.ir.errors import PassError
from secateur.passes import Facet, Facts, fact
from secateur.passes.cleanup.shapes import known, shapes

_calls: list[str] = []


@fact(reads=Facet.TOPOLOGY)
def op_count(graph: Graph, facts: Facts) -> int:
    _calls.append("op_count")
    return len(graph.ops())


@fact(reads=Facet.WEIGHTS)
def weight_sum(graph: Graph, facts: Facts) -> float:
    _calls.append("weight_sum")
    return float(sum(value.const.numpy().sum() for value in graph.constants() if value.const is not None))


@fact(reads=Facet.ATTRIBUTES)
def both(graph: Graph, facts: Facts) -> tuple[int, float]:
    _calls.append("both")
    return facts.get(op_count), facts.get(weight_sum)


@fact(reads=Facet.TOPOLOGY)
def chases_its_tail(graph: Graph, facts: Facts) -> int:
    return facts.get(chases_its_tail)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    _calls.clear()


def test_a_fact_is_computed_once() -> None:
    facts = Facts(gemm_mlp())
    assert facts.get(both) == facts.get(both) == (3, facts.get(weight_sum))
    assert _calls == ["both", "op_count", "weight_sum"]


def test_a_fact_outside_of_passes() -> None:
    assert op_count(gemm_mlp()) == 3


@pytest.mark.parametrize(
    ("changed", "left"),
    [
        (Facet.WEIGHTS, {"op_count"}),
        (Facet.TOPOLOGY, {"weight_sum"}),
        (Facet.ATTRIBUTES, {"op_count", "weight_sum"}),
        (Facet.SHAPE | Facet.DTYPE | Facet.SCHEME, {"op_count", "weight_sum", "both"}),
        (Facet.TOPOLOGY | Facet.WEIGHTS, set()),
    ],
)
def test_a_fact_goes_when_what_it_reads_changes_through_others_too(changed: Facet, left: set[str]) -> None:
    facts = Facts(gemm_mlp())
    facts.get(both)
    facts.drop(changed)
    assert facts.known.keys() == left


def test_what_is_inherited_does_not_depend_on_who_asked_first() -> None:
    facts = Facts(gemm_mlp())
    facts.get(weight_sum)
    facts.get(op_count)
    facts.get(both)
    assert facts.known["both"] == Facet.ATTRIBUTES | Facet.TOPOLOGY | Facet.WEIGHTS


def test_stale_facts_are_found() -> None:
    graph = gemm_mlp()
    facts = Facts(graph)
    facts.get(both)
    assert facts.stale() == []
    graph["w1"].set_const(Tensor(np.zeros((10, 6), np.float32)))
    assert set(facts.stale()) == {"weight_sum", "both"}


def test_a_fact_that_needs_itself_is_our_defect() -> None:
    with pytest.raises(PassError, match="chases_its_tail -> chases_its_tail"):
        Facts(gemm_mlp()).get(chases_its_tail)


def test_shapes_of_every_value() -> None:
    graph = gemm_mlp()
    facts = Facts(graph)
    types = facts.get(shapes)
    assert [str(types[op.output]) for op in graph.ops()] == ["f32[4, 10]", "f32[4, 10]", "f32[4, 3]"]
    assert facts.get(known).shape(graph["fc1"]) == (4, 10)
