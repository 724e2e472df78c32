"""Making up for dropped blocks: the mean comes out right wherever it is put, and nothing gets worse."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np
import pytest
from helpers.dropping import dropped, found_in
from helpers.graphs import Net
from helpers.zoo import random_feeds, zoo
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.batches import Batch
from secateur.calib.capture import PairedStream, Part
from secateur.calib.drift import HELD_OUT, Drift
from secateur.calib.output_error import Answers, meanings
from secateur.calib.sources import open_source
from secateur.ir import Graph
from secateur.ir.build import emit
from secateur.ir.errors import DataError, TextError
from secateur.ir.node import Value
from secateur.ir.onnx_shapes import infer
from secateur.ir.removable import Removable, is_composite
from secateur.ir.rules.known import Known
from secateur.passes import Context, Result, run_pipeline
from secateur.passes.cleanup.dead_code import RemoveDeadCode
from secateur.passes.drop.blocks import DropBlocks
from secateur.passes.drop.bypass import bypass
from secateur.passes.drop.compensation import Filled, compensate, end_of, hold
from secateur.passes.pipeline import parse_pipeline
from secateur.passes.settings import Check, Settings

MODELS = zoo("small")
_RUNNER = partial(OnnxRuntimeRunner, threads=1)
COLUMNS = "compensation", "error_before", "error_after", "output_error"


def drop(graph: Graph, text: str, batches: Sequence[Batch]) -> Result:
    context = Context(runner=_RUNNER, source=open_source(list(batches)))
    return run_pipeline(graph, parse_pipeline(text), context, settings=Settings(check=Check.FULL))


def fetch(graph: Graph, names: Sequence[str], batch: Batch) -> list[np.ndarray]:
    with _RUNNER(graph, outputs=list(names)) as runner:
        found = runner.run(batch.feeds)
    return [found[name].astype(np.float64) for name in names]


def filled(result: Result) -> list[tuple[str, float, float]]:
    rows = [row for row in result.report.entries[0].rows if row["compensation"] is not None]
    return [(str(row["compensation"]), float(str(row["error_before"])), float(str(row["error_after"]))) for row in rows]


def fill(dense: Graph, names: Sequence[str], batches: Sequence[Batch]) -> tuple[Graph, list[Filled]]:
    """Without these blocks, and with what makes up for them, whatever the outputs say of that."""
    graph = dense.clone()
    blocks = [block for block in found_in(graph) if block.name in names]
    gaps = hold(graph, blocks)
    bypass(graph, blocks)
    RemoveDeadCode().run(graph, Context())
    context = Context(runner=_RUNNER, source=open_source(list(batches)))
    found = compensate(PairedStream(dense, graph), gaps, None, context)
    graph.verify()
    return graph, found


def stand_in(dense: Graph, small: Graph, end: Value) -> str:
    """What those that read the end of a gap read now."""
    for op, port in dense.uses(end):
        maker = small.producer(small[op.output.name]) if small.get(op.output.name) else None
        if maker is not None and maker.op_type == op.op_type and (value := maker.inputs[port]) is not None:
            return value.name
    raise AssertionError(f"nothing is left that reads {end.name}")


def removable(graph: Graph) -> list[Removable]:
    found = found_in(graph)
    return [
        one
        for one in found
        if one.pin is None and end_of(graph, one.exit) not in graph.outputs and not is_composite(one, found)
    ]


FOLDED = "vit bert gpt2 resnet50 convnext unet t5 llama bert-fused mobilenet-v2 swin".split()


@pytest.mark.parametrize("name", FOLDED)
def test_the_mean_of_what_stands_in_is_that_of_the_exit(name: str) -> None:
    dense = MODELS[name]()
    blocks = removable(dense)
    batch = Batch(random_feeds(dense, 5))
    assert (batch.samples or 1) < HELD_OUT, "all samples are fitted on"
    for block in {one.part: one for one in blocks}.values():
        small, (found,) = fill(dense, [block.name], [batch])
        plain = dropped(dense, [block.name])
        bridge, end = found.bridge, dense[found.gap.end.name]
        assert bridge.kind == "bias" and bridge.after < bridge.before
        (wanted,) = fetch(dense, [end.name], batch)
        (given,) = fetch(small, [stand_in(dense, small, end)], batch)
        axes = tuple(axis for axis in range(wanted.ndim) if axis != block.axis)
        scale = np.abs(wanted).mean()
        assert np.abs(wanted.mean(axes) - given.mean(axes)).max() < 1e-4 * scale
        error = np.mean(np.mean((wanted - given) ** 2, axes) / wanted.var(axes))
        assert bridge.after == pytest.approx(error, rel=1e-3)
        assert 0 <= len(small.ops()) - len(plain.ops()) <= 1


@pytest.mark.parametrize(
    ("name", "added"), [("vit", 0), ("bert", 0), ("gpt2", 0), ("mobilenet-v2", 0), ("resnet50", 1), ("llama", 1)]
)
def test_what_adds_already_takes_the_constant(name: str, added: int) -> None:
    """Llama adds no constant anywhere, and ResNet clips what is added, so that an Add is new; elsewhere none is."""
    dense = MODELS[name]()
    blocks = removable(dense)
    block = blocks[len(blocks) // 2]
    data = [Batch(random_feeds(dense, 5))]
    filled_in, plain = fill(dense, [block.name], data)[0], dropped(dense, [block.name])
    assert len(filled_in.ops()) - len(plain.ops()) == added


def linear_chain(axis: int, blocks: int = 4) -> Graph:
    """Blocks x + W x whose W is a linear map alone: along the last axis, or as a convolution of size 1."""
    net = Net("linear")
    value = net.op("Relu", net.input("x", 2, 6, 6) if axis == 2 else net.input("x", 2, 6, 3, 3), to="stem")
    for index in range(blocks):
        if axis == 2:
            made = net.op("MatMul", value, net.weight(f"w_{index}", 6, 6), to=f"f_{index}")
        else:
            made = net.op("Conv", value, net.weight(f"w_{index}", 6, 6, 1, 1), to=f"f_{index}")
        value = net.op("Add", value, made, to=f"y_{index}")
    return net.done((net.op("Relu", value, to="end"), (2, 6, 6) if axis == 2 else (2, 6, 3, 3)))


def batches_of(graph: Graph, count: int, seed: int = 0) -> list[Batch]:
    return [Batch(random_feeds(graph, seed + at)) for at in range(count)]


@pytest.mark.parametrize("axis", [2, 1])
@pytest.mark.parametrize("names", [["f_1"], ["f_1", "f_2"], ["f_0", "f_2"]])
def test_a_linear_block_is_replaced_by_its_map(axis: int, names: list[str]) -> None:
    dense = linear_chain(axis)
    result = drop(dense, f"drop-blocks{{names=[{', '.join(names)}], compensate=linear}}", batches_of(dense, 20))
    other = Batch(random_feeds(dense, 99))
    (wanted,), (given,) = (fetch(graph, ["end"], other) for graph in (dense, result.graph))
    assert np.abs(wanted - given).max() < 1e-3 * np.abs(wanted).max()
    together = names == ["f_1", "f_2"]
    assert [kind for kind, _, _ in filled(result)] == ["linear"] * (1 if together else len(names))
    kinds = [op.op_type for op in result.graph.ops()].count("MatMul" if axis == 2 else "Conv")
    assert kinds == (3 if together else 4), "blocks in a row get one map"
    assert "parameters takes its place" in result.report.entries[0].notes[0]


def test_later_gaps_see_what_earlier_ones_left() -> None:
    """Two gaps, each filled by a constant: the second one makes up for the rest of the first one, too."""
    dense = linear_chain(2, 5)
    data = [Batch(random_feeds(dense, 5))]
    result = drop(dense, "drop-blocks{names=[f_1, f_3]}", data)
    (wanted,), (given,) = (fetch(graph, ["y_4"], data[0]) for graph in (dense, result.graph))
    assert np.abs((wanted - given).mean((0, 1))).max() < 1e-4 * np.abs(wanted).mean()


def test_what_is_read_elsewhere_stays_as_it_was() -> None:
    """A branch beside the one that goes still reads the entry, not the entry with the constant."""
    net = Net("beside")
    value = net.op("MatMul", net.input("x", 2, 4, 6), net.weight("stem", 6, 6), to="h")
    value = net.op("Add", value, net.constant("b", np.zeros(6, "f4")), to="trunk")
    gone = net.op("MatMul", net.op("Relu", value), net.weight("w0", 6, 6), to="gone")
    stays = net.op("MatMul", net.op("Tanh", value), net.weight("w1", 6, 6), to="stays")
    end = net.op("Add", net.op("Add", value, gone, to="half"), stays, to="sum")
    dense = net.done((net.op("Relu", end, to="end"), (2, 4, 6)))
    batch = Batch(random_feeds(dense, 1))
    result = drop(dense, "drop-blocks{names=[gone]}", [batch])
    (wanted, mean), (given,) = fetch(dense, ["stays", "gone"], batch), fetch(result.graph, ["stays"], batch)
    assert np.array_equal(wanted, given)
    (total,), (left,) = fetch(dense, ["end"], batch), fetch(result.graph, ["end"], batch)
    assert not np.array_equal(total, left) and np.abs(mean.mean()) > 0
    assert len(filled(result)) == 1


def test_an_exit_that_is_an_output_is_left_alone() -> None:
    dense = linear_chain(2, 3)
    dense.set_interface(outputs=[dense["y_1"], dense["end"]])
    result = drop(dense, "drop-blocks{names=[f_1]}", batches_of(dense, 2))
    assert filled(result) == []


def test_without_data_there_is_nothing_to_make_up_with() -> None:
    dense = linear_chain(2)
    done = run_pipeline(dense, parse_pipeline("drop-blocks{names=[f_1]}"), Context())
    assert [done.report.entries[0].rows[0][column] for column in COLUMNS] == [None] * 4 and done.manifest.exact
    with pytest.raises(DataError, match="needs calibration data"):
        run_pipeline(dense, parse_pipeline("drop-blocks{names=[f_1], compensate=bias}"), Context(runner=_RUNNER))
    with pytest.raises(TextError):
        parse_pipeline("drop-blocks{samples=0}")


@given(
    seed=st.integers(0, 10**6),
    samples=st.integers(1, 14),
    width=st.integers(1, 5),
    linear=st.booleans(),
    noise=st.sampled_from([0.0, 0.1, 3.0]),
)
@settings(max_examples=60, deadline=None)
def test_never_worse_than_nothing(seed: int, samples: int, width: int, linear: bool, noise: float) -> None:
    """O9.4: on all of the data that there is, a constant never increases the error; a map none on held-out samples."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(samples, 3, width))
    y = x + x @ random.normal(size=(width, width)) * random.integers(0, 2) + noise * random.normal(size=x.shape)
    drift = Drift(2, linear=linear)
    for start in range(0, samples, 4):
        drift.update(x[start : start + 4], y[start : start + 4], 1.0)
    bridge = drift.bridges()[-1]
    held = np.arange(samples) % HELD_OUT == HELD_OUT - 1
    judged = held if held.any() else np.ones(samples, bool)
    given = x + bridge.bias + (0 if bridge.matrix is None else x @ bridge.matrix)
    variance = y.var(axis=(0, 1))
    for found, entry in ((bridge.before, x), (bridge.after, given)):
        expected = np.mean(np.mean((y - entry)[judged] ** 2, (0, 1)) / variance)
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert bridge.after <= bridge.before
    if bridge.kind != "linear":
        assert np.sum((y - given) ** 2 / variance) <= np.sum((y - x) ** 2 / variance) * (1 + 1e-9)
    if bridge.kind == "bias":
        assert np.allclose(bridge.bias, (y - x)[~held].mean((0, 1)))


