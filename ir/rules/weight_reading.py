"""A constant behind ops that only move or retype its numbers, and where its axes go on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from secateur.ir.node import Op, Value
from secateur.ir.rules.known import Known
from secateur.ir.tensor import Tensor

Axes: TypeAlias = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """A constant as an op reads it.

    Attributes:
        value: the constant.
        tensor: its numbers, as they are stored.
        shape: as the op sees it.
        axes: for each axis that the op sees, those of the constant that it is made of, slowest first, without those of
            size 1 beside others.
        chain: ops between, the constant's reader first.
    """

    value: Value
    tensor: Tensor
    shape: tuple[int, ...]
    axes: Axes
    chain: tuple[Op, ...]

    def one(self, axis: int) -> int | None:
        """The single axis of the constant behind one that the op sees; None where several are merged, or it is new."""
        found = self.axes[axis]
        return found[0] if len(found) == 1 else None

    def all(self, axes: Sequence[int]) -> tuple[int, ...]:
        """Those of the constant behind several that the op sees."""
        return tuple(part for axis in axes for part in self.axes[axis])


_View: TypeAlias = tuple[tuple[int, ...], Axes]
_Step: TypeAlias = Callable[[Known, Op, _View], _View | None]


def reading(known: Known, value: Value | None) -> Reading | None:
    """The constant behind a value; None where there is none, or what lies between does more than move numbers.

    What is passed: Transpose, Reshape, Flatten, Squeeze and Unsqueeze that split no axis, Cast, Identity, and
    QuantizeLinear and DequantizeLinear, behind which stand codes or numbers that get rounded.
    """
    chain: list[Op] = []
    while value is not None and (tensor := known.constant(value)) is None:
        maker = known.graph.producer(value)
        if maker is None or maker.key not in _STEPS:
            return None
        chain.append(maker)
        value = maker.input(0)
    if value is None or tensor is None:
        return None
    seen: _View | None = (tensor.shape, tuple((axis,) for axis in range(len(tensor.shape))))
    for op in reversed(chain):
        if seen is None:
            return None
        seen = _STEPS[op.key](known, op, seen)
    return None if seen is None else Reading(value, tensor, *seen, tuple(reversed(chain)))


def _same(known: Known, op: Op, view: _View) -> _View | None:
    return view


def _transposed(known: Known, op: Op, view: _View) -> _View | None:
    shape, axes = view
    order = op.attribute("perm", list(range(len(shape)))[::-1])
    if sorted(order) != list(range(len(shape))):
        return None
    return tuple(shape[axis] for axis in order), tuple(axes[axis] for axis in order)


def _reshaped(known: Known, op: Op, view: _View) -> _View | None:
    given = _numbers(known, op, "shape")
    if given is None or 0 in view[0] or given.count(-1) > 1:
        return None
    if not op.attribute("allowzero", 0):
        if any(size == 0 and axis >= len(view[0]) for axis, size in enumerate(given)):
            return None
        given = [view[0][axis] if size == 0 else size for axis, size in enumerate(given)]
    known_part = math.prod(size for size in given if size != -1)
    rest = math.prod(view[0]) // known_part if known_part else 0
    return _regrouped(view, [rest if size == -1 else size for size in given])


def _flattened(known: Known, op: Op, view: _View) -> _View | None:
    axis = op.attribute("axis", 1)
    return _regrouped(view, [math.prod(view[0][:axis]), math.prod(view[0][axis:])])


def _squeezed(known: Known, op: Op, view: _View) -> _View | None:
    rank = len(view[0])
    given = _numbers(known, op, "axes")
    if given is None and op.input(1) is not None:
        return None
    gone = (
        {axis for axis, size in enumerate(view[0]) if size == 1} if given is None else {axis % rank for axis in given}
    )
    return _regrouped(view, [size for axis, size in enumerate(view[0]) if axis not in gone])


def _unsqueezed(known: Known, op: Op, view: _View) -> _View | None:
    given = _numbers(known, op, "axes")
    if given is None:
        return None
    rank = len(view[0]) + len(given)
    fresh, sizes = {axis % rank for axis in given}, iter(view[0])
    if len(fresh) != len(given):
        return None
    return _regrouped(view, [1 if axis in fresh else next(sizes) for axis in range(rank)])


def _numbers(known: Known, op: Op, name: str) -> list[int] | None:
    """A list of integers that an op takes as its second input, or took as an attribute in older opsets."""
    tensor = known.constant(op.input(1))
    if tensor is not None:
        return [int(number) for number in tensor.numpy().reshape(-1)]
    found = op.attribute(name, None)
    return None if found is None or op.input(1) is not None else [int(number) for number in found]


def _regrouped(view: _View, target: Sequence[int]) -> _View | None:
    """The view in another shape whose axes are whole axes of this one, or several that follow each other."""
    shape, axes = view
    made: list[tuple[int, ...]] = []
    at = 0
    for size in target:
        group: list[tuple[int, tuple[int, ...]]] = []
        product = 1
        while at < len(shape) and (product < size or (size == 1 and shape[at] == 1 and not group)):
            group.append((shape[at], axes[at]))
            product *= shape[at]
            at += 1
        if product != size:
            return None
        wide = [part for extent, part in group if extent > 1] or [part for _, part in group[:1]]
        made.append(tuple(axis for part in wide for axis in part))
    return (tuple(target), tuple(made)) if all(size == 1 for size in shape[at:]) else None


_STEPS: dict[tuple[str, str], _Step] = {
    ("", "Cast"): _same,
    ("", "CastLike"): _same,
    ("", "DequantizeLinear"): _same,
    ("", "Flatten"): _flattened,
    ("", "Identity"): _same,
    ("", "QuantizeLinear"): _same,
    ("", "Reshape"): _reshaped,
    ("", "Squeeze"): _squeezed,
    ("", "Transpose"): _transposed,
    ("", "Unsqueeze"): _unsqueezed,
    ("com.microsoft", "DequantizeLinear"): _same,
    ("com.microsoft", "QuantizeLinear"): _same,
}
