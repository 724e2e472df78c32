"""Which weights are N:M along the axis that is summed over, of any model, whoever made it.

Weights are read a piece at a time and never all at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.ir.node import Value
from secateur.ir.rules.known import Known
from secateur.ir.rules.weights import WeightUse, weight_uses
from secateur.ir.tensor import Tensor

GROUPS = (2, 4, 8, 16)
"""The M of N:M that are looked for."""
_PIECE = 1 << 17
"""Elements of a weight that are looked at together."""
_NO_SIGN: Mapping[int, tuple[str, int]] = {2: ("u2", 0x7FFF), 1: ("u1", 0x7F)}
_ODD_FLOATS = ("fnuz", "e8m0", "f4", "f6")
"""Formats in whose codes a lone sign bit is no zero, or lies elsewhere."""

Counts: TypeAlias = Mapping[int, int]
"""For each M the most non-zeros that any M neighbours have."""


@dataclass(frozen=True)
class Sparsity:
    """Zeros of one weight, as the op that reads it sums over them.

    Attributes:
        use: the op, the weight, and the axis.
        zeros: the share of zeros, in [0, 1]; of quantized weights that of codes that are 0.
        most: for each M that divides the summed axis, the most non-zeros among any M neighbours along it.
        elsewhere: where 2:4 holds along something else than the summed axis, that: `axis 0`.
    """

    use: WeightUse
    zeros: float
    most: Counts
    elsewhere: str | None

    @property
    def size(self) -> int:
        """How many numbers one output sums over, at each tap of a kernel."""
        return self.use.tensor.shape[self.use.contracted] // (self.use.groups if self.use.is_transposed else 1)

    @property
    def pattern(self) -> str | None:
        """The tightest N:M that holds, of equals that of M = 4, then of fewest neighbours; None where none does."""
        found = [
            (max(count, 1) / group, group != 4, group, max(count, 1))
            for group, count in self.most.items()
            if count < group
        ]
        return "{3}:{2}".format(*min(found)) if found else None

    def holds(self, keep: int, group: int) -> bool:
        """True where of any `group` neighbours along the summed axis at most `keep` are not zero."""
        found = self.most.get(group)
        return self.most_of(group) <= keep if found is None else found <= keep

    def most_of(self, group: int) -> int:
        """The most non-zeros among any `group` neighbours, counted now; `group` where it does not divide the axis."""
        if group in self.most:
            return self.most[group]
        axis = self.use.contracted
        return group if self.size % group else _most(self.use.tensor, (axis,), (group,))[group]

    def reason(self, keep: int, group: int) -> str | None:
        """Why the weight has not the pattern, or has it in vain; None where it has it."""
        if (grouped := _grouped(self.use)) is not None and self.size % group:
            return grouped
        if self.size % group:
            return f"it sums over {self.size} channels, no multiple of {group}"
        if not self.holds(keep, group):
            if self.elsewhere is not None:
                return f"2:4 along {self.elsewhere}, but {self.use.op.op_type} sums over axis {self.use.contracted}"
            if self.zeros < 1 - keep / group:
                return f"{self.zeros:.1%} are zero, {1 - keep / group:.1%} need to be"
            return f"its zeros lie elsewhere: up to {self.most_of(group)} of {group} neighbours are not zero"
        return _in_vain(self.use)

    def could(self, keep: int, group: int) -> bool:
        """True where the pattern fits, and is of use: no groups, inputs in 16s, outputs in 8s, an op with kernels."""
        inputs, outputs = self.use.inputs, self.use.outputs
        fits = self.size % group == 0 and inputs % 16 == 0 and outputs % 8 == 0
        return fits and self.use.groups == 1 and _in_vain(self.use) is None


def sparsities(known: Known) -> Iterator[Sparsity]:
    """The weights of a graph (bodies not included), in the order of its ops; each is read once or twice."""
    found: dict[tuple[Value, int, int], Sparsity] = {}
    for use in weight_uses(known):
        key = (use.weight, use.contracted, use.groups)
        if key not in found:
            found[key] = sparsity_of(use)
        seen = found[key]
        yield Sparsity(use, seen.zeros, seen.most, seen.elsewhere)


def sparsity_of(use: WeightUse) -> Sparsity:
    """Counts the zeros of one weight, and those of neighbours where there are enough for any pattern."""
    tensor = use.tensor
    zeros = 1 - sum(int(np.count_nonzero(piece)) for piece in _pieces(tensor)) / max(tensor.size, 1)
    split = use.groups if use.is_transposed else 1
    size = tensor.shape[use.contracted] // split
    groups = tuple(group for group in GROUPS if size and size % group == 0)
    most: Counts = {group: group for group in groups}
    if groups and zeros * max(GROUPS) >= 1:
        most = _most(tensor, (use.contracted,), groups)
    elsewhere = None
    if zeros >= 0.5 and most.get(4, 4) > 2:
        elsewhere = _elsewhere(use)
    return Sparsity(use, zeros, most, elsewhere)


def has_pattern(use: WeightUse, keep: int, group: int) -> bool:
    """`Sparsity.holds` of one weight; of one that has not the pattern hardly anything is read."""
    size = use.tensor.shape[use.contracted] // (use.groups if use.is_transposed else 1)
    return size % group == 0 and holds_along(use.tensor, use.contracted, keep, group)


def holds_along(tensor: Tensor, axis: int, keep: int, group: int) -> bool:
    """True where `group` divides an axis, counted from 0, and of any such neighbours along it `keep` are not zero."""
    if tensor.shape[axis] % group:
        return False
    return all(most[group] <= keep for most in _most_of_each(tensor, (axis,), [group]))


def _elsewhere(use: WeightUse) -> str | None:
    """Along what else a weight is 2:4: another axis, or all that belongs to an output as it lies in memory."""
    shape = use.tensor.shape
    for axis, size in enumerate(shape):
        if axis != use.contracted and size % 4 == 0 and _most(use.tensor, (axis,), (4,))[4] <= 2:
            return f"axis {axis}"
    behind = tuple(range(use.contracted, len(shape)))
    # Criteria made for matrices see a kernel as one row of channels times taps, taps fastest.
    if len(behind) > 1 and math.prod(shape[axis] for axis in behind) % 4 == 0:
        return f"axes {behind[0]} to {behind[-1]} as one" if _most(use.tensor, behind, (4,))[4] <= 2 else None
    return None


def _grouped(use: WeightUse) -> str | None:
    if use.groups == 1:
        return None
    size = use.tensor.shape[use.contracted] // (use.groups if use.is_transposed else 1)
    return "it is depthwise: it sums over one channel" if size == 1 else f"it sums over {size} channels in each group"


def _in_vain(use: WeightUse) -> str | None:
    """Why zeros in a pattern are of no use here; None where they may be."""
    if use.op.op_type in ("GRU", "LSTM", "RNN"):
        return f"no sparse kernel is known for {use.op.op_type}"
    if use.op.op_type == "MoE":
        return None
    zero_points = [op.input(2) for op in use.chain if op.op_type == "DequantizeLinear"]
    if any(value is not None and value.const is not None and value.const.numpy().any() for value in zero_points):
        return "its zero point is not 0, so that codes of 0 stand for other numbers"
    return None


def _most(tensor: Tensor, axes: Sequence[int], groups: Sequence[int]) -> dict[int, int]:
    """For each group size the most non-zeros among so many neighbours along axes that are taken as one.

    Each group size divides the product of the axes; they rise.
    """
    most = dict.fromkeys(groups, 0)
    for found in _most_of_each(tensor, axes, groups):
        most = {group: max(count, found[group]) for group, count in most.items()}
    return most


def _most_of_each(tensor: Tensor, axes: Sequence[int], groups: Sequence[int]) -> Iterator[dict[int, int]]:
    """`_most` of each piece of a tensor."""
    first, last = axes[0], axes[-1]
    for piece in _pieces(tensor, max(groups) if first == 0 and last == 0 else 1, first == 0 and last > 0):
        rows = piece.reshape(math.prod(piece.shape[:first]), -1, math.prod(piece.shape[last + 1 :]))
        counts, width, most = rows.view(np.uint8), 1, dict[int, int]()
        for group in groups:
            if group % width:
                counts, width = rows.view(np.uint8), 1
            counts, width = _joined(counts, group // width), group
            most[group] = int(counts.max(initial=0))
        yield most


def _joined(counts: NDArray[np.uint8], times: int) -> NDArray[np.uint8]:
    """Sums of each `times` neighbours along axis 1, as many as there are whole."""
    while times % 2 == 0:
        counts, times = counts[:, ::2] + counts[:, 1::2], times // 2
    if times == 1:
        return counts
    joined = counts[:, ::times].copy()
    for start in range(1, times):
        joined += counts[:, start::times]
    return joined


def _pieces(tensor: Tensor, multiple: int = 1, whole: bool = False) -> Iterator[NDArray[np.bool_]]:
    """Which elements are not zero, a piece along axis 0 at a time, each a multiple of rows (or all of them)."""
    shape = tensor.shape
    if not shape or not tensor.size or whole:
        yield _is_set(tensor.numpy(), tensor)
        return
    row = tensor.size // shape[0]
    step = max(1, _PIECE // row // multiple) * multiple
    array = tensor.numpy() if tensor.dtype.bits < 8 else None
    buffer = np.empty(min(step, shape[0]) * row * tensor.dtype.bits // 8, np.uint8) if tensor.is_mapped else None
    for start in range(0, shape[0], step):
        stop = min(start + step, shape[0])
        # Read, not mapped: pages of a map would stay with the process.
        part = array[start:stop] if array is not None else tensor.elements(start * row, stop * row, buffer)
        yield _is_set(part.reshape(stop - start, *shape[1:]), tensor)


def _is_set(array: NDArray[Any], tensor: Tensor) -> NDArray[np.bool_]:
    short = tensor.dtype.short
    if tensor.dtype.is_float and array.itemsize in _NO_SIGN and not any(part in short for part in _ODD_FLOATS):
        # Narrow floats are compared as bits: numpy would widen them one by one.
        bits, rest = _NO_SIGN[array.itemsize]
        codes = np.ascontiguousarray(array).view(bits)
        found: NDArray[np.bool_] = np.not_equal(codes & codes.dtype.type(rest), 0)
        return found
    return np.ascontiguousarray(array != 0)
