"""What a weight is to the op that reads it, and the table of rules that say so."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from secateur.ir.node import Op, Value
from secateur.ir.rules.known import Known
from secateur.ir.rules.table import RuleTable
from secateur.ir.tensor import Tensor

_PLAIN = frozenset({("", "Conv"), ("", "ConvTranspose"), ("", "Gemm"), ("", "MatMul")})


@dataclass(frozen=True, slots=True)
class WeightUse:
    """How one op uses one constant weight: `output = contract(data, weight) + bias`.

    Axes are positions in the shape of the constant as it is stored, whatever `chain` lies between it and the op, and in
    the shapes of data and output: not negative, but for data and output whose rank nobody knows.
    """

    op: Op
    port: int
    """Where the op takes the weight."""
    weight: Value
    """The constant itself."""
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
    rows: tuple[int, ...] = ()
    """All axes that index output channels together, slowest first; `produced` is the first of them."""
    batch: tuple[int, ...] = ()
    """Axes along which independent matrices are stacked (experts)."""
    taps: tuple[int, ...] = ()
    """Axes of the kernel, as the op orders them."""
    data_batch: int | None = None
    """Axis of the data along `batch`; None where all the matrices read the same."""
    output_batch: int | None = None
    chain: tuple[Op, ...] = ()
    """What lies between the constant and the op, the constant's reader first; empty where the op reads it itself."""
    targets: Literal["output", "data"] | None = "output"
    """Where one can see what the layer gives: in the output of the op, or only by computing it from the data (the op
    does more); None where not even the data is a value of the graph (experts inside an op)."""

    @property
    def bias(self) -> Value | None:
        """The bias that is there."""
        return None if self.bias_port is None else self.op.input(self.bias_port)

    @property
    def is_transposed(self) -> bool:
        """True for a transposed convolution, whose kernel spreads inputs out over outputs."""
        return self.op.key == ("", "ConvTranspose")

    @property
    def is_plain(self) -> bool:
        """True for one matrix or kernel that a Conv, ConvTranspose, Gemm or MatMul reads as it is stored."""
        return self.op.key in _PLAIN and not self.chain and len(self.tensor.shape) == 2 + len(self.taps)

    @property
    def has_samples_first(self) -> bool:
        """True where axis 0 of data and output counts samples (or tokens), not channels or matrices."""
        return 0 not in (self.data_axis, self.output_axis, self.data_batch, self.output_batch)

    @property
    def outputs(self) -> int:
        """Output channels in all groups together (of one of the matrices, where several are stacked)."""
        size = math.prod(self.tensor.shape[axis] for axis in self.rows or (self.produced,))
        return size * self.groups if self.is_transposed else size

    @property
    def inputs(self) -> int:
        """Input channels in all groups together."""
        size = self.tensor.shape[self.contracted]
        return size if self.is_transposed else size * self.groups

    @property
    def slabs(self) -> int:
        """How many independent matrices there are: groups, times what is stacked."""
        return self.groups * math.prod(self.tensor.shape[axis] for axis in self.batch)

    @property
    def order(self) -> tuple[int, ...]:
        """All axes of the constant: those that stack, produce, are summed over, are taps, and those of size 1 left."""
        named = (*self.batch, *(self.rows or (self.produced,)), self.contracted, *self.taps)
        return *named, *(axis for axis in range(len(self.tensor.shape)) if axis not in named)


WeightRule: TypeAlias = Callable[[Known, Op], Iterator[WeightUse]]

weight_rules: RuleTable[WeightRule] = RuleTable("which input is a weight, and along which axis is it contracted?")
