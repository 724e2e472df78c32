"""Adding to what layers add: by the port of their op, or by an Add behind them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.ir.graph import Graph
from secateur.ir.node import Value
from secateur.ir.rules.weights import WeightUse
from secateur.ir.tensor import Tensor
from secateur.passes.layers.matrix import added_bias, read_type, replace_constant

Array: TypeAlias = NDArray[np.float64]

_LAYERS = frozenset({("", "Conv"), ("", "ConvTranspose"), ("", "Gemm"), ("", "MatMul")})


def why_no_bias(graph: Graph, use: WeightUse) -> str | None:
    """Why a constant cannot be added to what each channel of a layer gives; None where it can."""
    if use.batch or len(use.rows) > 1 or use.op.key not in _LAYERS:
        return "it is more than one matrix or kernel"
    if use.bias_port is None:
        return None if added_bias(graph, use) is not None else "no constant is added to what it gives"
    if use.bias is None:
        return None
    tensor = graph.constant(use.bias)
    if tensor is None:
        return "its bias is computed"
    if tensor.size not in (1, use.outputs):
        return "its bias is not one number for each channel"
    return None if use.op.attribute("beta", 1.0) else "its bias counts nothing"


Undo: TypeAlias = Callable[[], None]


def add_to_bias(graph: Graph, use: WeightUse, shift: Array) -> Undo | None:
    """Adds `shift` [outputs] to what a layer gives, by a new bias where there was none; returns what takes it back.

    None, and nothing is done, where that changes no number, or gives one that is infinite.
    """
    before, value = _stored(graph, use)
    dtype = read_type(graph, use).numpy if value is None or value.const is None else value.const.dtype.numpy
    after = (before + shift / float(use.op.attribute("beta", 1.0))).astype(dtype)
    if np.array_equal(after.astype(np.float64), before) or not np.isfinite(after.astype(np.float64)).all():
        return None
    behind = added_bias(graph, use)
    op = use.op if behind is None else behind.op
    inputs, tensor = op.inputs, None if value is None else value.const

    def undo() -> None:
        if value is not None and tensor is not None:
            value.set_const(tensor)
        fresh = [one for one in op.inputs if one is not None and one not in inputs]
        graph.set_inputs(op, inputs)
        graph.remove(*fresh)

    if behind is not None:
        replace_constant(graph, behind.op, behind.port, after)
        return undo
    assert use.bias_port is not None
    if value is not None:
        replace_constant(graph, use.op, use.bias_port, after)
    else:
        added = graph.add_constant(f"{use.weight.name}_bias", Tensor(after, read_type(graph, use)))
        first = [use.op.input(port) for port in range(use.bias_port)]
        graph.set_inputs(use.op, [*first, added, *use.op.inputs[use.bias_port + 1 :]])
    return undo


def _stored(graph: Graph, use: WeightUse) -> tuple[Array, Value | None]:
    """The bias [outputs] as it is stored, zeros where there is none yet, and the constant that has it."""
    if (behind := added_bias(graph, use)) is not None:
        return behind.array, behind.op.inputs[behind.port]
    if use.bias is None or use.bias.const is None:
        return np.zeros(use.outputs), None
    stored = use.bias.const.numpy().astype(np.float64).reshape(-1)
    return np.broadcast_to(stored, (use.outputs,)).copy(), use.bias
