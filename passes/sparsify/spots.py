"""Which weights may become sparse, how their entries lie in matrices, and why others stay dense."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.calib.finite import count_bad
from secateur.ir.errors import RefusedError
from secateur.ir.graph import Graph
from secateur.ir.node import Value
from secateur.ir.rules.known import Known
from secateur.ir.rules.weights import WeightUse, strangers, weight_uses
from secateur.ir.tensor import Tensor
from secateur.passes.context import Context
from secateur.passes.layers.matrix import as_matrices, from_matrices
from secateur.passes.layers.problem import Indices
from secateur.passes.registry import suggest
from secateur.passes.sparsify.patterns import Dense, Neighbours, Pattern

_PIECE = 1 << 17
"""Elements of a weight that are looked at together."""


@dataclass(frozen=True)
class Spot:
    """A weight that becomes sparse.

    Attributes:
        uses: the ops that read it, all alike.
        pattern: where its name says which; else what is asked of all.
    """

    uses: tuple[WeightUse, ...]
    pattern: Pattern | None = None

    @property
    def use(self) -> WeightUse:
        """The first of the uses: all have the same axes."""
        return self.uses[0]

    @property
    def weight(self) -> Value:
        """The constant."""
        return self.use.weight

    @property
    def channels(self) -> int:
        """Input channels of each of its matrices."""
        return channels_of(self.use)

    @cached_property
    def order(self) -> Indices:
        """[columns] where each column of a problem (taps slowest) lies among those of a matrix (taps fastest)."""
        taps = math.prod(self.use.tensor.shape[axis] for axis in self.use.taps)
        return np.arange(self.channels * taps).reshape(self.channels, taps).T.reshape(-1)

    def problem_order(self, matrices: NDArray[Any]) -> NDArray[Any]:
        """[matrices, outputs, columns] with input channels fastest."""
        return matrices.take(self.order, axis=-1) if self.use.taps else matrices

    def fold(self, array: NDArray[Any]) -> NDArray[Any]:
        """Anything shaped like the weight as [matrices, outputs, columns], input channels fastest."""
        return self.problem_order(as_matrices(self.use, array))

    def matrix_order(self, matrices: NDArray[Any]) -> NDArray[Any]:
        """[matrices, outputs, columns] with input channels slowest, as `matrices_of` has them."""
        if not self.use.taps:
            return matrices
        found = np.empty_like(matrices)
        found[..., self.order] = matrices
        return found

    def unfold(self, matrices: NDArray[Any]) -> NDArray[Any]:
        """The inverse of `fold`."""
        return from_matrices(self.use, self.matrix_order(matrices))


@dataclass(frozen=True)
class Demands:
    """What is asked of weights.

    Attributes:
        pattern: of all that are not named.
        named: globs for names, each with the pattern of the weights that it fits; the first that fits counts.
        worthwhile: leave out what no sparse kernel speeds up.
        gains: by the names of weights, how many times as fast 2:4 makes their readers on a target at most, or why it
            does not; empty where no target is named, and sizes alone decide what is worthwhile.
    """

    pattern: Pattern
    named: tuple[tuple[str, Pattern], ...] = ()
    worthwhile: bool = True
    gains: Mapping[str, float | str] = field(default_factory=dict)

    def of(self, name: str) -> Pattern | None:
        """The pattern that a name asks for."""
        return next((pattern for glob, pattern in self.named if fnmatchcase(name, glob)), None)


def channels_of(use: WeightUse) -> int:
    """Input channels of each matrix of a weight."""
    return use.inputs // use.groups


def spots_of(known: Known, demands: Demands, context: Context) -> list[Spot]:
    """The weights that may become sparse, in the order of their ops; notes for those that stay dense.

    Raises:
        RefusedError: a glob fits no weight.
    """
    spots, refused = sorted_spots(known, demands)
    for weight, reason in refused:
        context.note(f"{weight.name} stays dense: {reason}", asked=isinstance(demands.of(weight.name), Dense))
    return spots


def sorted_spots(known: Known, demands: Demands) -> tuple[list[Spot], list[tuple[Value, str]]]:
    """The weights that may become sparse, in the order of their ops, and those that stay dense, with the reasons.

    Raises:
        RefusedError: a glob fits no weight.
    """
    by_weight: dict[Value, list[WeightUse]] = {}
    for use in weight_uses(known):
        by_weight.setdefault(use.weight, []).append(use)
    _check_names(demands, [weight.name for weight in by_weight])
    spots: list[Spot] = []
    refused: list[tuple[Value, str]] = []
    for weight, uses in by_weight.items():
        pattern = demands.of(weight.name)
        if reason := _refusal(known.graph, weight, uses, demands, pattern):
            refused.append((weight, reason))
        else:
            spots.append(Spot(tuple(uses), pattern))
    return spots, refused


def steps_of(spots: Sequence[Spot]) -> list[list[int]]:
    """Which are decided together, from one look at the data: matrices that read one tensor (queries, keys, values).

    Kernels are left apart: what convolutions of one tensor give often meets again, and one then makes up for the other.
    """
    steps: list[list[int]] = []
    at: dict[Value, int] = {}
    for which, spot in enumerate(spots):
        shared = None if spot.use.taps else spot.use.data
        if shared is not None and shared in at and len(spot.uses) == 1:
            steps[at[shared]].append(which)
            continue
        if shared is not None and len(spot.uses) == 1:
            at[shared] = len(steps)
        steps.append([which])
    return steps


def _check_names(demands: Demands, names: Iterable[str]) -> None:
    known = list(names)
    for glob, _ in demands.named:
        if not any(fnmatchcase(name, glob) for name in known):
            raise RefusedError(f"no weight is called {glob!r}, as patterns say", hint=suggest(glob, known))


def _refusal(
    graph: Graph, weight: Value, uses: Sequence[WeightUse], demands: Demands, named: Pattern | None
) -> str | None:
    """Why a weight stays dense; None where it need not."""
    use, tensor = uses[0], uses[0].tensor
    if isinstance(named, Dense):
        return "patterns say so"
    if weight.const is not tensor:
        return f"{use.op} reads it in another form"
    if not tensor.dtype.is_float:
        return f"{use.op} reads it as {tensor.dtype.short}; sparsify before quantizing"
    if not _is_finite(tensor):
        return "it holds NaN or infinity"
    if len({(other.order, other.rows, other.groups, other.contracted) for other in uses}) > 1:
        return "its readers sum over different axes of it"
    if others := strangers(graph, weight, uses):
        return f"{', '.join(others)} also reads it, not as a weight"
    if channels_of(use) == 1:
        return f"{use.op} is grouped into single channels (depthwise): each output reads one"
    return _misfit(use, demands, named)


def _is_finite(tensor: Tensor) -> bool:
    """Read a piece at a time."""
    pieces = (tensor.elements(start, min(start + _PIECE, tensor.size)) for start in range(0, tensor.size, _PIECE))
    return not any(count_bad(piece) for piece in pieces)


def _misfit(use: WeightUse, demands: Demands, named: Pattern | None) -> str | None:
    pattern = demands.pattern if named is None else named
    if reason := pattern.misfit(channels_of(use)):
        return reason
    # Who names a weight knows why.
    if named is not None or not demands.worthwhile or not isinstance(pattern, Neighbours):
        return None
    if demands.gains:
        gain = demands.gains.get(use.weight.name)
        return gain if isinstance(gain, str) else None
    if use.groups > 1 or use.is_transposed:
        return f"no sparse kernel takes {use.op}: it is {'grouped' if use.groups > 1 else 'transposed'}"
    if use.inputs % 16 or use.outputs % 8:
        return f"sparse kernels want inputs in 16s and outputs in 8s; it has {use.inputs} and {use.outputs}"
    return None
