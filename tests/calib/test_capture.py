"""Capture: whatever the batches, the memory and the company, each statistic sees the same values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from helpers.graphs import random_feeds, tiny_graphs

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.batches import Batch, Source
from secateur.calib.capture import CaptureOptions, PairedStream, capture, capture_pairs
from secateur.calib.gram import Gram
from secateur.calib.sources import open_source
from secateur.ir import Graph, Tensor
from secateur.ir.build import add_constant, add_input, emit
from secateur.ir.errors import DataError, GraphError
from secateur.ir.runner import Runner


def exact(graph: Graph, *, inputs: Sequence[str] | None = None, outputs: Sequence[str] | None = None) -> Any:
    return OnnxRuntimeRunner(graph, inputs=inputs, outputs=outputs, optimize=False, threads=1)


class Rows:
    """A Gram of the last axis."""

    def __init__(self, width: int) -> None:
        self.gram = Gram(width)

    def update(self, array: Any, weight: float) -> None:
        self.gram.update(array.reshape(-1, self.gram.width), weight=weight)


class Kept:
    """Everything that came, as it came."""

    def __init__(self) -> None:
        self.arrays: list[tuple[Any, ...]] = []
        self.weights: list[float] = []

    def update(self, *given: Any) -> None:
        *arrays, weight = given
        self.arrays.append(tuple(array.copy() for array in arrays))
        self.weights.append(weight)

    @property
    def only(self) -> list[Any]:
        return [array for (array,) in self.arrays]


class Counting:
    """A factory that notes which values were fetched together."""

    def __init__(self) -> None:
        self.fetched: list[list[str]] = []

    @contextmanager
    def __call__(
        self, graph: Graph, *, inputs: Sequence[str] | None = None, outputs: Sequence[str] | None = None
    ) -> Iterator[Runner]:
        if outputs is not None:
            self.fetched.append(list(outputs))
        with exact(graph, inputs=inputs, outputs=outputs) as runner:
            yield runner


def mlp() -> Graph:
    random = np.random.default_rng(0)
    graph = Graph("mlp")
    value = add_input(graph, "x", ("batch", 6))
    for index in range(3):
        weight = add_constant(graph, f"w{index}", random.normal(size=(6, 6)).astype(np.float32))
        value = emit(graph, "MatMul", [value, weight], outputs=(f"y{index}",)).output
        value = emit(graph, "Tanh", [value], outputs=(f"z{index}",)).output
    graph.set_interface(outputs=[value])
    return graph


def samples(count: int = 17, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32)


def source(batch_size: int = 4, data: Any = None) -> Source:
    return open_source({"x": samples() if data is None else data}, batch_size=batch_size)


def by_hand(graph: Graph, data: Any) -> dict[str, Any]:
    """The values of `mlp` with numpy in float64."""
    found, value = {"x": data}, data.astype(np.float64)
    for index in range(3):
        tensor = graph[f"w{index}"].const
        assert tensor is not None
        found[f"y{index}"] = value = value @ tensor.numpy()
        found[f"z{index}"] = value = np.tanh(value)
    return found


def test_a_gram_is_the_same_for_every_batch_size_and_equals_the_whole_product() -> None:
    graph, expected = mlp(), by_hand(mlp(), samples())
    for size in (1, 3, 8, 17):
        watched = {name: [Rows(6)] for name in ("y0", "z1", "x")}
        capture(graph, source(size), exact, watched)
        for name, (rows,) in watched.items():
            np.testing.assert_allclose(rows.gram.xx, expected[name].T @ expected[name], rtol=1e-5, atol=1e-5)
            assert rows.gram.rows == 17


def test_values_come_in_the_order_of_the_data_whatever_else_is_watched() -> None:
    graph = mlp()
    alone, first, second = Kept(), Kept(), Kept()
    capture(graph, source(), exact, {"z0": [alone]})
    capture(graph, source(), exact, {"z2": [Kept()], "z0": [first, second], "x": [Kept()]})
    for other in (first, second):
        np.testing.assert_array_equal(np.concatenate(other.only), np.concatenate(alone.only))
    np.testing.assert_allclose(np.concatenate(alone.only), by_hand(graph, samples())["z0"], rtol=1e-4, atol=1e-6)


def test_what_takes_too_much_memory_together_is_captured_in_several_walks() -> None:
    graph, names = mlp(), ["y0", "z0", "y1", "z1"]
    fetched = {}
    for limit in (None, 1, 2 * 4 * 6 * 4, 1 << 20):  # a value takes 4 samples x 6 x 4 bytes
        factory, watched = Counting(), {name: [Kept()] for name in names}
        capture(graph, source(), factory, watched, CaptureOptions(memory_limit=limit))
        fetched[limit] = factory.fetched
        for name, (kept,) in watched.items():
            np.testing.assert_allclose(np.concatenate(kept.only), by_hand(graph, samples())[name], rtol=1e-4, atol=1e-6)
    assert fetched[None] == fetched[1 << 20] == [names]
    assert fetched[1] == [[name] for name in names]
    assert fetched[2 * 4 * 6 * 4] == [names[:2], names[2:]]


def test_a_weight_counts_like_repetition_and_weight_zero_leaves_out() -> None:
    graph, data = mlp(), samples(6)
    weighed, repeated = Rows(6), Rows(6)
    weights = np.array([1, 1, 2, 2, 0, 3], np.float64)
    capture(graph, open_source({"x": data, "__weight__": weights}, batch_size=2), exact, {"z0": [weighed]})
    capture(graph, source(4, np.repeat(data, weights.astype(int), axis=0)), exact, {"z0": [repeated]})
    np.testing.assert_allclose(weighed.gram.xx, repeated.gram.xx, rtol=1e-6)
    assert weighed.gram.count == 9
    with pytest.raises(DataError, match="no batch of weight above 0"):
        capture(graph, open_source([Batch({"x": data}, 0.0)]), exact, {"z0": [weighed]})


def test_data_is_cast_to_what_the_model_takes_and_refused_where_it_does_not_fit() -> None:
    graph = mlp()
    kept = Kept()
    capture(graph, source(4, samples().astype(np.float64)), exact, {"x": [kept]})
    assert kept.only[0].dtype == np.float32
    with pytest.raises(DataError, match="size 5 on axis 1, expected 6"):
        capture(graph, source(4, samples()[:, :5]), exact, {"z0": [kept]})
    with pytest.raises(DataError, match="expected x"):
        capture(graph, open_source([{"y": samples()}]), exact, {"z0": [kept]})


@pytest.mark.parametrize("name", sorted(tiny_graphs()))
def test_every_value_of_every_graph_can_be_watched(name: str) -> None:
    graph = tiny_graphs()[name]()
    batches = [random_feeds(graph, seed) for seed in range(3)]
    names = [value.name for op in graph.ops() for value in op.outputs if value is not None] or ["x"]
    watched = {value: [Kept()] for value in names}
    capture(graph, open_source(batches), exact, watched)
    with exact(graph, outputs=names) as runner:
        expected = [runner.run(batch) for batch in batches]
    for value, (kept,) in watched.items():
        for found, outputs in zip(kept.only, expected, strict=True):
            np.testing.assert_array_equal(found, outputs[value])


def test_a_value_that_is_not_finite_is_named_with_its_batch() -> None:
    graph = Graph("logs")
    graph.set_interface(outputs=[emit(graph, "Log", [add_input(graph, "x", ("n", 3))], outputs=("y",)).output])
    data = np.ones((6, 3), np.float32)
    data[4, :2] = -1, 0
    with pytest.raises(DataError, match="value 'y' has 2 of 6 elements that are NaN or infinite in batch 2"):
        capture(graph, source(2, data), exact, {"y": [Kept()]})
    kept = Kept()
    capture(graph, source(2, data), exact, {"x": [kept]})
    assert len(kept.arrays) == 3


def test_an_unknown_value_is_refused_before_anything_runs() -> None:
    for watched in ({"nobody": [Kept()]}, {"nobody": [Kept()], "z0": [Kept()]}):
        with pytest.raises(GraphError, match="no value 'nobody'"):
            capture(mlp(), source(), exact, watched)


def test_nothing_to_watch_takes_no_walk() -> None:
    factory = Counting()
    capture(mlp(), source(), factory, {})
    capture(mlp(), source(), factory, {"z0": []})
    assert not factory.fetched


def test_pairs_bring_both_models_values_of_the_same_samples() -> None:
    dense = mlp()
    current = dense.clone()
    tensor = current["w0"].const
    assert tensor is not None
    current["w0"].set_const(Tensor(tensor.numpy() * np.float32(0.5)))
    watched: Mapping[tuple[str, str], list[Kept]] = {("z0", "y1"): [Kept()], ("z0", "z0"): [Kept()]}
    for limit in (1, None):
        capture_pairs(PairedStream(dense, current), source(), exact, watched, CaptureOptions(memory_limit=limit))
    changed, original = by_hand(current, samples()), by_hand(dense, samples())
    for (value, target), (kept,) in watched.items():
        assert len(kept.arrays) == 10
        for start, stop in ((0, 5), (5, 10)):
            arrays = [np.concatenate(found) for found in zip(*kept.arrays[start:stop], strict=True)]
            np.testing.assert_allclose(arrays[0], changed[value], rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(arrays[1], original[target], rtol=1e-4, atol=1e-6)


def test_progress_tells_how_far_it_is() -> None:
    told: list[tuple[str, int, int]] = []
    options = CaptureOptions(1, lambda doing, done, total: told.append((doing, done, total)))
    capture(mlp(), source(8), exact, {"z0": [Kept()], "z1": [Kept()]}, options)
    assert told == [("calibrating", 1, 0), ("calibrating", 2, 0), ("calibrating", 3, 0)] + [
        ("calibrating", done, 6) for done in (4, 5, 6)
    ]
