"""What a rule sees: one op where it stands, and the package and devices that an engine is wanted for."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from secateur.ir.graph import Graph
from secateur.ir.node import Op, Value
from secateur.ir.rules.known import Known
from secateur.ir.types import DataType, Dim, TensorType


@dataclass(frozen=True)
class Target:
    """The package that builds, and the compute capabilities that it builds for, (8, 9) for 8.9; () is all of them."""

    flavor: Literal["tensorrt-rtx", "tensorrt"] = "tensorrt-rtx"
    capabilities: tuple[tuple[int, int], ...] = ()

    def __str__(self) -> str:
        return ",".join([self.flavor, *(f"{major}.{minor}" for major, minor in self.capabilities)])


@dataclass(frozen=True)
class Site:
    """One op in its graph. Ports that are left out have no type, no shape and no constant."""

    op: Op
    known: Known
    opset: int
    target: Target
    folded: frozenset[Value] = field(default=frozenset(), repr=False)
    """Values that do not depend on an input's numbers; see `secateur.backends.tensorrt.lint.folding`."""

    @property
    def graph(self) -> Graph:
        """The graph or body that the op lies in."""
        return self.known.graph

    def has(self, port: int) -> bool:
        """Whether the input is there."""
        return self.op.input(port) is not None

    def dtype(self, port: int) -> DataType | None:
        """The element type of an input, None where it is not known."""
        return dtype_of(self.known, self.op.input(port))

    def made(self, port: int = 0) -> DataType | None:
        """The element type of an output, None where it is not known."""
        return dtype_of(self.known, self.op.outputs[port]) if port < len(self.op.outputs) else None

    def shape(self, port: int) -> tuple[Dim, ...] | None:
        """The shape of an input."""
        return self.known.shape(self.op.input(port))

    def rank(self, port: int) -> int | None:
        """Number of axes of an input."""
        return self.known.rank(self.op.input(port))

    def numbers(self, port: int) -> NDArray[Any] | None:
        """The numbers of a constant input; None for anything else."""
        found = self.known.constant(self.op.input(port))
        return None if found is None else found.numpy()

    def is_constant(self, port: int) -> bool:
        """Whether the input is an initializer, which nobody can override."""
        return self.known.constant(self.op.input(port)) is not None

    def is_folded(self, port: int) -> bool:
        """Whether TensorRT knows the input's numbers when it builds."""
        value = self.op.input(port)
        return value is not None and (self.is_constant(port) or value in self.folded)

    @cached_property
    def outputs(self) -> int:
        """How many outputs the node declares."""
        return sum(value is not None for value in self.op.outputs)

    def producer(self, port: int) -> Op | None:
        """The op that makes an input, here or in a graph around this one."""
        value = self.op.input(port)
        owner = None if value is None else self.graph.owner(value)
        return None if owner is None or value is None else owner.producer(value)

    def text(self, name: str, default: str) -> str:
        """A string attribute."""
        found = self.op.attribute(name, default)
        return found.decode(errors="replace") if isinstance(found, bytes) else str(found)

    def integers(self, name: str) -> tuple[int, ...]:
        """A list of integers, () where it is left out."""
        return tuple(self.op.attribute(name) or ())


def dtype_of(known: Known, value: Value | None) -> DataType | None:
    """The element type of a value, None where it is not known or the value is no tensor."""
    if value is None:
        return None
    found = known.types.get(value, value.type)
    dtype = found.dtype if isinstance(found, TensorType) else None
    return None if dtype is DataType.UNDEFINED else dtype


def is_zero(numbers: NDArray[Any]) -> bool:
    """Whether all numbers are zero, of types that numpy can't compare as well."""
    return not np.any(numbers.astype(np.float64))