def test_a_map_that_data_does_not_support_is_not_made() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(10, 2, 16))
    drift = Drift(2, linear=True)
    drift.update(x, x + 1 + 0.3 * random.normal(size=x.shape), 1.0)
    bridge = drift.bridges()[-1]
    # So few rows support a map of 16 x 16 only if it is hardly one: pulled to nothing, it is the constant.
    assert bridge.matrix is None or np.abs(bridge.matrix).max() < 0.02
    assert np.allclose(bridge.bias, 1, atol=0.35)


def test_in_half_precision_constants_stay_so() -> None:
    net = Net("half")
    value = emit(net.graph, "Cast", [net.input("x", 2, 4, 6)], {"to": 10}).output
    for index in range(3):
        weight = net.constant(f"w_{index}", np.random.default_rng(index).normal(size=(6, 6)).astype(np.float16) * 0.3)
        inner = net.op("Relu", net.op("MatMul", value, weight), to=f"f_{index}")
        value = net.op("Add", value, inner, to=f"y_{index}")
    graph = net.done((emit(net.graph, "Cast", [value], {"to": 1}).output, (2, 4, 6)))
    result = drop(graph, "drop-blocks{names=[f_1], compensate=linear}", batches_of(graph, 12))
    (kind,) = [kind for kind, _, _ in filled(result)]
    assert kind in ("bias", "linear")
    added = [value for value in result.graph.constants() if "instead" in value.name]
    assert added and all(value.const is not None and value.const.numpy().dtype == np.float16 for value in added)


