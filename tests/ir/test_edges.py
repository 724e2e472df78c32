"""Edges into concatenations: which there are, what each is worth, and which cannot go."""

from __future__ import annotations

import pytest
from helpers.graphs import Net
from helpers.zoo import zoo

from secateur.ir import Graph
from secateur.ir.edges import Edge, concat_edges
from secateur.ir.onnx_shapes import infer
from secateur.ir.rules.known import Known

MODELS = zoo("small", "light", "real")


def found_in(graph: Graph) -> list[Edge]:
    return concat_edges(Known(graph, infer(graph)))


@pytest.mark.parametrize(("name", "total", "free"), [("densenet121", 28, 28), ("light-squeezenet", 16, 16)])
def test_all_of_known_architectures(name: str, total: int, free: int) -> None:
    graph = MODELS[name]()
    text = str(graph)
    edges = found_in(graph)
    assert (len(edges), sum(edge.pin is None for edge in edges)) == (total, free)
    assert len({edge.name for edge in edges}) == total
    assert str(graph) == text, "looking changes nothing"


def test_a_dense_block_joins_all_that_came_before() -> None:
    """DenseNet-121 has 6, 12, 24 and 16 layers a block: n of them read 1 to n + 1 values; nested joins count as one."""
    edges = found_in(MODELS["light-densenet121"]())
    sizes: dict[str, int] = {}
    for edge in edges:
        sizes[edge.concat] = sizes.get(edge.concat, 0) + 1
    assert sorted(sizes.values()) == sorted(count for n in (6, 12, 24, 16) for count in range(2, n + 2))
    assert all(edge.pin is None for edge in edges)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("shufflenet-v2", "regroups"),
        ("unet", "regroups"),
        ("swin", "normalises over it"),
        ("light-inception_v2", "handed on into Concat"),
    ],
)
def test_others_stay_and_say_why(name: str, words: str) -> None:
    assert any(words in str(edge.pin) for edge in found_in(MODELS[name]()))


def joined(*, added: bool = False, output: bool = False) -> Graph:
    """Three convolutions' outputs, joined and normalised for a fourth."""
    net = Net("joined")
    value = net.input("x", 2, 3, 6, 6)
    parts = [net.conv(value, f"part_{index}", 2 + index, 3, 1, 1) for index in range(3)]
    whole = net.op("Concat", *parts, axis=1, to="whole")
    if added:
        whole = net.op("Add", whole, net.conv(value, "beside", 9, 3, 1, 1))
    last = net.conv(net.op("Relu", net.batch_norm(whole, "norm", 9)), "last", 4, 9, 3, 3)
    outputs = [(last, (2, 4, 4, 4))]
    return net.done(*outputs, *([(net.graph["whole"], (2, 9, 6, 6))] if output else []))


def test_what_an_edge_is_worth() -> None:
    edges = found_in(joined())
    assert [edge.name for edge in edges] == ["whole:0", "whole:1", "whole:2"]
    assert [(edge.start, edge.size) for edge in edges] == [(0, 2), (2, 3), (5, 4)]
    # Four numbers of the norm and 4 x 3 x 3 weights a channel; the makers stay, as others may read them.
    assert [edge.parameters for edge in edges] == [size * (4 + 36) for size in (2, 3, 4)]
    for edge in edges:
        (reading,) = edge.readings
        assert reading.columns.tolist() == list(range(edge.start, edge.start + edge.size))


def test_what_is_added_to_something_else_stays() -> None:
    edges = found_in(joined(added=True))
    assert edges and all("adds it to what Conv" in str(edge.pin) for edge in edges)


def test_an_output_of_the_model_is_no_edge() -> None:
    assert not found_in(joined(output=True))
