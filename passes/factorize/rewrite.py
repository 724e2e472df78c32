"""One layer as two, the second in the place of the first: names of what the layer gives stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.ir.build import emit
from secateur.ir.graph import Graph
from secateur.ir.rules.weights import WeightUse
from secateur.ir.tensor import Tensor
from secateur.passes.layers.matrix import replace_constant

Array: TypeAlias = NDArray[np.float64]

_ONES = ("dilations", "strides")


@dataclass(frozen=True)
class Factors:
    """Two weights in place of one.

    Attributes:
        down: [rank, channels, *kernel] of the op that goes first.
        up: [outputs, rank, *kernel] of the one that goes second.
        bias: [outputs], which goes with the second; None where the layer takes none.
    """

    down: Array
    up: Array
    bias: Array | None

    @property
    def rank(self) -> int:
        """Numbers between the two."""
        return int(self.down.shape[0])

    @property
    def matrix(self) -> Array:
        """[outputs, channels * taps] of the layer that the two make together, channels slowest.

        A tap is one along each axis of the kernel that either of them has.
        """
        spread: Array = np.einsum("nr...,rc...->nc...", self.up, self.down)
        return spread.reshape(spread.shape[0], -1)


def split_layer(graph: Graph, use: WeightUse, factors: Factors) -> None:
    """Puts an op of the same kind with `down` before the layer, and gives the layer `up`.

    Along each axis of the kernel the strides, pads and dilations go with the one that is not a single position there.
    """
    op, dtype = use.op, use.tensor.dtype
    kept = {name: one.value for name, one in op.attributes.items() if name not in ("alpha", "beta")}
    first = _oriented(factors.down, use).astype(dtype.numpy)
    weight = graph.add_constant(f"{use.weight.name}_down", Tensor(first, dtype))
    moves = [size > 1 or other == 1 for size, other in zip(factors.down.shape[2:], factors.up.shape[2:], strict=True)]
    inputs = [use.data, weight] if use.port == 1 else [weight, use.data]
    between = emit(graph, op.op_type, inputs, _moved(kept, factors.down.shape[2:], moves), like=op).output
    replace_constant(graph, op, use.port, _oriented(factors.up, use).astype(dtype.numpy))
    for name, value in _moved(kept, factors.up.shape[2:], [not one for one in moves]).items():
        graph.set_attribute(op, name, value)
    for name in ("alpha", "beta", "transA", *(("auto_pad",) if all(moves) else ())):
        if name in op.attributes:
            graph.set_attribute(op, name, None)
    second, rest = op.inputs[use.port], list(op.inputs[2:])
    if factors.bias is not None:
        name = f"{use.weight.name}_bias" if use.bias is None else use.bias.name
        rest = [graph.add_constant(name, Tensor(factors.bias.astype(dtype.numpy), dtype))]
    graph.set_inputs(op, [between, second, *rest] if use.port == 1 else [second, between, *rest])


def _oriented(weight: Array, use: WeightUse) -> Array:
    """[outputs, inputs, *kernel] with the axes where the op has them."""
    return np.ascontiguousarray(np.moveaxis(weight, (0, 1), (use.produced, use.contracted)))


def _moved(attributes: Mapping[str, Any], kernel: Sequence[int], here: Sequence[bool]) -> dict[str, Any]:
    """The attributes of one of the two: what belongs to an axis stays where it is `here`, and is neutral elsewhere."""
    found = dict(attributes)
    for name in _ONES:
        if name in found:
            found[name] = [value if one else 1 for value, one in zip(found[name], here, strict=True)]
    if "pads" in found:
        found["pads"] = [value if one else 0 for value, one in zip(found["pads"], [*here, *here], strict=True)]
    if "kernel_shape" in found:
        found["kernel_shape"] = list(kernel)
    return found
