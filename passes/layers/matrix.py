"""A layer as `rows @ matrix.T + bias`, whatever op computes it, and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.ir.build import emit
from secateur.ir.graph import Graph
from secateur.ir.node import Op, Value
from secateur.ir.rules.known import Known
from secateur.ir.rules.weights import WeightUse, strangers, weight_uses_of
from secateur.ir.spill import spilled
from secateur.ir.tensor import Tensor
from secateur.ir.types import DataType

Array: TypeAlias = NDArray[np.float64]


def same_use(graph: Graph, use: WeightUse) -> WeightUse:
    """In a clone of the graph that a use belongs to, the use that is its own."""
    op = graph.producer(graph[use.op.output.name])
    assert op is not None, "a clone has the ops of its original"
    found = weight_uses_of(Known(graph), op)
    return next(one for one in found if (one.port, one.weight.name) == (use.port, use.weight.name))


def matrix_of(use: WeightUse) -> Array:
    """The weight as [outputs, inputs * taps] float64, input channels slowest, as `patches` orders them.

    Raises:
        ValueError: it is several matrices, of groups or experts; `matrices_of` gives those.
    """
    found = matrices_of(use)
    if len(found) != 1:
        raise ValueError(f"{use.weight.name} is {len(found)} matrices, not one")
    (matrix,) = found
    return np.asarray(matrix)


def matrices_of(use: WeightUse) -> Array:
    """The weight as independent matrices [slabs, outputs, inputs * taps] float64, input channels slowest.

    Slabs are the matrices that are stacked (experts, slowest) and the groups of a convolution. Codes that a
    DequantizeLinear follows are given as they are stored; alpha of a Gemm is multiplied in.
    """
    return as_matrices(use, use.tensor.numpy().astype(np.float64)) * _alpha(use.op)


def as_matrices(use: WeightUse, array: NDArray[Any]) -> NDArray[Any]:
    """Anything shaped like the weight (a mask, saliencies) as [slabs, outputs, inputs * taps]."""
    oriented = array.transpose(use.order)
    stack, rows, inputs, taps = _sizes(use, array.shape)
    if use.is_transposed:
        # The groups of a transposed convolution lie along what it sums over.
        split = oriented.reshape(rows, use.groups, inputs // use.groups, taps).swapaxes(0, 1)
        return split.reshape(use.groups, rows, -1)
    return oriented.reshape(stack * use.groups, rows // use.groups, inputs * taps)


def from_matrices(use: WeightUse, matrices: NDArray[Any], shape: tuple[int, ...] | None = None) -> NDArray[Any]:
    """The inverse of `as_matrices`: an array of the weight's shape, or of another `shape` that its axes have by now."""
    shape = use.tensor.shape if shape is None else shape
    _, rows, inputs, taps = _sizes(use, shape)
    if use.is_transposed:
        matrices = matrices.reshape(use.groups, rows, inputs // use.groups, taps).swapaxes(0, 1)
    order = use.order
    oriented = matrices.reshape([shape[axis] for axis in order])
    return np.ascontiguousarray(oriented.transpose(np.argsort(order)))


def _sizes(use: WeightUse, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """What a weight of this shape stacks, produces (in all groups), sums over, and how many taps it has."""
    stack = math.prod(shape[axis] for axis in use.batch)
    rows = math.prod(shape[axis] for axis in use.rows or (use.produced,))
    return stack, rows, shape[use.contracted], math.prod(shape[axis] for axis in use.taps)


def _alpha(op: Op) -> float:
    return float(op.attribute("alpha", 1.0))


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
    # Of a weight on the left, outputs are not the last axis; one constant cannot be that of several matrices.
    if tensor is None or use.port == 0 or use.slabs > 1 or len(use.rows) > 1 or tensor.shape != (use.outputs,):
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
    """`write_matrices` for a layer that is one matrix [outputs, inputs * taps]."""
    write_matrices(graph, use, matrix[None], bias)


def write_matrices(graph: Graph, use: WeightUse, matrices: Array, bias: Array | None) -> None:
    """Gives a layer a weight, [slabs, outputs, inputs * taps] as `matrices_of` orders them, and a bias.

    Shapes are those that the constant has now. Where somebody else reads it, too, the layer gets one of its own, behind
    ops of its own. A bias that was not there is added; that of a MatMul is added to the constant of the Add behind it.
    Numbers are rounded to the type of the weight.

    Raises:
        ValueError: the constant holds integers, codes that stand for something else.
    """
    op = use.op
    value = use.weight if use.chain else op.inputs[use.port]
    assert value is not None
    assert value.const is not None
    if not value.const.dtype.is_float:
        raise ValueError(f"{value.name} holds codes of type {value.const.dtype.short}")
    dtype = value.const.dtype.numpy
    weight = from_matrices(use, (matrices / _alpha(op)).astype(dtype), value.const.shape)
    if not use.chain:
        replace_constant(graph, op, use.port, weight)
    elif strangers(graph, value, [use]):
        _rewire(graph, use, weight)
    else:
        value.set_const(spilled(Tensor(weight, value.const.dtype)))
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
        added = graph.add_constant(f"{use.weight.name}_bias", Tensor(rounded, read_type(graph, use)))
        inputs = [op.input(port) for port in range(use.bias_port)]
        graph.set_inputs(op, [*inputs, added, *op.inputs[use.bias_port + 1 :]])


def _rewire(graph: Graph, use: WeightUse, weight: NDArray[Any]) -> None:
    """A constant of its own for one layer, behind copies of what lay between the shared one and the op."""
    assert use.weight.const is not None
    made = graph.add_constant(use.weight.name, spilled(Tensor(weight, use.weight.const.dtype)))
    for between in use.chain:
        kind = f"{between.domain}::{between.op_type}" if between.domain else between.op_type
        made = emit(graph, kind, [made, *between.inputs[1:]], between.attributes, like=between).output
    graph.set_inputs(use.op, [made if port == use.port else old for port, old in enumerate(use.op.inputs)])


def read_type(graph: Graph, use: WeightUse) -> DataType:
    """The element type in which the op takes its weight: that of the constant, unless it is cast or dequantized."""
    kind = use.tensor.dtype
    for op in use.chain:
        if op.op_type == "Cast":
            kind = DataType(op.attribute("to", int(kind)))
        elif op.op_type == "DequantizeLinear" and (scale := graph.constant(op.input(1))) is not None:
            kind = scale.dtype
    return kind


def replace_constant(graph: Graph, op: Op, port: int, array: NDArray[Any]) -> Value:
    """Gives `op` another constant at `port`; the old one's name stays with it unless something else reads it too."""
    value = op.inputs[port]
    assert value is not None
    assert value.const is not None
    tensor = spilled(Tensor(np.ascontiguousarray(array), value.const.dtype))
    if graph.consumers(value) == [op] and op.inputs.count(value) == 1 and value not in graph.outputs:
        value.set_const(tensor)
        return value
    own = graph.add_constant(value.name, tensor)
    graph.set_inputs(op, [own if index == port else present for index, present in enumerate(op.inputs)])
    return own
