"""One layer as three: blocks on its inputs, a sparse core, blocks on its outputs. All are standard ops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.calib.solvers.armor import Wrapped
from secateur.ir.build import emit
from secateur.ir.graph import Graph
from secateur.ir.node import Value
from secateur.ir.rules.weights import WeightUse
from secateur.ir.tensor import Tensor
from secateur.passes.layers.matrix import from_matrices
from secateur.passes.rewriter import replace_value

_OWN = ("alpha", "beta")
"""What a Gemm multiplies by is in the numbers by then."""
_PLACES = ("auto_pad", "dilations", "pads", "strides")
"""What says where a convolution reads belongs to the first of the three: the others need not compute more positions."""


def refusal(use: WeightUse) -> str | None:
    """Why a layer cannot become three; None where it can."""
    if not use.is_plain or use.port != 1 or use.is_transposed or use.groups > 1:
        return f"{use.op} is grouped or transposed, or reads it stacked, behind other ops, or on the left"
    if any(use.tensor.shape[axis] > 1 for axis in use.taps):
        return "its kernel has more than one position"
    if not use.taps and (not use.has_samples_first or use.data_axis < 1):
        return f"{use.op} reads data whose axes are unknown, or with its channels first"
    if use.op.input(2) is not None and (use.bias is None or use.bias.const is None):
        return "its bias is no constant"
    return None


def wrap_layer(graph: Graph, use: WeightUse, wrapped: Wrapped, bias: NDArray[np.float64] | None) -> None:
    """Puts blocks before and behind a layer, whose weight becomes the core; what it gives keeps its name.

    Products of blocks are batched MatMuls between a Reshape and a Transpose on either side, tokens inside: one product
    of many rows for each block. Those of a 1x1 convolution are convolutions in groups.

    Args:
        graph: the graph of the layer.
        use: the layer, for which `refusal` is None; nothing else reads its weight.
        wrapped: the matrices.
        bias: [outputs] for the op, where it takes one. None leaves none.
    """
    op, weight, dtype = use.op, use.weight, use.tensor.dtype
    weight.set_const(Tensor(from_matrices(use, wrapped.core[None]).astype(dtype.numpy), dtype))
    data = op.inputs[0]
    assert data is not None
    name = weight.name
    added = None if bias is None else _bias(graph, use, Tensor(bias.astype(dtype.numpy), dtype))
    before, core, after = (f"{op.name or op.output.name}/{part}" for part in ("right", "core", "left"))
    if use.taps:
        places = {key: one.value for key, one in op.attributes.items() if key in _PLACES}
        made = _convolved(graph, before, data, (_grouped(graph, f"{name}_right", wrapped.right, use), None), places)
        made = _put(graph, core, "Conv", [made, weight], {"kernel_shape": [1] * len(use.taps)})
        made = _convolved(graph, after, made, (_grouped(graph, f"{name}_left", wrapped.left, use), added), {})
    else:
        kept = {key: one.value for key, one in op.attributes.items() if key not in _OWN}
        made = _multiplied(graph, before, data, _constant(graph, f"{name}_right", wrapped.right, use), use.data_axis)
        made = _put(graph, core, op.op_type, [made, weight], kept)
        made = _multiplied(graph, after, made, _constant(graph, f"{name}_left", wrapped.left, use), use.data_axis)
        if added is not None:
            made = _put(graph, f"{after}/bias", "Add", [made, added])
    replace_value(graph, op.output, made, rename=True)
    graph.remove(op)


def _bias(graph: Graph, use: WeightUse, tensor: Tensor) -> Value:
    """The constant that the op had, if nothing else reads it; else one of its own."""
    old = use.op.input(use.bias_port) if use.bias_port is not None else None
    if old is None or old.const is None or graph.consumers(old) != [use.op] or old in graph.outputs:
        return graph.add_constant(f"{use.weight.name}_bias", tensor)
    old.set_const(tensor)
    return old


def _convolved(
    graph: Graph, name: str, data: Value, constants: tuple[Value, Value | None], places: dict[str, Any]
) -> Value:
    """Each group of channels times its block, and a bias."""
    weight, bias = constants
    assert weight.const is not None
    rows, size, *ones = weight.const.shape
    attributes = {**places, "group": rows // size, "kernel_shape": ones}
    return _put(graph, name, "Conv", [data, weight] if bias is None else [data, weight, bias], attributes)


def _multiplied(graph: Graph, name: str, data: Value, weight: Value, leading: int) -> Value:
    """Each stretch of the last axis, before which there are so many, times its block."""
    assert weight.const is not None
    count, size, _ = weight.const.shape
    # Zero keeps a dimension as it is, whatever that is.
    split = _shape(graph, f"{weight.name}_split", [*[0] * leading, count, size])
    whole = _shape(graph, f"{weight.name}_whole", [*[0] * leading, count * size])
    turned = {"perm": [*range(leading - 1), leading, leading - 1, leading + 1]}
    made = _put(graph, f"{name}/split", "Reshape", [data, split])
    made = _put(graph, f"{name}/turn", "Transpose", [made], turned)
    made = _put(graph, name, "MatMul", [made, weight])
    made = _put(graph, f"{name}/turn_back", "Transpose", [made], turned)
    return _put(graph, f"{name}/whole", "Reshape", [made, whole])


def _put(
    graph: Graph, name: str, kind: str, inputs: Sequence[Value], attributes: Mapping[str, Any] | None = None
) -> Value:
    op = emit(graph, kind, inputs, attributes, outputs=[name])
    op.name = name
    return op.output


def _grouped(graph: Graph, name: str, blocks: NDArray[np.float64], use: WeightUse) -> Value:
    """Blocks [n, outputs, inputs] as the weight of a convolution in groups."""
    dtype, ones = use.tensor.dtype, [1] * len(use.taps)
    array = blocks.reshape(-1, blocks.shape[2], *ones).astype(dtype.numpy)
    return graph.add_constant(name, Tensor(array, dtype))


def _constant(graph: Graph, name: str, blocks: NDArray[np.float64], use: WeightUse) -> Value:
    """Blocks [n, outputs, inputs] as a product takes them from the right."""
    dtype = use.tensor.dtype
    return graph.add_constant(name, Tensor(np.ascontiguousarray(blocks.swapaxes(1, 2)).astype(dtype.numpy), dtype))


def _shape(graph: Graph, name: str, sizes: Sequence[int]) -> Value:
    return graph.add_constant(name, Tensor(np.array(sizes, np.int64)))
