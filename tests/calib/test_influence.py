"""Block influence and angles: streamed, they are what a direct calculation gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.graphs import Net
from numpy.typing import NDArray

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.batches import Batch
from secateur.calib.capture import CaptureOptions, Part
from secateur.calib.influence import Passage, Similarity, similarities
from secateur.calib.sources import open_source
from secateur.ir import Graph
from secateur.ir.errors import DataError


def direct(x: NDArray[Any], y: NDArray[Any]) -> tuple[float, float]:
    """[samples, positions, channels], one position after another."""
    cosines = np.array([[u @ v / np.linalg.norm(u) / np.linalg.norm(v) for u, v in zip(a, b)] for a, b in zip(x, y)])  # noqa: B905
    return 1 - cosines.mean(), np.arccos(cosines[:, -1]).mean() / np.pi


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_batch_by_batch_is_all_at_once(dtype: type) -> None:
    random = np.random.default_rng(0)
    x, y = (random.standard_normal((7, 5, 6)).astype(dtype) for _ in range(2))
    wanted = direct(x.astype(np.float64), y.astype(np.float64))
    for cuts in ([7], [3, 4], [1] * 7):
        found, start = Similarity(), 0
        for size in cuts:
            found.update(x[start : start + size], y[start : start + size], 2, 1.0)
            start += size
        assert np.allclose((found.influence, found.angle), wanted, atol=1e-9)


def test_channels_may_lie_on_any_axis_and_lengths_do_not_count() -> None:
    random = np.random.default_rng(1)
    x, y = (random.standard_normal((2, 6, 3, 4)) for _ in range(2))
    first, scaled = Similarity(), Similarity()
    first.update(x, y, 1, 1.0)
    scaled.update(x, 3.5 * y, 1, 1.0)
    rows = [np.moveaxis(array, 1, -1).reshape(2, 12, 6) for array in (x, y)]
    assert np.isclose(first.influence, direct(*rows)[0]) and np.isclose(first.influence, scaled.influence)
    assert np.isclose(first.angle, scaled.angle)


def test_the_extremes() -> None:
    x = np.random.default_rng(2).standard_normal((2, 3, 4))
    for factor, influence, angle in ((2.0, 0.0, 0.0), (-1.0, 2.0, 1.0)):
        found = Similarity()
        found.update(x, factor * x, 2, 1.0)
        assert np.isclose(found.influence, influence) and np.isclose(found.angle, angle, atol=1e-7)
    nothing = Similarity()
    nothing.update(np.zeros((2, 3, 4)), x, 2, 1.0)
    assert (nothing.influence, nothing.angle, nothing.positions) == (0.0, 0.0, 0.0)


def chain() -> Graph:
    net = Net("chain")
    value = net.input("x", "N", 5, 6)
    for index in range(3):
        value = net.op("MatMul", value, net.weight(f"w{index}", 6, 6), to=f"y{index}")
    return net.done((value, ("N", 5, 6)))


def test_weights_count_and_splitting_over_walks_changes_nothing() -> None:
    random, graph = np.random.default_rng(3), chain()
    batches = [
        Batch({"x": random.standard_normal((size, 5, 6)).astype("f4")}, weight) for size, weight in ((2, 3.0), (1, 1.0))
    ]
    thrice = [batches[0], batches[0], batches[0], batches[1]]
    passages = [Passage("y0", "y1", 2), Passage("y1", "y2", 2), Passage("x", "y2", 2)]
    results = []
    for some, limit in (
        (batches, 1 << 30),
        (batches, 1),
        (batches, None),
        ([Batch(one.feeds) for one in thrice], 1 << 30),
    ):
        options = CaptureOptions(memory_limit=limit)
        found = similarities(Part(graph, open_source(some)), passages, OnnxRuntimeRunner, options)
        results.append([(one.influence, one.angle) for one in found])
    assert all(np.allclose(results[0], other) for other in results[1:])


def test_what_cannot_be_compared() -> None:
    graph = chain()
    bad = open_source([Batch({"x": np.full((1, 5, 6), 3e38, np.float32)})])
    with pytest.raises(DataError, match="NaN or infinite in batch 0"):
        similarities(Part(graph, bad), [Passage("y0", "y1", 2)], OnnxRuntimeRunner)
    with pytest.raises(ValueError, match="not the same shape"):
        Similarity().update(np.ones((1, 2)), np.ones((1, 3)), 1, 1.0)
