"""A layer as `rows @ matrix.T + bias`, whatever op computes it, and back."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.ir.graph import Graph
from secateur.ir.node import Op, Value
from secateur.ir.rules.weights import WeightUse
from secateur.ir.tensor import Tensor

Array: TypeAlias = NDArray[np.float64]


def matrix_of(use: WeightUse) -> Array:
    """The weight as [outputs, inputs * taps] float64, input channels slowest, as `patches` orders them."""
    oriented = np.moveaxis(use.tensor.numpy().astype(np.float64), (use.produced, use.contracted), (0, 1))
    return oriented.reshape(len(oriented), -1) * float(use.op.attribute("alpha", 1.0))


def bias_of(use: WeightUse) -> Array | None:
    """The bias [outputs] that the layer adds, zeros where it could take one and has none; None where it takes none."""
    if use.bias_port is None:
        return None
    bias = np.zeros(use.outputs)
    if use.bias is not None and use.bias.const is not None:
        bias = bias + float(use.op.attribute("beta", 1.0)) * use.bias.const.numpy().astype(np.float64).reshape(-1)
    return bias


def write_layer(graph: Graph, use: WeightUse, matrix: Array, bias: Array | None) -> None:
    """Gives a layer a weight, shaped like the one that its op has now, and a bias.

    A bias that was not there is added. Numbers are rounded to the type of the weight.
    """
    op = use.op
    value = op.inputs[use.port]
    assert value is not None
    assert value.const is not None
    present, dtype = np.moveaxis(value.const.numpy(), (use.produced, use.contracted), (0, 1)), value.const.dtype.numpy
    oriented = matrix.reshape(present.shape) / float(op.attribute("alpha", 1.0))
    weight = np.moveaxis(oriented, (0, 1), (use.produced, use.contracted))
    replace_constant(graph, op, use.port, weight.astype(dtype))
    if bias is None or use.bias_port is None:
        return
    rounded = (bias / float(op.attribute("beta", 1.0))).astype(dtype)
    if op.input(use.bias_port) is not None:
        replace_constant(graph, op, use.bias_port, rounded)
    else:
        added = graph.add_constant(f"{use.weight.name}_bias", Tensor(rounded))
        graph.set_inputs(op, [*op.inputs[: use.bias_port], added])


def replace_constant(graph: Graph, op: Op, port: int, array: NDArray[Any]) -> Value:
    """Gives `op` another constant at `port`; the old one's name stays with it unless something else reads it too."""
    value = op.inputs[port]
    assert value is not None
    assert value.const is not None
    tensor = Tensor(np.ascontiguousarray(array), value.const.dtype)
    if graph.consumers(value) == [op] and op.inputs.count(value) == 1 and value not in graph.outputs:
        value.set_const(tensor)
        return value
    own = graph.add_constant(value.name, tensor)
    graph.set_inputs(op, [own if index == port else present for index, present in enumerate(op.inputs)])
    return own
