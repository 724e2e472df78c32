"""Which input of an op is a weight, what it is contracted with, and along which of its axes.

This is all that magnitude, sparsity and quantization need to know of an operator: 2:4 runs along `contracted`, scales
lie along `produced`, a bias goes with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from secateur.ir.node import Op, Value
from secateur.ir.rules.known import Known
from secateur.ir.rules.table import RuleTable
from secateur.ir.tensor import Tensor


@dataclass(frozen=True, slots=True)
class WeightUse:
    """How one op uses one constant weight: `output = contract(data, weight) + bias`.

    Axes are non-negative positions in the weight's, the data's and the output's shapes.
    """

    op: Op
    port: int
    """Where the op takes the weight."""
    weight: Value
    tensor: Tensor
    data: Value
    produced: int
    """Axis of the weight that indexes output channels (within a group for a transposed convolution)."""
    contracted: int
    """Axis of the weight that is summed over, indexed by input channels (within a group)."""
    groups: int
    data_axis: int
    output_axis: int
    bias_port: int | None
    """Where this op takes a bias; None where it takes none (MatMul)."""

    @property
    def bias(self) -> Value | None:
        """The bias that is there."""
        return None if self.bias_port is None else self.op.input(self.bias_port)

    @property
    def is_transposed(self) -> bool:
        """True for a transposed convolution, whose kernel spreads inputs out over outputs."""
        return len(self.tensor.shape) > 2 and self.produced != 0

    @property
    def has_samples_first(self) -> bool:
        """True where axis 0 of data and output counts samples (or tokens), not channels."""
        return self.data_axis != 0 and self.output_axis != 0

    @property
    def outputs(self) -> int:
        """Output channels in all groups together."""
        size = self.tensor.shape[self.produced]
        return size * self.groups if self.produced != 0 else size

    @property
    def inputs(self) -> int:
        """Input channels in all groups together."""
        size = self.tensor.shape[self.contracted]
        return size * self.groups if self.contracted != 0 else size


WeightRule: TypeAlias = Callable[[Known, Op], WeightUse | None]

weight_rules: RuleTable[WeightRule] = RuleTable("which input is a weight, and along which axis is it contracted?")
_register = weight_rules.register


def weight_use(known: Known, op: Op) -> WeightUse | None:
    """How `op` uses a weight; None where it has no rule, or its weight is not a constant of a fitting rank."""
    rule = weight_rules.get(op)
    return rule(known, op) if rule is not None else None


def weight_uses(known: Known) -> Iterator[WeightUse]:
    """The weights of a graph (bodies not included), in the order of its ops."""
    for op in known.graph.ops():
        if (use := weight_use(known, op)) is not None:
            yield use


@_register("Conv")
def _conv(known: Known, op: Op) -> WeightUse | None:
    return _convolution(known, op, produced=0, contracted=1)


@_register("ConvTranspose")
def _conv_transpose(known: Known, op: Op) -> WeightUse | None:
    return _convolution(known, op, produced=1, contracted=0)


def _convolution(known: Known, op: Op, produced: int, contracted: int) -> WeightUse | None:
    tensor, data, weight = known.constant(op.input(1)), op.input(0), op.input(1)
    if tensor is None or data is None or weight is None or len(tensor.shape) < 3:
        return None
    return WeightUse(op, 1, weight, tensor, data, produced, contracted, op.attribute("group", 1), 1, 1, 2)


@_register("Gemm")
def _gemm(known: Known, op: Op) -> WeightUse | None:
    tensor, data, weight = known.constant(op.input(1)), op.input(0), op.input(1)
    if tensor is None or data is None or weight is None or len(tensor.shape) != 2:
        return None
    transposed = bool(op.attribute("transB", 0))
    data_axis = 0 if op.attribute("transA", 0) else 1
    return WeightUse(op, 1, weight, tensor, data, 1 - transposed, int(transposed), 1, data_axis, 1, 2)


@_register("MatMul")
def _matmul(known: Known, op: Op) -> WeightUse | None:
    left, right = op.input(0), op.input(1)
    if left is None or right is None:
        return None
    tensor = known.constant(right)
    if tensor is not None and len(tensor.shape) == 2 and (rank := known.rank(left)) is not None and rank >= 2:
        return WeightUse(op, 1, right, tensor, left, 1, 0, 1, rank - 1, rank - 1, None)
    tensor = known.constant(left)
    if tensor is not None and len(tensor.shape) == 2 and (rank := known.rank(right)) is not None and rank >= 2:
        return WeightUse(op, 0, left, tensor, right, 0, 1, 1, rank - 2, rank - 2, None)
    return None
