"""Answers of many changed copies, found in one go, against each copy run from its inputs to its outputs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from helpers.graphs import Net
from helpers.zoo import random_feeds, zoo

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.batches import Batch
from secateur.calib.capture import Part
from secateur.calib.output_error import Answers, meanings
from secateur.calib.perturbations import Perturbations
from secateur.calib.sources import open_source
from secateur.ir import Graph, Tensor
from secateur.ir.blocks import Block
from secateur.ir.errors import DataError
from secateur.ir.onnx_shapes import infer
from secateur.ir.rules.known import Known
from secateur.ir.rules.weights import weight_use
from secateur.passes.layers.stages import trunk_blocks

_RUNNER = partial(OnnxRuntimeRunner, threads=1)
MODELS = zoo("small")


def chain(length: int) -> Graph:
    """Blocks x + relu(x W) V, and logits."""
    net = Net("chain")
    value = net.op("MatMul", net.input("x", 2, 5, 8), net.weight("stem", 8, 8), to="stem_out")
    for index in range(length):
        inner = net.op("Relu", net.op("MatMul", value, net.weight(f"up_{index}", 8, 16)))
        value = net.op("Add", value, net.op("MatMul", inner, net.weight(f"down_{index}", 16, 8)), to=f"y{index}")
    return net.done((net.op("MatMul", value, net.weight("head", 8, 3), to="logits"), (2, 5, 3)))


def part_of(graph: Graph) -> Part:
    batches = [Batch(random_feeds(graph, seed), weight) for seed, weight in ((0, 1.0), (1, 0.0), (2, 3.0))]
    return Part(graph, open_source(batches))


def copies(graph: Graph, blocks: Sequence[Block]) -> list[tuple[Graph, tuple[str, ...]]]:
    """For each block that has a layer a copy in which the layer's weight is another, and where the block begins."""
    known, found = Known(graph), list[tuple[Graph, tuple[str, ...]]]()
    for block in blocks:
        use = next((use for op in block.ops if (use := weight_use(known, op)) is not None), None)
        if use is not None:
            changed = graph.clone()
            value = changed[use.weight.name]
            assert value.const is not None
            array = value.const.numpy()
            noise = np.random.default_rng(len(found)).normal(scale=0.3 * array.std(), size=array.shape)
            value.set_const(Tensor((array + noise).astype(array.dtype)))
            found.append((changed, (block.entry.name,)))
    return found


def with_types(graph: Graph) -> Known:
    return Known(graph, infer(graph))


@pytest.mark.parametrize("name", ["chain", "resnet50", "bert-dynamic", "llama-dynamic", "gpt2", "vit", "mobilenet-v2"])
def test_errors_are_those_of_whole_copies(name: str) -> None:
    graph = chain(5) if name == "chain" else MODELS[name]()
    part, outputs = part_of(graph), meanings(with_types(graph))
    perturbations, answers = Perturbations(part, outputs, _RUNNER), Answers(part, outputs, _RUNNER)
    blocks = trunk_blocks(graph)
    tried = copies(graph, blocks)
    assert len(tried) > 1
    for key, (changed, cut) in enumerate(tried):
        assert perturbations.add(key, changed, cut) is None
        if key == 1:  # two at the same place
            perturbations.add(100, tried[1][0], cut)
    found = perturbations.errors()
    assert sorted(found) == sorted([*range(len(tried)), 100]) and found[1] == found[100]
    for key, (changed, _) in enumerate(tried):
        assert found[key] == pytest.approx(answers.error(changed), rel=1e-3, abs=1e-9) and found[key] > 0
        whole = perturbations.add(key, changed, None)
        assert whole == pytest.approx(found[key], rel=1e-3, abs=1e-9)


def test_how_many_answers_are_kept_at_once_is_no_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, found = chain(3), list[dict[int, float]]()
    for limit in (1 << 26, 0):
        monkeypatch.setattr("secateur.calib.perturbations._MODERATE", limit)
        perturbations = Perturbations(part_of(graph), meanings(with_types(graph)), _RUNNER)
        for key, (changed, cut) in enumerate(copies(graph, trunk_blocks(graph))):
            perturbations.add(key, changed, cut)
        found.append(perturbations.errors())
    assert found[0] == found[1] and min(found[0].values()) > 0


def test_no_block_is_run_for_changes_behind_it() -> None:
    graph, ran = chain(4), list[int]()

    class Counting(OnnxRuntimeRunner):
        def run(self, feeds: Any) -> dict[str, Any]:
            ran.append(sum(op.op_type == "Relu" for op in self._part.ops()))
            return super().run(feeds)

    batches = [Batch(random_feeds(graph))]
    perturbations = Perturbations(Part(graph, open_source(batches)), meanings(with_types(graph)), Counting)
    blocks = [block for block in trunk_blocks(graph) if any(op.op_type == "Relu" for op in block.ops)]
    for key, (changed, cut) in enumerate(copies(graph, blocks)):
        perturbations.add(key, changed, cut)
    assert sorted(perturbations.errors()) == [0, 1, 2, 3]
    # The dense model and the copies go through four blocks, each copy from its own on: 4 + (4 + 3 + 2 + 1).
    assert sum(ran) == 14


def test_what_is_no_number_is_infinitely_wrong_in_a_copy_and_an_error_in_the_model() -> None:
    graph = chain(2)
    spoiled = graph.clone()
    spoiled["head"].set_const(Tensor(np.full((8, 3), np.nan, np.float32)))
    part, outputs = part_of(graph), meanings(with_types(graph))
    perturbations = Perturbations(part, outputs, _RUNNER)
    assert perturbations.add(0, spoiled, None) == np.inf
    perturbations.add(1, spoiled, ("y0",))
    perturbations.add(2, graph.clone(), ("y0",))
    assert perturbations.errors() == {1: np.inf, 2: 0.0}
    with pytest.raises(DataError, match="'logits' has 30 of 30 elements that are NaN"):
        Perturbations(part_of(spoiled), outputs, _RUNNER).add(0, graph, None)


def test_nothing_tried_costs_nothing() -> None:
    graph = chain(1)

    def never(*_: object, **__: object) -> Any:
        raise AssertionError("nothing is to be run")

    assert Perturbations(part_of(graph), meanings(with_types(graph)), never).errors() == {}
