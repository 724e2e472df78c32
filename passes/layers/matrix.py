"""A layer as `rows @ matrix.T + bias`, whatever op computes it, and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
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


@dataclass(frozen=True)
class AddedBias:
    """A constant that an Add of its own gives to what a MatMul makes: `port` of `op`, as an array [outputs]."""

    op: Op
    port: int
    array: Array


def added_bias(graph: Graph, use: WeightUse) -> AddedBias | None:
    """The Add that gives a layer its bias; None where the op takes one itself, or its output goes elsewhere too."""
    made = use.op.output
    readers = graph.uses(made)
    if use.bias_port is not None or len(readers) != 1 or made in graph.outputs:
        return None
    op, port = readers[0]
    other = op.inputs[1 - port] if op.key == ("", "Add") else None
    tensor = None if other is None else graph.constant(other)
    # Of a weight on the left, outputs are not the last axis.
    if tensor is None or use.port == 0 or tensor.shape != (use.outputs,):
        return None
    return AddedBias(op, 1 - port, tensor.numpy().astype(np.float64))


def clip_of(graph: Graph, use: WeightUse) -> tuple[float, float] | None:
    """The least and the greatest output that counts, where all of it goes through a Relu or a Clip next, from 0 on."""
    behind = added_bias(graph, use)
    made = use.op.output if behind is None else behind.op.output
    readers = graph.uses(made)
    if len(readers) != 1 or made in graph.outputs:
        return None
    op, _ = readers[0]
    if op.key == ("", "Relu"):
        return 0.0, math.inf
    if op.key != ("", "Clip"):
        return None
    bounds = [graph.constant(op.input(port)) for port in (1, 2)]
    low = op.attribute("min", None) if bounds[0] is None else float(bounds[0].numpy())
    high = op.attribute("max", None) if bounds[1] is None else float(bounds[1].numpy())
    is_open = op.input(2) is None and high is None
    if low != 0.0 or (high is None and not is_open):
        return None
    return 0.0, math.inf if high is None else float(high)


def bias_of(use: WeightUse, graph: Graph | None = None) -> Array | None:
    """The bias [outputs] that the layer adds, zeros where it could take one and has none; None where it takes none.

    With a graph, a MatMul can take one where an Add behind it gives it a constant: zeros, what is to be added to that.
    """
    if use.bias_port is None:
        return np.zeros(use.outputs) if graph is not None and added_bias(graph, use) is not None else None
    bias = np.zeros(use.outputs)
    if use.bias is not None and use.bias.const is not None:
        bias = bias + float(use.op.attribute("beta", 1.0)) * use.bias.const.numpy().astype(np.float64).reshape(-1)
    return bias


def write_layer(graph: Graph, use: WeightUse, matrix: Array, bias: Array | None) -> None:
    """Gives a layer a weight, shaped like the one that its op has now, and a bias.

    A bias that was not there is added; that of a MatMul is added to the constant of the Add behind it. Numbers are
    rounded to the type of the weight.
    """
    op = use.op
    value = op.inputs[use.port]
    assert value is not None
    assert value.const is not None
    present, dtype = np.moveaxis(value.const.numpy(), (use.produced, use.contracted), (0, 1)), value.const.dtype.numpy
    oriented = matrix.reshape(present.shape) / float(op.attribute("alpha", 1.0))
    weight = np.moveaxis(oriented, (0, 1), (use.produced, use.contracted))
    replace_constant(graph, op, use.port, weight.astype(dtype))
    if bias is None:
        return
    if use.bias_port is None:
        if bias.any() and (behind := added_bias(graph, use)) is not None:
            replace_constant(graph, behind.op, behind.port, (behind.array + bias).astype(dtype))
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
