"""How many output positions of an image are looked at: of few images more, so that layers see rows enough."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.graphs import Net

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.batches import Batch
from secateur.calib.capture import Part
from secateur.calib.sources import open_source
from secateur.ir import Graph
from secateur.ir.rules.weights import WeightUse, weight_uses
from secateur.passes.cleanup.shapes import known
from secateur.passes.context import Context
from secateur.passes.layers import reads
from secateur.passes.layers.evidence import Streams, gather
from secateur.passes.layers.own_evidence import gather_inputs
from secateur.passes.layers.reads import ROWS, enough_positions

SIZE = 16


def _graph() -> Graph:
    net = Net("positions")
    value = net.conv(net.input("x", "n", 2, SIZE, SIZE), "conv", 3, 2, 3, 3, pads=[1, 1, 1, 1])
    value = net.op("ReduceMean", value, net.constant("axes", np.array([2, 3])), keepdims=0)
    return net.done((net.op("MatMul", value, net.weight("head", 3, 4)), ("n", 4)))


def _source(*sizes: int) -> list[Batch]:
    random = np.random.default_rng(0)
    return [Batch({"x": random.normal(size=(size, 2, SIZE, SIZE)).astype(np.float32)}) for size in sizes]


def _uses(graph: Graph, name: str) -> list[WeightUse]:
    return [use for use in weight_uses(known(graph)) if use.weight.name == name]


@pytest.mark.parametrize(
    ("sizes", "positions", "wanted"),
    [((1,), 64, ROWS), ((3, 5), 64, ROWS // 8), ((3,), 64, -(-ROWS // 3)), ((200, 100), 64, 64), ((2,), 0, 0)],
)
def test_all_images_together_give_rows_enough(sizes: tuple[int, ...], positions: int, wanted: int) -> None:
    graph = _graph()
    part = Part(graph, open_source(_source(*sizes)))
    assert enough_positions(part, _uses(graph, "conv.weight"), positions) == wanted


def test_products_take_all_rows_that_there_are() -> None:
    graph = _graph()
    assert enough_positions(Part(graph, open_source(_source(2))), _uses(graph, "head"), 7) == 7


def test_moments_are_of_so_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, source = _graph(), open_source(_source(6, 4))
    context, uses = Context(runner=OnnxRuntimeRunner, source=source), _uses(graph, "conv.weight")
    streams = Streams.whole(graph, graph, source)

    def rows(positions: int) -> list[int]:
        (both,) = gather(streams, uses, context, positions)
        ((alone,),) = gather_inputs(streams.present, uses, context, positions)
        assert alone.together().rows == both.together().rows
        return [both.fit.rows, both.held_out.rows]

    assert rows(5) == [8 * SIZE**2, 2 * SIZE**2]
    monkeypatch.setattr(reads, "ROWS", 100)
    assert rows(5) == [8 * 10, 2 * 10]
    assert rows(20) == [8 * 20, 2 * 20]
