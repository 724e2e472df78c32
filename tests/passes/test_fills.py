"""Blank tensors that several ops share tie what they hold; apart, each may shrink by itself."""

from __future__ import annotations

import numpy as np
from helpers.graphs import Net
from helpers.mask_oracle import analyse, difference, run
from helpers.zoo import random_feeds

from secateur.ir import Graph
from secateur.ir.build import emit
from secateur.ir.dims.groups import groups
from secateur.passes.context import Context
from secateur.passes.manager import run_pipeline
from secateur.passes.pipeline import parse_pipeline
from secateur.passes.prune.fills import untie


def _two_layers_on_one_blank() -> Graph:
    """x -> 6 neurons, plus zeros [3, 6] -> 5; then 6 other neurons, plus the same zeros -> 4."""
    net = Net("blank")
    value = net.input("x", 3, 7)
    sizes = [net.constant("rows", np.array([3])), net.constant("columns", np.array([6]))]
    shape = emit(net.graph, "Concat", sizes, {"axis": 0}).output
    zeros = emit(net.graph, "ConstantOfShape", [shape]).output
    for name, inputs, outputs in (("a", 7, 5), ("b", 5, 4)):
        hidden = net.op("Relu", net.op("MatMul", value, net.weight(f"{name}1", inputs, 6)))
        value = net.op("MatMul", net.op("Add", hidden, zeros), net.weight(f"{name}2", 6, outputs))
    return net.done((value, (3, 4)))


def _free(graph: Graph) -> list[int]:
    return sorted(group.size for group in groups(analyse(graph)) if group.pin is None)


def test_each_reader_gets_its_own_and_the_model_stays() -> None:
    graph = _two_layers_on_one_blank()
    assert _free(graph) == [5, 6]
    apart = graph.clone()
    assert untie(apart) == 1
    apart.verify()
    assert _free(apart) == [5, 6, 6]
    assert untie(apart) == 0
    feeds = random_feeds(graph, 0)
    assert difference(run(graph, feeds), run(apart, feeds)) == 0


def test_pruning_chooses_for_each_layer_by_itself() -> None:
    graph = _two_layers_on_one_blank()
    options = "ratio=0.5, criterion=random, repair=none, align=1, dims=all"
    done = run_pipeline(graph, parse_pipeline(f"prune{{{options}}}"), Context(seed=1))
    first, second = done.manifest.kept["a1"][1], done.manifest.kept["b1"][1]
    assert len(first) == len(second) == 3
    assert not np.array_equal(first, second)
