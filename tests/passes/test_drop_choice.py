"""Which blocks go: oracles of the criteria, brute force beside greedy, and how outputs are compared."""

from __future__ import annotations

import itertools
import math
from functools import partial

import numpy as np
import pytest
from helpers.dropping import found_in
from helpers.graphs import Net
from helpers.zoo import random_feeds, zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.batches import Batch, Source
from secateur.calib.capture import CaptureOptions, Part
from secateur.calib.influence import Similarity
from secateur.calib.output_error import Answers, OutputError, meanings
from secateur.calib.sources import open_source
from secateur.calib.spread import Spread
from secateur.ir import Graph
from secateur.ir.errors import DataError, GraphError, RefusedError
from secateur.ir.onnx_shapes import infer
from secateur.ir.rules.known import Known
from secateur.passes import Context, Result, run_pipeline
from secateur.passes.drop.choice import pattern
from secateur.passes.drop.greedy import greedy, without
from secateur.passes.pipeline import parse_pipeline

_RUNNER = partial(OnnxRuntimeRunner, threads=1)
MODELS = zoo("small")


def chain(scales: list[float]) -> Graph:
    """Blocks x + relu(x W) V, where V is scaled, and logits."""
    net = Net("chain")
    value = net.op("MatMul", net.input("x", 2, 5, 8), net.weight("stem", 8, 8), to="stem_out")
    for index, scale in enumerate(scales):
        inner = net.op("Relu", net.op("MatMul", value, net.weight(f"up_{index}", 8, 16)))
        down = net.constant(f"down_{index}", np.random.default_rng(index).standard_normal((16, 8)).astype("f4") * scale)
        value = net.op("Add", value, net.op("MatMul", inner, down, to=f"f{index}"), to=f"y{index}")
    return net.done((net.op("MatMul", value, net.weight("head", 8, 3), to="logits"), (2, 5, 3)))


def data(graph: Graph, count: int = 3) -> Source:
    return open_source([Batch(random_feeds(graph, seed)) for seed in range(count)])


def drop(graph: Graph, text: str, count: int = 3) -> Result:
    return run_pipeline(graph, parse_pipeline(text), Context(runner=_RUNNER, source=data(graph, count)))


def gone(result: Result) -> list[str]:
    return [str(row["block"]) for row in result.report.entries[0].rows if row["dropped"]]


def answers(graph: Graph, source: Source, memory_limit: int | None = None) -> Answers:
    return Answers(Part(graph, source), meanings(Known(graph, infer(graph))), _RUNNER, CaptureOptions(memory_limit))


@pytest.mark.parametrize("seed", range(4))
def test_greedy_is_brute_force_for_one_block_and_no_better_for_two(seed: int) -> None:
    """O9.3."""
    graph = chain(np.random.default_rng(seed).uniform(0.1, 1.5, 5).tolist())
    blocks, reference = found_in(graph), answers(graph, data(graph))
    found = greedy(graph, blocks, range(5), 2, reference, lambda *_: None)
    for size in (1, 2):
        every = {
            chosen: reference.error(without(graph, [blocks[at] for at in chosen]))
            for chosen in itertools.combinations(range(5), size)
        }
        assert found.errors[size - 1] == every[tuple(sorted(found.order[:size]))]
        assert found.errors[size - 1] >= min(every.values())
        if size == 1:
            assert found.errors[0] == min(every.values()) and found.alone == list(every.values())
    result = drop(graph, "drop-blocks{count=2, criterion=greedy, protect=0, samples=6}")
    assert gone(result) == [blocks[at].name for at in sorted(found.order)]
    assert f"{blocks[found.order[0]].name} ({found.errors[0]:.3g})" in result.report.entries[0].notes[0]


@pytest.mark.parametrize("criterion", ["influence", "relative", "greedy", "angle"])
def test_a_block_whose_writer_is_zero_goes_first_and_without_a_trace(criterion: str) -> None:
    """O9.1."""
    graph = chain([1, 0.5, 0, 1])
    result = drop(graph, f"drop-blocks{{count=1, criterion={criterion}}}")
    assert gone(result) == ["f2"] and result.manifest.exact
    # A float's worth of angle is the square root of a float's worth of cosine.
    assert abs(float(str(result.report.entries[0].rows[2]["score"]))) < 1e-3
    feeds = random_feeds(graph, 9)
    with _RUNNER(graph) as before, _RUNNER(result.graph) as after:
        assert np.array_equal(before.run(feeds)["logits"], after.run(feeds)["logits"])


