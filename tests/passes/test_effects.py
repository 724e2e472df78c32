"""What counts as the same outputs."""

from __future__ import annotations

from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from helpers.graphs import Net, dynamic_batch, gemm_mlp, overridable_input

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.batches import Batch
from secateur.ir import DataType, Graph
from secateur.passes import Context
from secateur.passes.cleanup.batchnorm import FoldBatchNorm
from secateur.passes.cleanup.dead_code import RemoveDeadCode
from secateur.passes.effects import broken_promise, differences, random_feeds, relative_error, sample_feeds

_RUNNER = partial(OnnxRuntimeRunner, optimize=False, threads=1)
_NAN, _INF = float("nan"), float("inf")


def _f32(*items: float) -> np.ndarray[Any, Any]:
    return np.array(items, np.float32)


@pytest.mark.parametrize(
    ("wanted", "got", "tolerance", "same"),
    [
        (_f32(1, -0.0, _NAN, _INF), _f32(1, 0.0, _NAN, _INF), 0, True),
        (_f32(1, 2), np.nextafter(_f32(1, 2), 3), 0, False),
        (_f32(1, 2), np.nextafter(_f32(1, 2), 3), 1e-6, True),
        (_f32(100, 0), _f32(100, 0.9e-3), 1e-5, True),
        (_f32(100, 0), _f32(100, 1.1e-3), 1e-5, False),
        (_f32(0, 0), _f32(0, 1e-4), 1e-5, False),
        (_f32(1, _NAN), _f32(1, 1), 1e-5, False),
        (_f32(1, 1), _f32(1, _NAN), 1e-5, False),
        (_f32(1, _INF), _f32(1, -_INF), 1e-5, False),
        (_f32(1, _INF), _f32(1, _INF), 1e-5, True),
        (_f32(), _f32(), 1e-5, True),
        (_f32(1), _f32(1).reshape(1, 1), 1e-5, False),
        (_f32(1), _f32(1).astype(np.float64), 1e-5, False),
        (np.array([1.0]), np.array([1 + 1e-12]), 1e-5, False),
        (np.array([1.0], np.float16), np.array([1.01], np.float16), 1e-5, True),
        (np.array([1.0], ml_dtypes.bfloat16), np.array([1.5], ml_dtypes.bfloat16), 1e-6, False),
        (np.array([3]), np.array([4]), 0.9, False),
        (np.array(["a", "b"], object), np.array(["a", "b"], object), 0, True),
        (np.array(["a", "b"], object), np.array(["a", "c"], object), 0, False),
        ([_f32(1), _f32(2)], [_f32(1), _f32(2)], 0, True),
        ([_f32(1), _f32(2)], [_f32(1), _f32(3)], 0, False),
        ([_f32(1)], [_f32(1), _f32(3)], 0, False),
        (None, None, 0, True),
        (None, _f32(1), 0, False),
    ],
)
def test_differences(wanted: Any, got: Any, tolerance: float, same: bool) -> None:
    assert bool(list(differences({"y": wanted}, {"y": got}, tolerance))) is not same


def test_relative_error_is_of_the_largest_magnitude() -> None:
    assert relative_error(_f32(4, 1), _f32(4, 2)) == 0.25
    assert relative_error(_f32(0, 0), _f32(0, 2)) == 2.0
    assert relative_error(_f32(), _f32()) == 0.0


def test_random_feeds_fit_the_inputs() -> None:
    feeds = random_feeds(dynamic_batch())
    assert feeds is not None and {name: feed.shape for name, feed in feeds.items()} == {"x": (2, 3, 6, 6)}
    assert list(random_feeds(overridable_input()) or ()) == ["x"]
    net = Net("strings")
    net.done((net.op("Identity", net.input("s", 3, dtype=DataType.STRING)), (3,)), dtype=DataType.STRING)
    assert random_feeds(net.graph) is None
    unknown = gemm_mlp()
    unknown.inputs[0].type = None
    assert random_feeds(unknown) is None


def test_calibration_data_comes_first() -> None:
    feeds = {"x": np.ones((4, 6), np.float32)}
    assert sample_feeds(gemm_mlp(), Context(source=[Batch(feeds)])) == feeds
    drawn = sample_feeds(gemm_mlp(), Context(source=[]))
    assert drawn is not None and drawn["x"].shape == (4, 6)


def _scaled(by: float) -> Graph:
    net = Net("scaled")
    return net.done((net.op("Mul", net.input("x", 3), net.constant("by", np.float32(by)), to="y"), (3,)))


def test_promises() -> None:
    context = Context(runner=_RUNNER)
    assert broken_promise(RemoveDeadCode(), _scaled(1), _scaled(1), context) is None
    assert "differs at 3 of 3" in str(broken_promise(RemoveDeadCode(), _scaled(1), _scaled(1 + 1e-6), context))
    assert broken_promise(FoldBatchNorm(), _scaled(1), _scaled(1 + 1e-6), context) is None
    assert "is off by" in str(broken_promise(FoldBatchNorm(), _scaled(1), _scaled(1 + 1e-4), context))
    assert broken_promise(RemoveDeadCode(), _scaled(1), _scaled(2), Context()) is None


def test_a_model_that_cannot_run_tells_nothing() -> None:
    broken, fine = Net("broken"), Net("fine")
    broken.done((broken.op("NoSuchOp", broken.input("x", 3), to="y"), (3,)))
    fine.done((fine.op("Neg", fine.input("x", 3), to="y"), (3,)))
    context = Context(runner=_RUNNER)
    assert broken_promise(RemoveDeadCode(), broken.graph, broken.graph, context) is None
    assert "no longer runs" in str(broken_promise(RemoveDeadCode(), fine.graph, broken.graph, context))


class _Noise:
    """A runtime that gives other numbers every time."""

    def __init__(self, graph: Graph, **part: object) -> None:
        self.names = [value.name for value in graph.outputs]

    def __enter__(self) -> _Noise:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def run(self, feeds: object) -> dict[str, np.ndarray[Any, Any]]:
        return {name: np.random.default_rng().random(3) for name in self.names}


def test_a_model_that_draws_random_numbers_tells_nothing() -> None:
    assert broken_promise(RemoveDeadCode(), _scaled(1), _scaled(1), Context(runner=_Noise)) is None
