"""The nine topologies of the `onnx` wheel with weights in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from helpers.models import filled, light_models
from helpers.onnxruntime_runs import session
from helpers.zoo_feeds import random_feeds

from secateur.ir import Graph, Tensor, Value
from secateur.ir.extract import extract
from secateur.ir.onnx_write import to_bytes

Array = np.ndarray
_DRAWN = {"BatchNormalization": "+~~+", "Conv": "w~", "Gemm": "w~"}
"""What the constants of an operator, from the second input on, are drawn like."""


def write_light(name: str, path: Path) -> None:
    """Writes `light_<name>.onnx` with its weights filled in to `path`."""
    (found,) = [path for path in light_models() if path.stem == f"light_{name}"]
    graph = filled(found)
    settle(graph)
    soften(graph)
    graph.save(path, external_data=False)


def settle(graph: Graph, seed: int = 1) -> None:
    """Redraws what makes a deep net explode.

    Variances and scales of BatchNormalization come to lie between a half and one and a half, convolutions get the gain
    that a ReLU takes (He et al. 2015, section 2.2), and biases are small.
    """
    random = np.random.default_rng(seed)

    def positive(old: Array) -> Array:
        return random.uniform(0.5, 1.5, old.shape)

    def small(old: Array) -> Array:
        return random.normal(0, 0.3, old.shape)

    def rectified(old: Array) -> Array:
        return random.standard_normal(old.shape, np.float32) * np.float32(np.sqrt(2 / np.prod(old.shape[1:])))

    for op in graph.ops():
        for place, draw in enumerate(_DRAWN.get(op.op_type, ""), start=1):
            _redraw(graph, op.input(place), {"+": positive, "~": small, "w": rectified}[draw])


def soften(graph: Graph) -> None:
    """Scales the last layer so that the softmax sees numbers that spread by one: a saturated one hides every cut."""
    softmax = graph.producer(graph.outputs[0])
    if softmax is None or softmax.op_type != "Softmax":
        return
    value = softmax.inputs[0]
    assert value is not None
    part = extract(graph, None, [value.name])
    spread = session(to_bytes(part), optimise=True).run(None, random_feeds(graph))[0].std()
    layer = graph.producer(value)
    while layer is not None and layer.op_type not in ("Conv", "Gemm"):
        layer = graph.producer(layer.inputs[0]) if layer.inputs[0] is not None else None
    assert layer is not None, "nothing to scale before the softmax"
    for place in (1, 2):
        _redraw(graph, layer.input(place), lambda array: array / spread)


def _redraw(graph: Graph, value: Value | None, change: Callable[[Array], Array]) -> None:
    tensor = graph.constant(value)
    if value is not None and tensor is not None:
        value.set_const(Tensor(change(tensor.numpy()).astype(np.float32)))