@given(st.integers(0, 1000), st.floats(0.01, 100))
@settings(max_examples=25, deadline=None)
def test_influence_does_not_see_lengths_and_relative_does(seed: int, factor: float) -> None:
    """O9.2."""
    random = np.random.default_rng(seed)
    x, y = random.normal(size=(2, 3, 4, 5))
    one, other = Similarity(), Similarity()
    one.update(x, y, 2, 1.0)
    other.update(x, factor * y, 2, 1.0)
    assert math.isclose(one.influence, other.influence, rel_tol=1e-9)
    assert math.isclose(one.angle, other.angle, rel_tol=1e-9)
    lengths = np.linalg.norm(factor * y - x, axis=2) / np.linalg.norm(x, axis=2)
    assert math.isclose(other.relative, lengths.mean(), rel_tol=1e-9)


@pytest.mark.parametrize("criterion", ["influence", "relative", "greedy", "angle", "fixed", "last", "random"])
@pytest.mark.parametrize("name", ["vit", "bert", "mobilenet-v2"])
def test_as_many_go_as_were_asked_for_and_the_rest_keeps_its_order(name: str, criterion: str) -> None:
    """O9.5."""
    graph = MODELS[name]()
    result = drop(graph, f"drop-blocks{{count=1, criterion={criterion}, protect=0, samples=2}}", 1)
    assert len(gone(result)) == 1 == len(result.manifest.dropped)
    weights = {value.const for value in graph.constants()}
    before = [op.name for op in graph.ops() if any(value and value.const in weights for value in op.inputs)]
    after = [op.name for op in result.graph.ops() if op.name in before]
    assert after == [one for one in before if one in after]


def test_angle_takes_the_run_whose_ends_are_nearest() -> None:
    """Against every run, one by one, from what enters the first to what leaves the last."""
    graph = chain([1, 0.4, 0.2, 0.5, 0.01, 1, 0.3])
    blocks = found_in(graph)
    result = drop(graph, "drop-blocks{count=3, criterion=angle}")
    found = {}
    for first in range(1, 4):
        one = Similarity()
        names = [blocks[first].entry.name, blocks[first + 2].exit.name]
        with _RUNNER(graph, outputs=names) as runner:
            for batch in data(graph):
                got = runner.run(batch.feeds)
                one.update(got[names[0]], got[names[1]], 2, 1.0)
        found[first] = one.angle
    best = min(found, key=lambda first: found[first])
    assert gone(result) == [f"f{at}" for at in range(best, best + 3)]
    scores = [row["score"] for row in result.report.entries[0].rows]
    assert [scores[at] for at in found] == pytest.approx(list(found.values())) and scores[0] is scores[4] is None


def test_a_run_does_not_lead_from_one_stack_to_another() -> None:
    """Of T5 the encoder's last block and the decoder's first follow each other, and nothing else joins them."""
    graph = MODELS["t5"]()
    blocks = [block for block in found_in(graph) if block.pin is None and block.part.value != "layer"]
    result = drop(graph, f"drop-blocks{{count={len(blocks) // 2}, criterion=angle, protect=0}}", 1)
    rows = result.report.entries[0].rows
    judged = [str(row["block"]) for row in rows if row["score"] is not None]
    entries = {block.name: block.entry for block in blocks}
    assert judged and all(entries[name] in graph.nx for name in judged)
    with pytest.raises(RefusedError, match="lie in a row"):
        drop(graph, f"drop-blocks{{count={len(blocks)}, criterion=angle, protect=0}}", 1)


def test_the_fixed_pattern() -> None:
    """Of twelve the first of each pair stays in the first half, the last in the second."""
    assert [at for at in range(12) if at not in pattern(12)] == [0, 2, 4, 7, 9, 11]
    assert [len(pattern(count)) for count in range(2, 9)] == [0, 1, 2, 2, 2, 3, 4]
    graph = chain([1.0] * 8)
    assert gone(drop(graph, "drop-blocks{criterion=fixed}")) == ["f1", "f3", "f4", "f6"]
    assert gone(drop(graph, "drop-blocks{criterion=fixed, count=2}")) == ["f3", "f4"]
    with pytest.raises(RefusedError, match="fixed pattern has 4 of 8"):
        drop(graph, "drop-blocks{criterion=fixed, count=5}")


