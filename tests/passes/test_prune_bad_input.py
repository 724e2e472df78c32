"""What prune must not do: a refusal or a note names the group, the op and the reason, and the graph stays as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.convolutional import Net as Convolutions
from helpers.graphs import Net, random_feeds
from helpers.masking import mask_readers

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.ir import DataType, Graph, Header, Tensor, TensorType
from secateur.ir.dims.groups import groups
from secateur.ir.dims.shrink import shrink
from secateur.ir.errors import RefusedError, TextError
from secateur.ir.onnx_write import to_bytes
from secateur.passes.context import Context
from secateur.passes.manager import Result, run_pipeline
from secateur.passes.pipeline import make_pass, parse_pipeline
from secateur.passes.prune.facts import dims

PADS = [1, 1, 1, 1]


def prune(graph: Graph, text: str = "prune{align=1, dims=all}", seed: int = 0) -> Result:
    """Prunes, and sees that the graph that was handed in stays as it was."""
    before = to_bytes(graph)
    result = run_pipeline(graph, parse_pipeline(text), Context(runner=OnnxRuntimeRunner, seed=seed))
    assert to_bytes(graph) == before
    return result


def remove(graph: Graph, name: str, kept: np.ndarray) -> None:
    """Removes units of a group behind the pass's back, from a copy."""
    copy = graph.clone()
    found = dims(copy)
    (group,) = [one for one in groups(found) if one.name == name]
    shrink(copy, found, {group.dim: kept})


def notes(result: Result) -> str:
    return "\n".join(result.report.entries[0].notes)


def run(graph: Graph, feeds: dict[str, Any]) -> dict[str, Any]:
    with OnnxRuntimeRunner(graph) as runner:
        return dict(runner.run(feeds))


def looped() -> Graph:
    """Two convolutions with a loop between them."""
    net = Net("looped")
    value = net.conv(net.input("x", 1, 3, 4, 4), "first", 8, 3, 1, 1)
    count, go_on = net.constant("count", np.int64(3)), net.constant("go_on", np.bool_(True))
    body = net.body("turn")
    body.input("turn_number", dtype=DataType.INT64)
    still, state = body.input("still", dtype=DataType.BOOL), body.input("state", 1, 8, 4, 4)
    kept = body.op("Identity", still, to="kept")
    kept.type = TensorType(DataType.BOOL, ())
    body.done((body.op("Relu", state, to="moved"), (1, 8, 4, 4)))
    body.graph.set_interface(outputs=[kept, *body.graph.outputs])
    value = net.op("Loop", count, go_on, value, body=body.graph, to="looped")
    return net.done((net.conv(value, "second", 5, 8, 1, 1), (1, 5, 4, 4)))


def captured() -> Graph:
    """Two convolutions; what is between them is read inside the body of a loop, too."""
    net = Net("captured")
    inner = net.conv(net.input("x", 1, 3, 4, 4), "first", 8, 3, 1, 1)
    start = net.conv(net.input("z", 1, 3, 4, 4), "start", 8, 3, 1, 1)
    count, go_on = net.constant("count", np.int64(3)), net.constant("go_on", np.bool_(True))
    body = net.body("turn")
    body.input("turn_number", dtype=DataType.INT64)
    still, state = body.input("still", dtype=DataType.BOOL), body.input("state", 1, 8, 4, 4)
    kept = body.op("Identity", still, to="kept")
    kept.type = TensorType(DataType.BOOL, ())
    body.done((body.op("Add", state, inner, to="moved"), (1, 8, 4, 4)))
    body.graph.set_interface(outputs=[kept, *body.graph.outputs])
    looped = net.op("Loop", count, go_on, start, body=body.graph, to="looped")
    both = net.op("Sub", net.conv(inner, "second", 5, 8, 1, 1), net.conv(looped, "third", 5, 8, 1, 1), to="both")
    return net.done((both, (1, 5, 4, 4)))


def dynamic() -> Graph:
    """A convolution's channels are added to an input whose number of channels is not known."""
    net = Net("dynamic")
    value = net.conv(net.input("x", 1, 3, 9, 9), "first", 8, 3, 3, 3, pads=PADS)
    value = net.op("Add", value, net.input("y", 1, "channels", 9, 9), to="sum")
    return net.done((net.conv(value, "second", 5, 8, 1, 1), (1, 5, 9, 9)))


