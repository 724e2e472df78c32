"""Dropping edges: what is left computes what the dense model does where the readers' weights for them are zero."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
import pytest
from helpers.zoo import random_feeds, zoo

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.ir import Graph, Tensor, Value
from secateur.ir.edges import Edge, concat_edges
from secateur.ir.errors import RefusedError, TextError
from secateur.ir.onnx_shapes import infer
from secateur.ir.onnx_write import to_bytes
from secateur.ir.rules.known import Known
from secateur.passes import Context, Result, run_pipeline
from secateur.passes.drop.edges import DropEdges
from secateur.passes.pipeline import parse_pipeline
from secateur.passes.settings import Check, Settings

MODELS = zoo("small", "light", "real")


def edges_of(graph: Graph) -> list[Edge]:
    return [edge for edge in concat_edges(Known(graph, infer(graph))) if edge.pin is None]


def drop(graph: Graph, one: DropEdges, seed: int = 0) -> Result:
    before = to_bytes(graph)
    try:
        return run_pipeline(graph, [one], Context(seed=seed), settings=Settings(check=Check.FULL))
    finally:
        assert to_bytes(graph) == before, "the graph that was handed in stays as it was"


def gone(result: Result) -> list[str]:
    return [str(row["edge"]) for row in result.report.entries[0].rows if row["dropped"]]


def silenced(graph: Graph, edges: Iterable[Edge]) -> Graph:
    """A copy in which the first weights behind a concatenation are zero for what an edge brings; no analysis needed."""
    graph = graph.clone()
    for edge in edges:
        waiting, seen = [graph[edge.concat]], set[Value]()
        while waiting:
            value = waiting.pop()
            for op in graph.consumers(value):
                weight = op.input(1)
                if op.op_type in ("Conv", "Gemm") and weight is not None and weight.const is not None:
                    assert op.attribute("group", 1) == 1
                    array = weight.const.numpy().copy()
                    turned = op.op_type == "Gemm" and not op.attribute("transB", 0)
                    (array if turned else array.swapaxes(0, 1))[edge.start : edge.start + edge.size] = 0
                    weight.set_const(Tensor(array))
                elif op.op_type != "Concat" and op.output not in seen:
                    seen.add(op.output)
                    waiting.append(op.output)
    return graph


def check_alike(dense: Graph, small: Graph, edges: Iterable[Edge]) -> None:
    feeds = random_feeds(dense, 5)
    results = []
    for graph in (silenced(dense, edges), small):
        with OnnxRuntimeRunner(graph) as runner:
            results.append(runner.run(feeds))
    onnx.checker.check_model(onnx.ModelProto.FromString(to_bytes(small)))
    assert [value.name for value in small.outputs] == [value.name for value in dense.outputs]
    for name, wanted in results[0].items():
        assert np.abs(wanted - results[1][name]).max() <= 1e-4 * np.abs(wanted).max() + 1e-7


def parameters(graph: Graph) -> int:
    tensors = [value.const for value in graph.constants() if value.const is not None]
    return sum(tensor.size for tensor in tensors if tensor.shape and tensor.dtype.is_float)


@pytest.mark.parametrize("name", ["densenet121", "light-squeezenet", "light-inception_v1"])
@pytest.mark.parametrize("seed", [0, 1])
def test_random_edges(name: str, seed: int) -> None:
    dense = MODELS[name]()
    edges = edges_of(dense)
    result = drop(dense, DropEdges(ratio=(0.15, 0.5)[seed], criterion="random"), seed)
    names = set(gone(result))
    assert len(names) == result.report.rewrites == int(len(edges) * (0.15, 0.5)[seed]) > 0
    chosen = [edge for edge in edges if edge.name in names]
    check_alike(dense, result.graph, chosen)
    # A source that nobody reads any more goes too, with what made it.
    assert parameters(dense) - parameters(result.graph) >= sum(edge.parameters for edge in chosen)


@pytest.mark.parametrize(("name", "step"), [("densenet121", 3), ("unet", 1)])
def test_each_edge_by_itself(name: str, step: int) -> None:
    dense = MODELS[name]()
    for edge in edges_of(dense)[::step]:
        result = drop(dense, DropEdges(names=(edge.name,)))
        assert gone(result) == [edge.name]
        check_alike(dense, result.graph, [edge])


def test_nested_concatenations_part_ways() -> None:
    """In this form each concatenation reads the last one: without an edge it must no longer, or later ones lose it."""
    dense = MODELS["light-densenet121"]()
    names = ["r37:0", "r52:1", "r52:2"]
    chosen = [edge for edge in edges_of(dense) if edge.name in names]
    assert [edge.name for edge in chosen] == names
    result = drop(dense, DropEdges(names=tuple(names)))
    check_alike(dense, result.graph, chosen)
    assert parameters(dense) - parameters(result.graph) == sum(edge.parameters for edge in chosen)


def test_the_smallest_weights_go_first() -> None:
    dense = MODELS["densenet121"]()
    quiet = edges_of(dense)[::4]
    for edge in quiet:
        for reading in edge.readings:
            weight = dense[reading.weight]
            assert weight.const is not None
            array = weight.const.numpy().copy()
            np.moveaxis(array, reading.axis, 0)[reading.columns] *= 1e-4
            weight.set_const(Tensor(array))
    result = drop(dense, DropEdges(ratio=(len(quiet) + 0.5) / len(edges_of(dense))))
    assert gone(result) == [edge.name for edge in quiet]
    rows = result.report.entries[0].rows
    assert all((float(str(row["score"])) < 1e-6) == row["dropped"] for row in rows)


def test_something_stays_of_each_concatenation() -> None:
    dense = MODELS["light-squeezenet"]()
    result = drop(dense, DropEdges(ratio=0.99, criterion="random"))
    assert len(gone(result)) == 8
    assert not [op for op in result.graph.ops() if op.op_type == "Concat"]
    chosen = [edge for edge in edges_of(dense) if edge.name in gone(result)]
    check_alike(dense, result.graph, chosen)


@pytest.mark.parametrize(
    ("name", "one", "said"),
    [
        ("densenet121", DropEdges(names=("cat_1:7",)), ["no edge 'cat_1:7'", "did you mean cat_1:1"]),
        ("densenet121", DropEdges(names=("cat_1:0", "cat_1:1")), ["nothing of the concatenation 'cat_1'"]),
        ("densenet121", DropEdges(ratio=0.01), ["0.01 of 28 edges is less than one"]),
        ("shufflenet-v2", DropEdges(), ["no concatenation", "cat:0", "regroups"]),
        ("shufflenet-v2", DropEdges(names=("cat:1",)), ["the edge cat:1, by which 'relu_3' is read", "regroups"]),
        ("vit", DropEdges(), ["no concatenation"]),
    ],
)
def test_refusals_say_what_and_why(name: str, one: DropEdges, said: list[str]) -> None:
    with pytest.raises(RefusedError) as error:
        drop(MODELS[name](), one)
    for words in said:
        assert words in str(error.value)


@pytest.mark.parametrize("options", ["ratio=0.0", "ratio=1.0", "names=[a], ratio=0.5"])
def test_options_that_make_no_sense(options: str) -> None:
    with pytest.raises(TextError):
        parse_pipeline(f"drop-edges{{{options}}}")
