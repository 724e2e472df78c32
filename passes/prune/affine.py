"""What makes the units of a group, as one affine map of what goes in: for repairs that see weights only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateur.ir.node import Op, Value
from secateur.ir.rules.known import Known
from secateur.ir.rules.weights import WeightUse, weight_use
from secateur.passes.layers.matrix import added_bias, bias_of, matrix_of
from secateur.passes.prune.units import Units

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Affine:
    """Unit i is `activation(rows[i] . x + shifts[i])`, with one activation for all.

    Attributes:
        rows: [size, entries] the weights of each, a normalisation with fixed statistics multiplied in.
        shifts: [size] the bias of each, what the normalisation adds among it.
    """

    rows: Array
    shifts: Array


def affine_of(known: Known, units: Units) -> Affine | None:
    """The map; None where several weights make the units, or parameters of their own follow it (depthwise, PRelu)."""
    uses = {reader.use.op for reader in units.readers}
    made = [_made(known, maker.occurrence.use.op, maker.occurrence.axis) for maker in units.makers]
    if len(made) != 1 or (use := made[0]) is None or use.groups != 1:
        return None
    unit = units.makers[0].unit
    if not np.array_equal(np.sort(unit), np.arange(units.group.size)):
        return None
    rows, shifts, seen, end = matrix_of(use), np.zeros(use.outputs), {use.op}, use.op.output
    if (bias := bias_of(use)) is not None:
        shifts = shifts + bias
    elif (added := added_bias(known.graph, use)) is not None:
        shifts, end = shifts + added.array, added.op.output
        seen.add(added.op)
    following = known.graph.consumers(end)
    if len(following) == 1 and following[0].key == ("", "BatchNormalization"):
        if (statistics := _statistics(known, following[0])) is None:
            return None
        factor, shift = statistics
        rows, shifts = rows * factor[:, None], shifts * factor + shift
        seen.add(following[0])
    if any(occurrence.use.op not in seen | uses for occurrence in units.group.weights):
        return None
    order = np.argsort(unit)
    return Affine(rows[order], shifts[order])


def _made(known: Known, op: Op, axis: int) -> WeightUse | None:
    use = weight_use(known, op)
    return use if use is not None and use.produced == axis and not use.is_transposed else None


def _statistics(known: Known, op: Op) -> tuple[Array, Array] | None:
    """The factor and the shift of a normalisation; None where its statistics are not constants."""
    inputs: list[Value | None] = [op.input(port) for port in range(1, 5)]
    tensors = [known.constant(value) for value in inputs]
    if op.attribute("training_mode", 0) or any(tensor is None for tensor in tensors):
        return None
    gamma, beta, mean, variance = (tensor.numpy().astype(np.float64) for tensor in tensors if tensor is not None)
    factor = gamma / np.sqrt(variance + op.attribute("epsilon", 1e-5))
    return factor, beta - mean * factor