@pytest.mark.parametrize("name", ["vit", "bert", "resnet50", "llama", "bert-fused"])
def test_the_outputs_are_never_worse_for_it(name: str) -> None:
    """Weights are random and samples few, so that what helps at the end of a gap need not help further on."""
    dense = MODELS[name]()
    names = tuple(block.name for block in removable(dense)[::2])
    source = open_source([Batch(random_feeds(dense, seed)) for seed in range(4)])
    errors = []
    ways: tuple[Literal["none", "bias", "linear"], ...] = ("none", "bias", "linear")
    for how in ways:
        context = Context(runner=_RUNNER, source=source)
        result = run_pipeline(dense, [DropBlocks(names=names, compensate=how, samples=100)], context)
        answers = Answers(Part(dense, source), meanings(Known(dense, infer(dense))), _RUNNER)
        errors.append(answers.error(result.graph))
        rows = [row for row in result.report.entries[0].rows if row["output_error"] is not None]
        assert how == "none" or float(str(rows[-1]["output_error"])) == pytest.approx(errors[-1], rel=1e-6)
    assert max(errors[1:]) <= errors[0] * (1 + 1e-6)


def test_a_block_right_behind_the_input() -> None:
    net = Net("bare")
    value = net.input("x", 2, 5, 6)
    for index in range(2):
        value = net.op(
            "Add", value, net.op("Softplus", net.op("MatMul", value, net.weight(f"w{index}", 6, 6)), to=f"f{index}")
        )
    dense = net.done((net.op("Tanh", value, to="end"), (2, 5, 6)))
    data = [Batch(random_feeds(dense, 1))]
    small, (found,) = fill(dense, ["f0"], data)
    assert found.bridge.kind == "bias" and [op.op_type for op in small.ops()].count("Add") == 2
    result = drop(dense, "drop-blocks{names=[f0, f1]}", data)
    ((kind, before, after),) = filled(result)
    assert kind == "bias" and after < before


def test_in_a_post_norm_model_the_norm_is_what_counts() -> None:
    """A sum without its branch is shorter, and the norm behind it does not care: neither does what is fitted."""
    dense = MODELS["bert"]()
    block = removable(dense)[1]
    graph = dense.clone()
    (gap,) = hold(graph, [one for one in found_in(graph) if one.name == block.name])
    maker = graph.producer(gap.end)
    assert maker is not None and maker.op_type == "LayerNormalization" and maker.inputs[0] is gap.blocks[0].exit
