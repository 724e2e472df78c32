"""Scores at values: the Fisher information in closed form, and by how much errors there move a real model's answers."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.zoo import random_feeds, zoo

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.backends.torch.scores import TorchDifferentiator
from secateur.calib.batches import Batch
from secateur.calib.sensitivity import sensitivities
from secateur.ir import Graph
from secateur.ir.build import add_constant, add_input, emit
from secateur.ir.errors import BackendError, GraphError
from secateur.ir.onnx_shapes import infer
from secateur.ir.rules.known import Known
from secateur.ir.runner import Meaning

pytest.importorskip("torch")

DRAWS = 4000


def _linear(columns: int) -> Graph:
    """y = relu(x) @ w."""
    graph = Graph("linear")
    read = emit(graph, "Relu", [add_input(graph, "x", (1, 4))], outputs=["hidden"]).output
    weight = add_constant(graph, "w", np.random.default_rng(0).normal(size=(4, columns)).astype(np.float32))
    made = emit(graph, "MatMul", [read, weight], outputs=["y"]).output
    graph.set_interface(outputs=[made])
    return graph


def _weight(graph: Graph) -> np.ndarray:
    tensor = graph["w"].const
    assert tensor is not None
    return tensor.numpy()


@pytest.mark.parametrize("meaning", ["logits", "probabilities", "numbers"])
def test_the_mean_of_squares_is_the_fisher_information(meaning: Meaning) -> None:
    graph = _linear(5)
    feeds = {"x": np.array([[1.0, 0.5, -1.0, 2.0]], np.float32)}
    with OnnxRuntimeRunner(graph) as runner:
        (output,) = runner.run(feeds).values()
    p = np.exp(output[0].astype(np.float64)) / np.exp(output[0].astype(np.float64)).sum()
    answer = "y"
    if meaning == "probabilities":
        answer = emit(graph, "Softmax", [graph["y"]], {"axis": -1}, outputs=["p"]).output.name
        graph.set_interface(outputs=[graph[answer]])
    with TorchDifferentiator(graph, at=["hidden", "y"], outputs={answer: meaning}) as scores:
        drawn = [scores.run(feeds, seed) for seed in range(DRAWS)]
    at_output = np.concatenate([one["y"] for one in drawn]).astype(np.float64)
    at_hidden = np.concatenate([one["hidden"] for one in drawn]).astype(np.float64)
    # With respect to logits it is the same whether these or their softmax are the answer.
    fisher = np.eye(5) if meaning == "numbers" else np.diag(p) - np.outer(p, p)
    np.testing.assert_allclose(at_output.mean(axis=0), 0, atol=0.06)
    np.testing.assert_allclose(at_output.T @ at_output / DRAWS, fisher, atol=0.08)
    weight = _weight(graph).astype(np.float64)
    np.testing.assert_allclose(
        at_hidden.T @ at_hidden / DRAWS, weight @ fisher @ weight.T, atol=0.15 * np.abs(weight).max() ** 2
    )


class _Feeds:
    name = "random feeds"

    def __init__(self, graph: Graph) -> None:
        self._batches = [Batch(random_feeds(graph, seed)) for seed in range(6)]

    def __iter__(self):
        return iter(self._batches)


@pytest.mark.parametrize("name", ["resnet50", "gpt2", "bert"])
def test_sensitivities_are_repeatable_and_name_every_channel(name: str) -> None:
    graph = zoo("small")[name]()
    kind = "Conv" if name == "resnet50" else "Gemm" if name == "gpt2" else "MatMul"
    ops = [op for op in graph.ops() if op.op_type == kind][:6]
    at = {op.output.name: 1 if kind == "Conv" else -1 for op in ops}
    known = Known(graph, infer(graph))
    first = sensitivities(known, _Feeds(graph), TorchDifferentiator, at, samples=8)
    again = sensitivities(known, _Feeds(graph), TorchDifferentiator, at, samples=8)
    other = sensitivities(known, _Feeds(graph), TorchDifferentiator, at, samples=8, seed=1)
    for name_, one in first.items():
        np.testing.assert_array_equal(one, again[name_])
        assert (one >= 0).all() and one.max() > 0
    assert any((one != other[name_]).any() for name_, one in first.items())


def test_half_the_weighted_square_of_an_error_is_the_divergence_that_it_causes() -> None:
    """On a linear model with one channel disturbed at a time: no sampling of positions, so nothing but the Fisher."""
    graph = _linear(6)
    random = np.random.default_rng(1)
    batches = [Batch({"x": random.normal(size=(1, 4)).astype(np.float32)}) for _ in range(400)]

    class Source:
        name = "rows"

        def __iter__(self):
            return iter(batches)

    known = Known(graph, infer(graph))
    found = sensitivities(known, Source(), TorchDifferentiator, {"hidden": 1}, samples=400)["hidden"]
    weight = _weight(graph).astype(np.float64)
    for channel in range(4):
        divergence = 0.0
        for batch in batches:
            hidden = np.maximum(batch.feeds["x"][0].astype(np.float64), 0)
            moved = hidden.copy()
            moved[channel] += 0.05
            p, q = (np.exp(one @ weight) / np.exp(one @ weight).sum() for one in (hidden, moved))
            divergence += float(np.sum(p * np.log(p / q))) / len(batches)
        np.testing.assert_allclose(0.5 * found[channel] * 0.05**2, divergence, rtol=0.35)


def test_what_is_not_there_or_does_not_matter_is_named() -> None:
    graph = _linear(5)
    with pytest.raises(GraphError, match="nowhere"):
        TorchDifferentiator(graph, at=["nowhere"], outputs={"y": "logits"})
    with pytest.raises(GraphError, match="no output hidden"):
        TorchDifferentiator(graph, at=["hidden"], outputs={"hidden": "numbers"})
    graph.set_interface(outputs=[emit(graph, "Shape", [graph["y"]]).output])
    differentiator = TorchDifferentiator(graph, at=["hidden"], outputs={})
    with differentiator as scores, pytest.raises(BackendError, match="no answer"):
        scores.run({"x": np.ones((1, 4), np.float32)}, 0)