def test_what_outputs_mean() -> None:
    net = Net("outputs")
    x = net.input("x", 2, 5, 8)
    head = net.op("MatMul", x, net.weight("w", 8, 6), to="bare")
    outputs = [
        (head, 6),
        (net.op("Mul", net.op("Tanh", net.op("Add", head, net.weight("b", 6))), net.weight("cap"), to="capped"), 6),
        (net.op("Tanh", head, to="pooled"), 6),
        (net.op("Softmax", head, axis=-1, to="beliefs"), 6),
        (net.op("LogSoftmax", head, axis=-1, to="log"), 6),
        (net.op("Relu", x, to="hidden"), 8),
        (net.op("MatMul", x, net.weight("w2", 8, 2), to="two"), 2),
        (net.op("Softmax", head, axis=1, to="elsewhere"), 6),
        (net.op("MatMul", x, net.op("Transpose", net.weight("table", 7, 8), perm=[1, 0]), to="tied"), 7),
    ]
    graph = net.done(*[(value, (2, 5, width)) for value, width in outputs])
    assert meanings(Known(graph, infer(graph))) == {
        "bare": "logits",
        "capped": "logits",
        "pooled": "numbers",
        "beliefs": "probabilities",
        "log": "logits",
        "hidden": "numbers",
        "two": "numbers",
        "elsewhere": "numbers",
        "tied": "logits",
    }


def test_errors_of_outputs() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 4, 7))
    numbers, logits, beliefs = OutputError("numbers"), OutputError("logits"), OutputError("probabilities")
    for start in (0, 1, 3):
        part = slice(start, [1, 3, 4][[0, 1, 3].index(start)])
        numbers.update(a[part], b[part], 1.0)
        logits.update(a[part], b[part] + 5, 1.0)
        beliefs.update(softmax(a[part], -1), softmax(b[part], -1), 1.0)
    assert numbers.value == pytest.approx(np.sum((a - b) ** 2) / np.sum(a**2))
    p, q = softmax(a, -1), softmax(b, -1)
    assert logits.value == pytest.approx(np.mean(np.sum(p * np.log(p / q), -1))) == pytest.approx(beliefs.value)
    same = OutputError("logits")
    same.update(a, a + 3, 1.0)
    assert abs(same.value) < 1e-12 and OutputError("numbers").value == 0.0


def test_what_does_not_fit_into_memory_is_computed_again() -> None:
    graph = chain([1, 1, 1])
    source = data(graph, 4)
    other = without(graph, found_in(graph)[1:2])
    size = 2 * 5 * 3 * 4
    expected = answers(graph, source).error(other)
    assert expected > 0
    assert [answers(graph, source, limit).error(other) for limit in (0, size, 2 * size + 1)] == [expected] * 3


def test_models_and_data_that_cannot_be_compared() -> None:
    graph = chain([1, 1])
    feeds = {name: array * np.nan for name, array in random_feeds(graph, 0).items()}
    with pytest.raises(DataError, match="NaN"):
        answers(graph, open_source([Batch(feeds)]))
    net = Net("places")
    net.op("ArgMax", net.input("x", 2, 5), to="place")
    places = net.done()
    places.set_interface(outputs=[places["place"]])
    with pytest.raises(GraphError, match="no output of real numbers"):
        answers(places, open_source([Batch(random_feeds(places, 0))]))


@pytest.mark.parametrize("wanted", [1, 2, 5, 9, 40])
def test_samples_are_spread_over_all_batches(wanted: int) -> None:
    batches = [Batch({"x": np.arange(start, stop)[:, None]}) for start, stop in ((0, 4), (4, 5), (5, 12), (12, 20))]
    batches.insert(2, Batch({"x": np.full((3, 1), 99)}, 0.0))
    some = Spread(open_source(batches), wanted)
    found = np.concatenate([batch.feeds["x"][:, 0] for batch in some]).tolist()
    assert len(found) == min(wanted, 20) and sorted(set(found)) == found and 99 not in found
    assert found == [batch for one in some for batch in one.feeds["x"][:, 0].tolist()]
    assert max(np.diff([-1, *found, 20])) <= math.ceil(20 / min(wanted, 20)) + 1


@pytest.mark.parametrize(("wanted", "expected"), [(1, [7]), (4, [3, 11]), (8, [1, 5, 9, 13]), (99, list(range(16)))])
def test_a_model_of_one_batch_size_gets_whole_batches(wanted: int, expected: list[int]) -> None:
    """Sixteen batches of two: a quarter of the samples are a quarter of the batches."""
    batches = [Batch({"x": np.array([[index], [index]])}) for index in range(16)]
    found = [batch.feeds["x"].ravel().tolist() for batch in Spread(open_source(batches), wanted, whole=True)]
    assert len(found) == len(expected) and all(one == [one[0]] * 2 for one in found)
    assert all(abs(one[0] - index) <= 1 for one, index in zip(found, expected, strict=True))


def test_no_samples_are_an_error() -> None:
    with pytest.raises(DataError, match="no samples"):
        Spread(open_source([Batch({"x": np.zeros((2, 1))}, 0.0)]), 3)
    with pytest.raises(ValueError, match="at least 1"):
        Spread(open_source([Batch({"x": np.zeros((2, 1))})]), 0)
