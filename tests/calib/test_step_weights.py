"""Weights of the steps of a sampler, and that they come to what they are for: the Gram matrix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.batches import Batch
from secateur.calib.capture import capture
from secateur.calib.gram import Gram
from secateur.calib.sources import open_source
from secateur.calib.step_weights import Schedule, step_weights, weighted_steps
from secateur.ir import Graph
from secateur.ir.build import add_constant, add_input, emit
from secateur.ir.errors import DataError
from secateur.passes.context import Context
from secateur.passes.manager import run_pipeline
from secateur.passes.pipeline import parse_pipeline

Array = np.ndarray[Any, Any]
STEPS, WIDTH = 4, 8


def _denoiser() -> Graph:
    """Two layers on what is noisy; the step is an input of its own."""
    random, graph = np.random.default_rng(0), Graph("denoiser")
    x, step = add_input(graph, "x", ["n", WIDTH]), add_input(graph, "step", ["n", 1])
    first, second = (
        add_constant(graph, name, random.normal(size=(WIDTH, WIDTH)).astype(np.float32)) for name in ("first", "second")
    )
    hidden = emit(graph, "Add", [emit(graph, "MatMul", [x, first]).output, step]).output
    graph.set_interface(outputs=[emit(graph, "MatMul", [emit(graph, "Relu", [hidden]).output, second]).output])
    graph.verify()
    return graph


def _runs(copies: tuple[int, ...] = (1,) * STEPS) -> Iterator[list[dict[str, Array]]]:
    """Two runs of the sampler: noise at first, less and less of it; each step as often as `copies` says."""
    random = np.random.default_rng(3)
    for _ in range(2):
        scales = np.exp(random.normal(size=(STEPS, WIDTH)))
        steps = [(random.normal(size=(5, WIDTH)) * scale).astype(np.float32) for scale in scales]
        yield [
            {"x": np.tile(x, (count, 1)), "step": np.full((len(x) * count, 1), number / STEPS, np.float32)}
            for number, (x, count) in enumerate(zip(steps, copies, strict=True))
        ]


class _Summed:
    def __init__(self) -> None:
        self.gram = Gram(WIDTH)

    def update(self, array: Array, weight: float) -> None:
        self.gram.update(array, weight=weight)


def test_early_steps_count_more() -> None:
    found = step_weights(25)
    np.testing.assert_allclose((found[0], found[-1]), (1.2, 0.8))
    assert (np.diff(found) < 0).all()
    # The last steps differ most.
    assert (np.diff(found, 2) < 1e-12).all()
    np.testing.assert_allclose(found[5], 0.8 + 0.4 * np.log(20) / np.log(25))


@given(st.integers(1, 60), st.sampled_from(["linear-decrease", "log-decrease"]))
def test_schedules_are_each_others_mirrors(steps: int, down: Schedule) -> None:
    found = step_weights(steps, down, 0.5, 2.0)
    up: Schedule = "linear-increase" if down == "linear-decrease" else "log-increase"
    np.testing.assert_array_equal(step_weights(steps, up, 0.5, 2.0), found[::-1])
    assert found[0] == 2.0
    assert found[-1] == (0.5 if steps > 1 else 2.0)
    np.testing.assert_array_equal(step_weights(steps, down, 1.0, 1.0), step_weights(steps, "uniform"))


def test_weights_are_as_good_as_copies() -> None:
    """A step that counts three times is one that is there three times."""
    copies, grams = (3, 2, 1, 1), []
    for trajectories, weights in ((_runs, np.array(copies, float)), (lambda: _runs(copies), np.ones(STEPS))):
        source, seen = open_source(weighted_steps(trajectories, weights)), _Summed()
        capture(_denoiser(), source, OnnxRuntimeRunner, {"x": [seen]})
        grams.append(seen.gram)
    np.testing.assert_allclose(grams[0].xx, grams[1].xx, rtol=1e-10)
    assert grams[0].count == grams[1].count == 2 * 5 * 7


def _masks(weights: Array) -> dict[str, Array]:
    graph = _denoiser()
    context = Context(runner=OnnxRuntimeRunner, source=open_source(weighted_steps(_runs, weights)))
    options = "pattern=50%,criterion=wanda,repair=none,worthwhile=false"
    result = run_pipeline(graph, parse_pipeline(f"sparsify{{{options}}}"), context)
    constants = [(value.name, value.const) for value in result.graph.constants()]
    return {
        name: const.numpy() != 0 for name, const in constants if const is not None and const.shape == (WIDTH, WIDTH)
    }


def test_steps_count_in_sparsify_what_their_weights_say() -> None:
    even = _masks(step_weights(STEPS, "uniform"))
    scaled = _masks(3.0 * step_weights(STEPS, "uniform"))
    for name, mask in even.items():
        np.testing.assert_array_equal(mask, scaled[name])
    # One step alone: the mask of the first layer is that by the norms of its inputs at this step.
    for step in (0, STEPS - 1):
        found = _masks(np.eye(STEPS)[step])
        rows = np.concatenate([run[step]["x"] for run in _runs()])
        weight = _denoiser()["first"].const
        assert weight is not None
        fitted = np.arange(len(rows)) % 5 != 4
        saliency = np.abs(weight.numpy().T) * np.linalg.norm(rows[fitted], axis=0)
        order = np.argsort(saliency.reshape(-1), kind="stable")
        np.testing.assert_array_equal(np.sort(np.flatnonzero(~found["first"].T.reshape(-1))), np.sort(order[:32]))
    assert any((mask != _masks(np.eye(STEPS)[0])[name]).any() for name, mask in even.items())


def test_nonsense_is_refused() -> None:
    for arguments in ((0,), (3, "cosine"), (3, "uniform", 2.0, 1.0)):
        with pytest.raises(ValueError, match=r"step|schedule|weights"):
            step_weights(*arguments)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="4 steps, but there are weights for 3"):
        list(weighted_steps(_runs, step_weights(3))())
    assert all(isinstance(batch, Batch) for batch in weighted_steps(_runs, step_weights(STEPS))())
