"""Dropping blocks: what is left computes what the dense model does with the branches multiplied by zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from helpers.dropping import check_alike, dropped, found_in, run
from helpers.graphs import Net
from helpers.zoo import random_feeds, zoo

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.batches import Batch
from secateur.calib.sources import open_source
from secateur.ir import Graph
from secateur.ir.errors import RefusedError, TextError
from secateur.ir.onnx_write import to_bytes
from secateur.ir.removable import Part, is_composite
from secateur.passes import Context, Result, run_pipeline
from secateur.passes.pipeline import parse_pipeline

MODELS = zoo("small", "real")
TRIED = (
    "resnet50 mobilenet-v2 convnext swin vit vit-packed vit-torch bert bert-opset17 bert-dynamic bert-dynamic-opset17 "
    "bert-opset23 gpt2 llama llama-mqa llama-dynamic llama-opset23 t5 mixtral qwen-moe experts-dense experts-routed "
    "unet efficientnet-lite0 bert-fused gpt2-fused llama-fused"
).split()


@pytest.mark.parametrize("name", TRIED)
def test_each_kind_and_all_at_once(name: str) -> None:
    dense = MODELS[name]()
    blocks = [block for block in found_in(dense) if block.pin is None]
    lone = {block.part: [block.name] for block in blocks}  # the last of each kind
    everything = [block.name for block in blocks if not is_composite(block, blocks)]
    layers = [block.name for block in blocks if block.part is Part.LAYER]
    for names in [*lone.values(), everything, *([layers] if len(layers) > 1 else [])]:
        check_alike(name, dense, dropped(dense, names), names)


@pytest.mark.parametrize("name", ["vit", "bert", "t5", "resnet50", "bert-fused"])
def test_the_ops_of_a_block_are_gone_and_all_others_stay(name: str) -> None:
    dense = MODELS[name]()
    for block in found_in(dense):
        if block.pin is None:
            left = {op.output.name for op in dropped(dense, [block.name]).ops()}
            gone = {op.output.name for op in dense.ops()} - left
            expected = {op.output.name for op in block.ops}
            # An op that adds and normalizes goes on under another name; what made constants only for the block may go.
            assert expected <= gone
            assert block.parameters == parameters(dense) - parameters(dropped(dense, [block.name])) or "fused" in name


def parameters(graph: Graph) -> int:
    tensors = [value.const for value in graph.constants() if value.const is not None]
    return sum(tensor.size for tensor in tensors if tensor.shape and tensor.dtype.is_float)


def chain(scales: Sequence[float], *, exposed: bool = False) -> Graph:
    """Blocks x + x·W·V whose branches add `scale` times something orthogonal to x on average."""
    net = Net("chain")
    value = net.op("MatMul", net.input("x", 2, 5, 8), net.weight("stem", 8, 8), to="stem_out")
    for index, scale in enumerate(scales):
        inner = net.op("Relu", net.op("MatMul", value, net.weight(f"up_{index}", 8, 16)), to=f"inner_{index}")
        down = net.constant(f"down_{index}", np.random.default_rng(index).standard_normal((16, 8)).astype("f4") * scale)
        value = net.op("Add", value, net.op("MatMul", inner, down, to=f"branch_{index}"), to=f"sum_{index}")
    end = net.op("MatMul", value, net.weight("head", 8, 3), to="logits")
    outputs: list[Any] = [(end, (2, 5, 3))]
    return net.done(*outputs, *([(net.graph["inner_1"], (2, 5, 16))] if exposed else []))


def drop(graph: Graph, text: str, *, data: bool = True, seed: int = 0) -> Result:
    before = to_bytes(graph)
    batches = [Batch(random_feeds(graph, seed)) for seed in range(3)]
    context = Context(runner=OnnxRuntimeRunner, source=open_source(batches) if data else None, seed=seed)
    try:
        return run_pipeline(graph, parse_pipeline(text), context)
    finally:
        assert to_bytes(graph) == before, "the graph that was handed in stays as it was"


def gone(result: Result) -> list[str]:
    return [str(row["block"]) for row in result.report.entries[0].rows if row["dropped"]]


@pytest.mark.parametrize("criterion", ["influence", "auto"])
def test_the_blocks_that_change_least_go(criterion: str) -> None:
    graph = chain([1, 0.5, 0.01, 2, 0.02, 1])
    result = drop(graph, f"drop-blocks{{count=2, criterion={criterion}, part=ffn}}")
    assert gone(result) == ["branch_2", "branch_4"]
    rows = result.report.entries[0].rows
    assert [row["part"] for row in rows] == ["ffn"] * 6
    assert [row["parameters"] for row in rows] == [256] * 6
    scores = [float(str(row["score"])) for row in rows]
    assert all(0 < score < 2 for score in scores) and max(scores[2], scores[4]) < 0.02 < min(scores[0], scores[5])


@pytest.mark.parametrize("criterion", ["relative", "greedy"])
def test_so_do_those_that_change_least_by_other_measures(criterion: str) -> None:
    graph = chain([1, 0.5, 0.01, 2, 0.02, 1])
    assert gone(drop(graph, f"drop-blocks{{count=2, criterion={criterion}}}")) == ["branch_2", "branch_4"]


def test_a_share_is_rounded_down_and_the_ends_stay() -> None:
    graph = chain([0.01, 0.5, 1, 2, 0.01])
    assert gone(drop(graph, "drop-blocks{ratio=0.5}")) == ["branch_1", "branch_2"]
    assert gone(drop(graph, "drop-blocks{ratio=0.5, protect=0}")) == ["branch_0", "branch_4"]
    assert gone(drop(graph, "drop-blocks")) == ["branch_1"]


def test_without_data_the_deepest_go_and_a_note_says_so() -> None:
    graph = chain([1, 1, 1, 1, 1])
    result = drop(graph, "drop-blocks{count=2}", data=False)
    assert gone(result) == ["branch_2", "branch_3"]
    assert "no calibration data" in result.report.entries[0].notes[0]
    assert {gone(drop(graph, "drop-blocks{count=1, criterion=random}", seed=seed))[0] for seed in range(12)} == {
        "branch_1",
        "branch_2",
        "branch_3",
    }


def test_a_block_whose_writer_is_zero_has_no_influence_and_goes_without_a_trace() -> None:
    graph = chain([1, 0, 1, 1])
    result = drop(graph, "drop-blocks{count=1}")
    assert gone(result) == ["branch_1"]
    assert abs(float(str(result.report.entries[0].rows[1]["score"]))) < 1e-6
    feeds = random_feeds(graph, 9)
    assert np.array_equal(run(graph, feeds)["logits"], run(result.graph, feeds)["logits"])


def test_a_layer_goes_with_its_parts() -> None:
    graph = MODELS["vit"]()
    names = [block.name for block in found_in(graph)][:3]
    together, layer = dropped(graph, names), dropped(graph, names[2:])
    assert str(together) == str(layer)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("drop-blocks{names=[branch_7]}", ["no block 'branch_7'", "branch_1"]),
        ("drop-blocks{names=[branch_1]}", ["branch_1", "Add '/sum_1'", "'inner_1'", "is an output of the model"]),
        ("drop-blocks{count=3}", ["3 blocks were asked for", "there are 3", "protect=1 keeps 2"]),
        ("drop-blocks{ratio=0.2}", ["a share of 0.2 is less than one block"]),
        ("drop-blocks{part=attention}", ["no attention block"]),
        ("drop-blocks{part=layer}", ["no layer"]),
    ],
)
def test_refusals_say_what_and_why(text: str, said: list[str]) -> None:
    with pytest.raises(RefusedError) as error:
        drop(chain([1, 1, 1, 1], exposed=True), text)
    for words in said:
        assert words in str(error.value)


@pytest.mark.parametrize("options", ["count=1, ratio=0.5", "count=0", "ratio=1.0", "protect=-1", "names=[a], count=1"])
def test_options_that_make_no_sense(options: str) -> None:
    with pytest.raises(TextError):
        parse_pipeline(f"drop-blocks{{{options}}}")


def test_an_output_must_not_become_an_input() -> None:
    net = Net("bare")
    value = net.input("x", 2, 5, 8)
    for index in range(2):
        inner = net.op("Relu", net.op("MatMul", value, net.weight(f"up_{index}", 8, 16)))
        value = net.op(
            "Add", value, net.op("MatMul", inner, net.weight(f"down_{index}", 16, 8), to=f"f{index}"), to=f"y{index}"
        )
    graph = net.done((value, (2, 5, 8)))
    one = drop(graph, "drop-blocks{names=[f1]}").graph
    assert [output.name for output in one.outputs] == ["y1"]
    check_alike("", graph, one, ["f1"])
    with pytest.raises(RefusedError, match="would be nothing but its input 'x'"):
        drop(graph, "drop-blocks{names=[f0, f1]}")


def test_what_goes_does_not_depend_on_how_the_data_is_cut() -> None:
    """Statistics stream: the same samples in other batches give the same scores."""
    graph = MODELS["bert-dynamic"]()
    feeds = random_feeds(graph, 1)
    scores = []
    for cuts in ([slice(0, 3)], [slice(0, 1), slice(1, 3)]):
        batches = [Batch({name: array[cut] for name, array in feeds.items()}) for cut in cuts]
        context = Context(runner=OnnxRuntimeRunner, source=open_source(batches))
        result = run_pipeline(graph, parse_pipeline("drop-blocks{protect=0}"), context)
        scores.append([float(str(row["score"])) for row in result.report.entries[0].rows])
    assert np.allclose(scores[0], scores[1], rtol=1e-5)
