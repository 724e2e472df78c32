"""Gates that stay, multiplied into weights, so that the network needs no gate to compute what it did with it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from secateur.ir.dims.algebra import expand, owners
from secateur.ir.dims.analysis import Dimensions
from secateur.ir.dims.groups import Group
from secateur.ir.errors import RefusedError
from secateur.ir.graph import Graph
from secateur.ir.node import Op, Value
from secateur.ir.removable import Removable
from secateur.ir.rules.known import Known
from secateur.ir.rules.weights import WeightUse, weight_use
from secateur.passes.layers.matrix import added_bias, replace_constant
from secateur.passes.prune.gates import ends

Array = NDArray[np.float64]

_HINT = "make it 0 or 1, or fold=false, which chooses by it and multiplies nothing"


def readers(found: Dimensions, group: Group) -> Iterator[tuple[WeightUse, NDArray[np.int64]]]:
    """The layers that sum over the units of a group, each with the unit of each index of the axis it sums over."""
    for occurrence in group.weights:
        use = weight_use(found.known, occurrence.use.op)
        if use is None or use.port != occurrence.use.port or use.contracted != occurrence.axis or use.groups > 1:
            continue
        layout = expand(found.layouts[occurrence.use][occurrence.axis])
        yield use, owners(layout, group.dim)


def stranger(found: Dimensions, group: Group) -> Op | None:
    """An op that reads units of a group for the last time and is no layer that sums over them; None where none is."""
    summing = {(use.op, use.data) for use, _ in readers(found, group)}
    for (value, _), (op, _) in ends(found, group.dim):
        if (op, value) not in summing:
            return op
    return None


def fold_gates(graph: Graph, found: Dimensions, group: Group, gates: Array) -> int:
    """Multiplies what layers read of each unit by its gate [size]; returns how many layers read it.

    That is the network with its gates where layers read the units: behind norms and activations.

    Raises:
        RefusedError: something else reads the units.
    """
    reading = list(readers(found, group))
    other = stranger(found, group)
    if other is not None or not reading:
        who = f"{other} reads its units, and is no layer with a weight" if other else "no layer sums over its units"
        raise RefusedError(f"gates of {group.name!r} cannot go into weights: {who}", hint=_HINT)
    for use, unit in reading:
        shape = [1] * len(use.tensor.shape)
        shape[use.contracted] = -1
        factors = np.where(unit >= 0, gates[np.maximum(unit, 0)], 1.0).reshape(shape)
        _multiply(graph, use.op, use.port, factors)
    return len(reading)


def fold_gate(graph: Graph, known: Known, block: Removable, gate: float) -> None:
    """Multiplies what a block adds by its gate: the weight and the bias of the layer that it ends with.

    Raises:
        RefusedError: it does not end with one layer.
    """
    reason = f"the gate of the block {block.name!r} cannot go into a weight"
    if len(block.branches) != 1 or len(block.terms) != 1:
        raise RefusedError(f"{reason}: it is made of several", hint=_HINT)
    last = graph.producer(block.terms[0])
    use, behind = _last_layer(graph, known, last)
    if use is None:
        raise RefusedError(f"{reason}: it ends with {last}, which is no layer with a weight", hint=_HINT)
    if len(graph.uses(block.terms[0])) != 1 or block.terms[0] in graph.outputs:
        raise RefusedError(f"{reason}: what it ends with is read elsewhere, too", hint=_HINT)
    factor = np.array(gate)
    _multiply(graph, use.op, use.port, factor)
    if use.bias_port is not None and use.bias is not None:
        if use.bias.const is None:
            raise RefusedError(f"{reason}: the bias of {use.op} is computed", hint=_HINT)
        _multiply(graph, use.op, use.bias_port, factor)
    if behind is not None:
        _multiply(graph, *behind, factor)


def _last_layer(graph: Graph, known: Known, last: Op | None) -> tuple[WeightUse | None, tuple[Op, int] | None]:
    """The layer that makes what `last` does, and where the Add behind it has its bias."""
    if last is None:
        return None, None
    if (use := weight_use(known, last)) is not None:
        return use, None
    for value in last.inputs:
        maker = None if value is None else graph.producer(value)
        use = None if maker is None else weight_use(known, maker)
        if use is not None and (added := added_bias(graph, use)) is not None and added.op is last:
            return use, (added.op, added.port)
    return None, None


def _multiply(graph: Graph, op: Op, port: int, factors: Array) -> Value:
    value = op.inputs[port]
    assert value is not None
    assert value.const is not None
    numbers = value.const.numpy()
    return replace_constant(graph, op, port, (numbers.astype(np.float64) * factors).astype(numbers.dtype))