def blocks(size: int, block: int) -> Graph:
    """A weight whose `size` inputs are quantized in blocks along them."""
    net = Net("blocks", graph=Graph("blocks", header=Header(ir_version=10, opsets=(("", 21),))))
    value = net.op("MatMul", net.input("x", 2, 6), net.weight("up", 6, size), to="up_product")
    value = net.op("Relu", value, to="relu")
    codes = net.constant("codes", net.random.integers(-100, 100, (size, 5)).astype(np.int8))
    scales = net.scale("scales", -(-size // block), 5)
    weight = net.op("DequantizeLinear", codes, scales, axis=0, block_size=block, to="down")
    return net.done((net.op("MatMul", value, weight, to="y"), (2, 5)))


def chain_of_one_weight() -> Graph:
    """Two layers share a weight: its rows are the second one's inputs, its columns the first one's."""
    net = Convolutions().conv(8, pads=PADS).op("Relu")
    shared = net.weight(8, 8, 3, 3)
    return net.op("Conv", shared, pads=PADS).op("Relu").op("Conv", shared, pads=PADS).op("Relu").conv(5, 1).done()


@pytest.mark.parametrize("ratio", [1, 1.5, -0.1])
def test_ratios_that_are_no_share_are_refused(ratio: float) -> None:
    with pytest.raises(TextError, match=r"prune: ratio must be in \[0, 1\), got"):
        parse_pipeline(f"clean,prune{{ratio={ratio}}}")
    with pytest.raises(TextError, match=r"ratio must be in \[0, 1\)"):
        make_pass("prune", ratio=float("nan"))


@pytest.mark.parametrize("text", ["dims=sideways", "criterion=luck", "align=-1", "ratio=half", "shares=0.5"])
def test_options_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(TextError, match=text.partition("=")[0]):
        parse_pipeline(f"prune{{{text}}}")


def test_one_unit_of_a_group_always_stays() -> None:
    graph = Convolutions().conv(8, pads=PADS).op("Relu").conv(6, pads=PADS).op("Relu").conv(5).done()
    result = prune(graph, "prune{ratio=0.999, align=1}")
    assert [row["kept"] for row in result.report.entries[0].rows] == [1, 1]
    (found,) = run(result.graph, {"x": np.ones((2, 3, 9, 9), np.float32)}).values()
    assert found.shape == (2, 5, 7, 7)


@pytest.mark.parametrize("ratio", [0, 0.1])
def test_a_share_that_is_less_than_a_unit_removes_nothing_and_says_so(ratio: float) -> None:
    graph = Convolutions().conv(8).conv(5).done()
    result = prune(graph, f"prune{{ratio={ratio}, align=1}}")
    assert to_bytes(result.graph) == to_bytes(graph)
    assert "w:0 keeps its 8: a share of" in notes(result)


def test_a_loop_is_left_alone_and_named() -> None:
    graph = looped()
    result = prune(graph)
    assert to_bytes(result.graph) == to_bytes(graph)
    assert "first.weight:0 keeps its 8: Loop '/looped' has a body" in notes(result)
    assert "second.weight:1 keeps its 8" in notes(result)


def test_what_a_body_reads_from_outside_is_left_alone_and_named() -> None:
    graph = captured()
    inner = next(op for op in graph.ops() if op.op_type == "Conv").output.name
    result = prune(graph)
    assert to_bytes(result.graph) == to_bytes(graph)
    assert f"first.weight:0 keeps its 8: {inner!r} is read inside a body of Loop '/looped'" in notes(result)
    assert "start.weight:0 keeps its 8: Loop '/looped' has a body" in notes(result)
    with pytest.raises(RefusedError, match="read inside a body of Loop '/looped'"):
        remove(graph, "first.weight:0", np.arange(4))


def test_an_axis_of_unknown_size_is_left_alone_and_named() -> None:
    graph = dynamic()
    result = prune(graph)
    assert to_bytes(result.graph) == to_bytes(graph)
    (note,) = [line for line in notes(result).splitlines() if line.startswith("first.weight:0 keeps its 8")]
    assert "Add '/sum' takes it for 'channels', an axis whose size is not known before run time" in note
    with pytest.raises(RefusedError, match="cannot be pruned: Add '/sum' takes it for 'channels'"):
        remove(graph, "first.weight:0", np.arange(4))


def test_nothing_and_what_is_not_there_cannot_be_kept() -> None:
    graph = Convolutions().conv(8, pads=PADS).op("Relu").conv(5).done()
    for kept, words in (
        ([], "nothing of the dimension of 8"),
        ([0, 8], "must rise from 0 to 7"),
        ([3, 3], "must rise"),
        ([-1, 0], "must rise"),
    ):
        with pytest.raises(RefusedError, match=words):
            remove(graph, "w:0", np.array(kept, np.int64))


@pytest.mark.parametrize(
    ("units", "words"),
    [
        ({"w:0": 0}, "has 8 units, and cannot keep 0"),
        ({"w:0": []}, "has 8 units, and none would be left"),
        ({"w:0": [1, 8]}, r"must rise from 0 to 7, got \[1, 8\]"),
        ({"w:7": 3}, "no group 'w:7'"),
        ({"w:1": 2}, "the group 'w:1' cannot be pruned: 'x' is an input of the model"),
    ],
)
def test_units_that_cannot_be_kept_are_refused_by_name(tmp_path: Path, units: dict[str, Any], words: str) -> None:
    graph = Convolutions().conv(8, pads=PADS).op("Relu").conv(5).done()
    before, path = to_bytes(graph), tmp_path / "units.json"
    path.write_text(json.dumps(units))
    with pytest.raises(RefusedError, match=words):
        prune(graph, f'prune{{units="{path}"}}')
    assert to_bytes(graph) == before


@pytest.mark.parametrize(("size", "block", "ratio", "kept"), [(32, 16, 0.5, 16), (32, 8, 0.3, 24), (32, 16, 0.3, 32)])
def test_quantized_blocks_go_whole(size: int, block: int, ratio: float, kept: int) -> None:
    graph = blocks(size, block)
    result = prune(graph, f"prune{{ratio={ratio}, align=1}}")
    assert f"DequantizeLinear '/down' scales {block} of them together" in notes(result)
    codes, scales = (result.graph[name].const for name in ("codes", "scales"))
    assert codes is not None
    assert scales is not None
    assert (codes.shape[0], scales.shape[0]) == (kept, kept // block)
    stays = result.manifest.kept.get("up", {}).get(1, np.arange(size))
    up = graph["up"].const
    assert up is not None
    graph["up"].set_const(Tensor(np.where(np.isin(np.arange(size), stays), up.numpy(), np.float32(0))))
    feeds = random_feeds(graph)
    np.testing.assert_allclose(run(result.graph, feeds)["y"], run(graph, feeds)["y"], rtol=1e-4, atol=1e-4)


def test_quantized_blocks_that_do_not_divide_stay_whole() -> None:
    graph = blocks(24, 16)
    result = prune(graph)
    assert to_bytes(result.graph) == to_bytes(graph)
    (note,) = [line for line in notes(result).splitlines() if line.startswith("up:1 keeps its 24")]
    assert "DequantizeLinear '/down'" in note


def test_layers_that_want_different_parts_of_one_weight_get_their_own() -> None:
    graph, masked = chain_of_one_weight(), chain_of_one_weight()
    result = prune(graph, "prune{criterion=random, align=1}", seed=3)
    weights = [value for value in result.graph.constants() if value.const is not None and len(value.const.shape) == 4]
    assert len(weights) == 4
    found = dims(masked)
    counts = {row["group"]: row["kept"] for row in result.report.entries[0].rows}
    drawn = {
        group.dim: np.sort(Context(seed=3).random(group.name).permutation(group.size)[: counts[group.name]])
        for group in groups(found)
        if group.name in counts
    }
    assert len(drawn) == 3
    mask_readers(masked, found, drawn)
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 3, 9, 9)).astype(np.float32)}
    one, other = (next(iter(run(each, feeds).values())) for each in (result.graph, masked))
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_a_weight_that_is_an_output_too_stays_whole_there() -> None:
    net = Convolutions().conv(8)
    shared = net.weight(5, 8, 3, 3)
    net.op("Conv", shared)
    net.graph.set_interface(outputs=[net.value, shared])
    result = prune(net.graph)
    before, after = (graph[shared.name].const for graph in (net.graph, result.graph))
    assert before is not None
    assert after is not None
    np.testing.assert_array_equal(after.numpy(), before.numpy())
    assert result.report.rewrites == 1


def test_random_is_seeded_by_the_run_and_the_group() -> None:
    graph = Convolutions().conv(16, pads=PADS).op("Relu").conv(16, pads=PADS).op("Relu").conv(5).done()

    def kept(seed: int, dims: str = "inner") -> list[list[int]]:
        found = prune(graph, f"prune{{criterion=random, align=1, dims={dims}}}", seed).manifest.kept
        return [found[name][0].tolist() for name in ("w", "w_2")]

    assert kept(5) == kept(5, "channels")
    assert kept(5) != kept(6)
    first, second = kept(5)
    assert first != second
    assert len(first) == len(second) == 8
    assert "at random" in notes(prune(graph, "prune{criterion=random, align=1}"))


def test_random_takes_every_unit_as_often_as_another() -> None:
    graph = Convolutions().conv(6, 1).conv(2, 1).done()
    taken = np.zeros(6)
    for seed in range(60):
        taken[prune(graph, "prune{criterion=random, align=1}", seed).manifest.kept["w"][0]] += 1
    # Binomial with 60 draws of one half: the standard deviation is under 4.
    assert (np.abs(taken - 30) < 17).all()
