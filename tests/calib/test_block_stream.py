"""Block by block: each block sees what it would see in the whole model, of the changed prefix and of the dense one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from helpers.graphs import random_feeds, tiny_graphs

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.batches import Batch
from secateur.calib.block_stream import Stage, Turn, capture_blocks
from secateur.calib.capture import CaptureOptions, PairedStream
from secateur.calib.sources import open_source
from secateur.ir import Graph, Tensor
from secateur.ir.blocks import Block, blocks, residual_blocks
from secateur.ir.build import add_constant, add_input, emit
from secateur.ir.errors import DataError, GraphError
from secateur.ir.extract import extract
from secateur.ir.runner import Runner


def exact(graph: Graph, *, inputs: Sequence[str] | None = None, outputs: Sequence[str] | None = None) -> Any:
    return OnnxRuntimeRunner(graph, inputs=inputs, outputs=outputs, optimize=False, threads=1)


class Kept:
    def __init__(self) -> None:
        self.arrays: list[tuple[Any, ...]] = []

    def update(self, *given: Any) -> None:
        self.arrays.append(tuple(array.copy() for array in given[:-1]))


def layers(count: int = 4) -> Graph:
    """Layers of two MatMuls each that all read a mask, which one op makes of an input; half the weights are shared."""
    random = np.random.default_rng(0)
    graph = Graph("layers")
    value, given = add_input(graph, "x", ("n", 6)), add_input(graph, "given", ("n", 1))
    mask = emit(graph, "Sigmoid", [given], outputs=("mask",)).output
    half = add_constant(graph, "half", np.float32(0.5))
    stored = add_constant(graph, "stored", random.normal(size=(6, 6)).astype(np.float32))
    shared = emit(graph, "Mul", [stored, half], outputs=("shared",)).output
    for index in range(count):
        weight = add_constant(graph, f"w{index}", random.normal(size=(6, 6)).astype(np.float32))
        inner = emit(graph, "Tanh", [emit(graph, "MatMul", [value, weight], outputs=(f"up{index}",)).output]).output
        inner = emit(graph, "Mul", [inner, mask], outputs=(f"masked{index}",)).output
        inner = emit(graph, "MatMul", [inner, shared], outputs=(f"down{index}",)).output
        value = emit(graph, "Add", [value, inner], outputs=(f"h{index}",)).output
    graph.set_interface(outputs=[value])
    return graph


def batches(count: int = 3) -> list[Batch]:
    random = np.random.default_rng(1)
    return [
        Batch({name: random.normal(size=(4, size)).astype(np.float32) for name, size in (("x", 6), ("given", 1))})
        for _ in range(count)
    ]


def whole(graph: Graph, names: Sequence[str]) -> list[dict[str, Any]]:
    with exact(graph, outputs=names) as runner:
        return [runner.run(batch.feeds) for batch in batches()]


def halve(graph: Graph, name: str) -> None:
    tensor = graph[name].const
    assert tensor is not None
    graph[name].set_const(Tensor(tensor.numpy() / 2))


def feeds(source: Any) -> list[dict[str, Any]]:
    return [dict(batch.feeds) for batch in source]


def same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def cut(graph: Graph) -> list[Block]:
    return blocks(graph, side=[graph["mask"]])


def test_each_block_gets_what_it_reads_in_the_whole_model_and_nothing_more() -> None:
    graph, seen = layers(), []

    def visit(stage: Stage) -> None:
        seen.append(stage.index)
        entry = stage.block.entry.name
        same(feeds(stage.inputs), whole(graph, [entry, "mask"]))
        same(feeds(stage.outputs), whole(graph, [stage.block.exit.name]))
        same(feeds(stage.targets), feeds(stage.outputs))
        kept = Kept()
        stage.capture({f"masked{stage.index}": [kept]})
        name = f"masked{stage.index}"
        same([{name: array} for (array,) in kept.arrays], whole(graph, [name]))

    assert len(cut(graph)) == 4
    capture_blocks(graph, open_source(batches()), exact, cut(graph), visit)
    assert seen == [0, 1, 2, 3]


def test_a_changed_block_feeds_the_next_one_and_the_dense_model_gives_the_targets() -> None:
    current = layers()
    dense = current.clone()

    def visit(stage: Stage) -> None:
        entry, end, index = stage.block.entry.name, stage.block.exit.name, stage.index
        same(feeds(stage.inputs), whole(current, [entry, "mask"]))
        same(feeds(stage.dense.source), whole(dense, [entry, "mask", end]))
        halve(current, f"w{index}")
        same(feeds(stage.outputs), whole(current, [end]))
        same(feeds(stage.targets), whole(dense, [end]))
        kept = Kept()
        stage.capture_pairs({(f"masked{index}", f"down{index}"): [kept]})
        same([{f"masked{index}": array} for array, _ in kept.arrays], whole(current, [f"masked{index}"]))
        same([{f"down{index}": array} for _, array in kept.arrays], whole(dense, [f"down{index}"]))

    capture_blocks(PairedStream(dense, current), open_source(batches()), exact, cut(current), visit)
    changed, original = whole(current, ["h3"]), whole(dense, ["h3"])
    assert not np.array_equal(changed[0]["h3"], original[0]["h3"])


def test_blocks_may_leave_gaps_and_side_values_are_computed_once() -> None:
    graph = layers()
    fetched: list[tuple[set[str], list[str]]] = []

    @contextmanager
    def counting(
        graph: Graph, *, inputs: Sequence[str] | None = None, outputs: Sequence[str] | None = None
    ) -> Iterator[Runner]:
        fetched.append((set(inputs or ()), list(outputs or ())))
        with exact(graph, inputs=inputs, outputs=outputs) as runner:
            yield runner

    second, last = cut(graph)[1], cut(graph)[3]
    halved = []

    def visit(stage: Stage) -> None:
        same(feeds(stage.inputs), whole(graph, [stage.block.entry.name, "mask"]))
        halve(graph, f"w{1 + 2 * stage.index}")
        halved.append(stage.index)

    capture_blocks(graph, open_source(batches()), counting, [second, last], visit)
    assert halved == [0, 1]
    # The first run starts at the model's inputs, the second where the first block begins; the constant product is no
    # value to be kept, and the mask is known by then.
    assert fetched == [({"x", "given"}, ["h0", "mask"]), ({"h0", "mask"}, ["h2"])]


def two_turns(graph: Graph) -> list[Turn]:
    """One before the first MatMul of each block, one before the second."""
    found = []
    for index, block in enumerate(cut(graph)):
        late = [op for op in block.ops if op.output.name in (f"down{index}", f"h{index}")]
        found += [Turn(block, block.ops, (f"up{index}",)), Turn(block, late, (f"h{index}",))]
    return found


@pytest.mark.parametrize("ahead", [0, 1 << 20])
def test_a_block_visited_twice_is_run_once_if_there_is_room_for_what_lies_inside(ahead: int) -> None:
    current = layers()
    dense = current.clone()
    computed: list[str] = []
    began: list[set[str]] = []

    @contextmanager
    def counting(
        graph: Graph, *, inputs: Sequence[str] | None = None, outputs: Sequence[str] | None = None
    ) -> Iterator[Runner]:
        made = {value.name for op in extract(graph, inputs, list(outputs or ())).ops() for value in op.outputs}
        computed.extend(name for name in made if graph is dense and name.startswith("up"))
        with exact(graph, inputs=inputs, outputs=outputs) as runner:
            yield runner

    def visit(stage: Stage) -> None:
        block, is_late = divmod(stage.index, 2)
        own = f"masked{block}" if is_late else stage.block.entry.name
        began.append(set(stage.current.inputs or ()))
        wanted = [f"h{block}", f"masked{block}"]
        for part, graph in ((stage.current, current), (stage.dense, dense)):
            with exact(part.graph, inputs=part.inputs, outputs=wanted) as runner:
                same([runner.run(batch.feeds) for _, batch in part.walk()], whole(graph, wanted))
        assert (own in began[-1]) == (not is_late or ahead > 0)
        # At the beginning of a block there is as much room for it as what must be kept takes.
        known = f"{'h' if is_late else 'up'}{block}" in set(stage.dense.inputs or ())
        assert known == (ahead > 0 or not is_late)
        if not is_late:
            halve(current, f"w{block}")

    options = CaptureOptions(ahead=ahead)
    capture_blocks(PairedStream(dense, current), open_source(batches()), counting, two_turns(current), visit, options)
    assert len(began) == 8
    if ahead:
        assert sorted(computed) == ["up0", "up1", "up2", "up3"]


@pytest.mark.parametrize("ahead", [0, 1 << 20])
def test_what_a_block_gives_is_not_kept_beforehand_if_it_is_far_larger_than_what_enters(ahead: int) -> None:
    """The logits of a language model, say."""
    current = layers(1)
    wide = add_constant(current, "wide", np.ones((6, 60), np.float32))
    current.set_interface(outputs=[emit(current, "MatMul", [current["h0"], wide], outputs=("logits",)).output])
    dense, known = current.clone(), []

    def visit(stage: Stage) -> None:
        name = stage.block.exit.name
        known.append(name in set(stage.dense.inputs or ()))
        same(feeds(stage.targets), whole(dense, [name]))

    model, options = PairedStream(dense, current), CaptureOptions(ahead=ahead)
    capture_blocks(model, open_source(batches()), exact, cut(current), visit, options)
    assert known == [True, ahead > 0]


@pytest.mark.parametrize("name", sorted(tiny_graphs()))
@pytest.mark.parametrize("find", [blocks, residual_blocks])
def test_every_tiny_graph_walks_through_its_blocks(name: str, find: Any) -> None:
    graph = tiny_graphs()[name]()
    data = [random_feeds(graph, seed) for seed in range(2)]
    found: list[Block] = []
    taken: set[Any] = set()
    for block in find(graph):  # residual blocks may nest
        if taken.isdisjoint(block.ops):
            found.append(block)
            taken.update(block.ops)

    def visit(stage: Stage) -> None:
        with exact(graph, outputs=[stage.block.entry.name, stage.block.exit.name]) as runner:
            expected = [runner.run(batch) for batch in data]
        for one, other in zip(feeds(stage.inputs), expected, strict=True):
            if stage.block.entry.name in one:
                np.testing.assert_array_equal(one[stage.block.entry.name], other[stage.block.entry.name])
        same(feeds(stage.outputs), [{stage.block.exit.name: other[stage.block.exit.name]} for other in expected])

    capture_blocks(graph, open_source(data), exact, found, visit)


def test_weights_travel_with_their_batches_and_weight_zero_is_left_out() -> None:
    graph = layers(2)
    data = [Batch(batch.feeds, weight) for batch, weight in zip(batches(), (2.0, 0.0, 3.0), strict=True)]

    def visit(stage: Stage) -> None:
        assert [batch.weight for batch in stage.inputs] == [batch.weight for batch in stage.outputs] == [2.0, 3.0]

    capture_blocks(graph, open_source(data), exact, cut(graph), visit)


def test_blocks_out_of_order_or_overlapping_are_refused() -> None:
    graph = layers()
    first, second, *_ = cut(graph)
    source = open_source(batches())
    with pytest.raises(GraphError, match="block 0 reads 'h0', which depends on block 1"):
        capture_blocks(graph, source, exact, [second, first], lambda stage: None)
    with pytest.raises(GraphError, match="two blocks"):
        capture_blocks(graph, source, exact, [first, first], lambda stage: None)
    capture_blocks(graph, source, exact, [], lambda stage: None)


def test_a_value_that_a_change_took_away_is_named() -> None:
    graph = layers()

    def visit(stage: Stage) -> None:
        graph.rename(stage.block.exit, "another")

    with pytest.raises(GraphError, match="no value 'h0'"):
        capture_blocks(graph, open_source(batches()), exact, cut(graph)[:2], visit)


def test_what_is_not_finite_inside_a_block_is_named() -> None:
    graph = layers()
    tensor = graph["w2"].const
    assert tensor is not None
    graph["w2"].set_const(Tensor(tensor.numpy() * np.float32(np.inf)))

    def visit(stage: Stage) -> None:
        stage.capture({f"up{stage.index}": [Kept()]})

    with pytest.raises(DataError, match="value 'up2' has 24 of 24 elements"):
        capture_blocks(graph, open_source(batches()), exact, cut(graph), visit)


def test_progress_names_the_block() -> None:
    told: list[tuple[str, int, int]] = []
    options = CaptureOptions(progress=lambda doing, done, total: told.append((doing, done, total)))
    graph = layers(2)
    capture_blocks(graph, open_source(batches()), exact, cut(graph), lambda stage: None, options)
    assert told == [("entering block 1 of 2", done, 0) for done in (1, 2, 3)] + [
        ("entering block 2 of 2", done, 3) for done in (1, 2, 3)
    ]
