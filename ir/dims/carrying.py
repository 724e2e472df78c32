"""Ops that commute with a positive scale of each channel, and where the scales of their inputs lie in their outputs.

Scales are told by number: an array of indices with one axis for each of a value's, of size one where all entries along
it have one scale. What is in no table stops a scale: a sigmoid of twice the number is not twice the sigmoid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.ir.dims.algebra import Dim, Layout, expand, size_of
from secateur.ir.dims.analysis import Dimensions
from secateur.ir.dims.axes import Use
from secateur.ir.node import Op, Value
from secateur.ir.rules.table import RuleTable
from secateur.ir.types import DataType

Numbers: TypeAlias = NDArray[np.int64]

NO_SCALE = 0
"""The number of the scale that is one and stays one."""


class Stuck(Exception):
    """Why a scale cannot pass an op."""


Move: TypeAlias = Callable[[Dimensions, Op, Sequence[Numbers]], Sequence[Numbers]]
"""(dimensions, op, numbers of the inputs that carry) to the numbers of its outputs. Raises Stuck."""


Cuts: TypeAlias = Callable[[Dimensions, Op], Sequence[int]]


@dataclass(frozen=True)
class Carrying:
    """Which inputs carry scales to the outputs; None for all.

    Without `move` the op works entry by entry: all of these inputs and the first output have the same scales, but for
    broadcasting. `why` is the reason that the op commutes with them, `cuts` tells the axes of which it takes
    parts.
    """

    why: str
    ports: tuple[int, ...] | None = (0,)
    move: Move | None = None
    cuts: Cuts | None = None

    def inputs(self, op: Op) -> tuple[int, ...]:
        """The ports that this op has."""
        return tuple(range(len(op.inputs))) if self.ports is None else self.ports


carrying_rules: RuleTable[Carrying] = RuleTable("does it commute with a positive scale of each channel?")

for _types, _rule in (
    ("Identity Dropout", Carrying("hands on what it reads")),
    ("Relu LeakyRelu PRelu Abs Neg", Carrying("f(s x) = s f(x) for s > 0")),
    ("Add Sub Sum Mean", Carrying("linear in all its inputs together", None)),
    ("Max Min", Carrying("the largest of scaled numbers is the scaled largest", None)),
    ("Where", Carrying("picks one of two", (1, 2))),
):
    for _type in _types.split():
        carrying_rules.add(_type, _rule)


def _axis(dimensions: Dimensions, op: Op) -> Sequence[int]:
    return [op.attribute("axis", 0)]


def _axes(dimensions: Dimensions, op: Op) -> Sequence[int]:
    return _integers(dimensions, op, 3, "axes") or []


def _carries(
    why: str, *op_types: str, ports: tuple[int, ...] | None = (0,), cuts: Cuts | None = None
) -> Callable[[Move], Move]:
    def keep(move: Move) -> Move:
        for op_type in op_types:
            carrying_rules.add(op_type, Carrying(why, ports, move, cuts))
        return move

    return keep


@_carries("rounds, which scaling changes no more than any other rounding", "Cast")
def _cast(dimensions: Dimensions, op: Op, given: Sequence[Numbers]) -> Sequence[Numbers]:
    if not DataType(op.attribute("to", 1)).is_float:
        raise Stuck("it makes whole numbers")
    return given


@_carries("f(s x) = s f(x) for s > 0 where its bounds are zero or infinite", "Clip")
def _clip(dimensions: Dimensions, op: Op, given: Sequence[Numbers]) -> Sequence[Numbers]:
    for port, name, open_ in ((1, "min", -np.inf), (2, "max", np.inf)):
        bound: Any = op.attribute(name, None)
        if op.input(port) is not None:
            tensor = dimensions.known.constant(op.input(port))
            bound = np.nan if tensor is None else float(tensor.numpy().astype(np.float64).reshape(-1)[0])
        is_endless = bound is not None and (bound == 0 or abs(bound) >= 3e38 or bound == open_)
        if bound is not None and not is_endless:
            raise Stuck("it clips at bounds that do not scale")
    return given


@_carries("moves axes", "Transpose")
def _transpose(dimensions: Dimensions, op: Op, given: Sequence[Numbers]) -> Sequence[Numbers]:
    rank = given[0].ndim
    return [given[0].transpose(op.attribute("perm", tuple(reversed(range(rank)))))]


@_carries("sees the same entries in other axes", "Reshape", "Squeeze", "Unsqueeze", "Flatten")
def _reshape(dimensions: Dimensions, op: Op, given: Sequence[Numbers]) -> Sequence[Numbers]:
    read, made = _layouts(dimensions, op, 0), dimensions.layouts.get(op.output)
    if read is None or made is None:
        raise Stuck("nothing is known of its axes")
    return [regroup(given[0], read, made)]


@_carries("repeats what it reads along axes of size one", "Expand")
def _expand(dimensions: Dimensions, op: Op, given: Sequence[Numbers]) -> Sequence[Numbers]:
    rank = dimensions.known.rank(op.output)
    if rank is None:
        raise Stuck("the rank of what it makes is not known")
    return [given[0].reshape((1,) * (rank - given[0].ndim) + given[0].shape)]


@_carries("puts parts side by side", "Concat", ports=None)
def _concat(dimensions: Dimensions, op: Op, given: Sequence[Numbers]) -> Sequence[Numbers]:
    rank = given[0].ndim
    axis = op.attribute("axis", 0) % rank
    shape = [max(sizes) for sizes in zip(*(one.shape for one in given), strict=True)]
    if all(one.shape[axis] == 1 for one in given) and all(np.array_equal(given[0], one) for one in given):
        return [given[0]]
    parts = []
    for port, one in enumerate(given):
        size = dimensions.known.size(op.inputs[port], axis)
        if size is None:
            raise Stuck("the sizes of its parts are not known")
        parts.append(np.broadcast_to(one, [*shape[:axis], size, *shape[axis + 1 :]]))
    return [np.concatenate(parts, axis)]


@_carries("hands on parts", "Split", cuts=_axis)
def _split(dimensions: Dimensions, op: Op, given: Sequence[Numbers]) -> Sequence[Numbers]:
    axis = op.attribute("axis", 0) % given[0].ndim
    if given[0].shape[axis] == 1:
        return [given[0]] * len(op.outputs)
    sizes = [None if made is None else dimensions.known.size(made, axis) for made in op.outputs]
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes):
        raise Stuck("the sizes of its parts are not known")
    return np.split(given[0], np.cumsum(known)[:-1], axis)


@_carries("hands on a part", "Slice", cuts=_axes)
def _slice(dimensions: Dimensions, op: Op, given: Sequence[Numbers]) -> Sequence[Numbers]:
    numbers = given[0]
    starts, ends = (_integers(dimensions, op, port, name) for port, name in ((1, "starts"), (2, "ends")))
    axes = _integers(dimensions, op, 3, "axes", list(range(numbers.ndim if starts is None else len(starts))))
    if axes is None or ((starts is None or ends is None) and any(numbers.shape[axis] > 1 for axis in axes)):
        raise Stuck("its bounds are computed")
    steps = _integers(dimensions, op, 4, "", [1] * len(axes))
    for place, axis in enumerate(axes):
        if numbers.shape[axis] > 1:
            if starts is None or ends is None or steps is None or steps[place] < 1:
                raise Stuck("it does not go forward by a known step")
            cut = slice(starts[place], ends[place], steps[place])
            numbers = numbers[(slice(None),) * (axis % numbers.ndim) + (cut,)]
    return [numbers]


@_carries("takes entries by their indices", "Gather", cuts=_axis)
def _gather(dimensions: Dimensions, op: Op, given: Sequence[Numbers]) -> Sequence[Numbers]:
    numbers, axis = given[0], op.attribute("axis", 0) % given[0].ndim
    tensor = dimensions.known.constant(op.input(1))
    rank = dimensions.known.rank(op.input(1))
    if numbers.shape[axis] > 1:
        if tensor is None:
            raise Stuck("it takes channels by computed indices")
        return [numbers.take(tensor.numpy().astype(np.int64), axis)]
    if rank is None:
        raise Stuck("the rank of its indices is not known")
    return [numbers.reshape(*numbers.shape[:axis], *[1] * rank, *numbers.shape[axis + 1 :])]


@_carries("puts zeros around", "Pad")
def _pad(dimensions: Dimensions, op: Op, given: Sequence[Numbers]) -> Sequence[Numbers]:
    value = dimensions.known.constant(op.input(2))
    constant = op.attribute("mode", "constant") == "constant"
    filled = op.attribute("value", 0.0) if op.input(2) is None else 1.0 if value is None else value.numpy().any()
    pads, axes = _integers(dimensions, op, 1, "pads"), _integers(dimensions, op, 3, "", list(range(given[0].ndim)))
    if (constant and filled) or pads is None or axes is None:
        raise Stuck("it pads by something else than zeros")
    for place, axis in enumerate(axes):
        if given[0].shape[axis] > 1 and (pads[place] or pads[place + len(axes)]):
            raise Stuck("it pads channels")
    return given


@_carries("pools each channel on its own", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
def _pool(dimensions: Dimensions, op: Op, given: Sequence[Numbers]) -> Sequence[Numbers]:
    if any(size > 1 for size in given[0].shape[2:]):
        raise Stuck("scales differ within what it pools")
    return [given[0]]


@_carries("scales with what lies along other axes", *(f"Reduce{one}" for one in "Mean Sum Max Min L1 L2".split()))
def _reduce(dimensions: Dimensions, op: Op, given: Sequence[Numbers]) -> Sequence[Numbers]:
    numbers = given[0]
    axes = _integers(dimensions, op, 1, "axes")
    if axes is None and op.input(1) is not None:
        raise Stuck("the axes that it reduces are computed")
    if axes is None or not axes:
        axes = [] if op.attribute("noop_with_empty_axes", 0) else list(range(numbers.ndim))
    which = tuple(axis % numbers.ndim for axis in axes)
    if any(numbers.shape[axis] > 1 for axis in which):
        raise Stuck("scales differ within what it reduces")
    return [numbers if op.attribute("keepdims", 1) else numbers.squeeze(which)]


@_carries("interpolates along other axes", "Resize", "Upsample")
def _resize(dimensions: Dimensions, op: Op, given: Sequence[Numbers]) -> Sequence[Numbers]:
    for axis, size in enumerate(given[0].shape):
        if size > 1 and dimensions.known.size(op.output, axis) != size:
            raise Stuck("it interpolates between channels")
    if op.attribute("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        raise Stuck("it fills in a number of its own")
    return given


@_carries("weighs values with what queries and keys give", "Attention", ports=(2,))
def _attention(dimensions: Dimensions, op: Op, given: Sequence[Numbers]) -> Sequence[Numbers]:
    numbers, known = given[0], dimensions.known
    if op.input(5) is not None or numbers.shape[-2] > 1:
        raise Stuck("values of the past come beside")
    if numbers.ndim == 4:
        heads, shared = known.size(op.input(0), 1), known.size(op.input(2), 1)
        if numbers.shape[1] == 1:
            return [numbers]
        if heads is None or not shared:
            raise Stuck("the number of heads is not known")
        return [np.repeat(numbers, heads // shared, axis=1)]
    heads, shared = op.attribute("q_num_heads", 0), op.attribute("kv_num_heads", 0)
    if numbers.shape[-1] == 1:
        return [numbers]
    by_head = numbers.reshape(*numbers.shape[:-1], shared, -1)
    return [np.repeat(by_head, heads // shared, axis=-2).reshape(*numbers.shape[:-1], -1)]


def regroup(numbers: Numbers, read: Sequence[Layout], made: Sequence[Layout]) -> Numbers:
    """What a value has along axes `read`, along other axes `made` of the same factors.

    Raises:
        Stuck: scales differ along an axis that is seen otherwise.
    """
    before, after = [expand(layout) for layout in read], [expand(layout) for layout in made]
    flat, wanted = ([dim for axis in axes for dim in axis] for axes in (before, after))
    sizes = [size for axis, many in zip(before, numbers.shape, strict=True) for size in _factor_sizes(axis, many)]
    start = _common(flat, wanted)
    end = min(_common(flat[::-1], wanted[::-1]), len(flat) - start, len(wanted) - start)
    if any(size > 1 for size in sizes[start : len(sizes) - end]):
        raise Stuck("it cuts channels otherwise than scales differ")
    kept = sizes[:start] + [1] * (len(wanted) - start - end) + sizes[len(sizes) - end :]
    found = numbers.reshape(kept)
    place, shape = 0, []
    for axis in after:
        parts = kept[place : place + len(axis)]
        if any(size > 1 for size in parts):
            full = _factor_sizes(axis, 2)
            found = np.broadcast_to(found, [*found.shape[:place], *full, *found.shape[place + len(axis) :]])
            shape.append(int(np.prod(full)))
        else:
            shape.append(1)
        place += len(axis)
    return found.reshape(shape)


def _factor_sizes(axis: Sequence[Dim], many: int) -> list[int]:
    """The sizes of the factors of an axis along which scales differ (`many` above 1), else as many ones."""
    if many == 1:
        return [1] * len(axis)
    if size_of(axis) is None:
        raise Stuck("the size of an axis is not known")
    return [dim.size or 1 for dim in axis]


def _common(one: Sequence[Dim], other: Sequence[Dim]) -> int:
    """How many dimensions are the same from the start on."""
    for place, (left, right) in enumerate(zip(one, other, strict=False)):
        if left is not right:
            return place
    return min(len(one), len(other))


def _layouts(dimensions: Dimensions, op: Op, port: int) -> Sequence[Layout] | None:
    value: Value | None = op.input(port)
    found = None if value is None else dimensions.layouts.get(value)
    return dimensions.layouts.get(Use(op, port)) if found is None else found


def _integers(
    dimensions: Dimensions, op: Op, port: int, name: str, default: list[int] | None = None
) -> list[int] | None:
    """Whole numbers, given as an input or an attribute; None where they are computed."""
    if op.input(port) is not None:
        tensor = dimensions.known.constant(op.input(port))
        return None if tensor is None else [int(one) for one in tensor.numpy().reshape(-1)]
    found = op.attribute(name, None) if name else None
    return default if found is None else [int(one) for one in found]
