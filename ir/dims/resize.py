"""What an op spells of sizes, in attributes and shape constants, and how that follows when dimensions shrink."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from secateur.ir.dims.algebra import Dim, Indices, Layout, indices
from secateur.ir.dims.analysis import Dimensions
from secateur.ir.dims.axes import Layouts, Use
from secateur.ir.dims.provenance import Element, elements
from secateur.ir.errors import RefusedError
from secateur.ir.graph import Graph
from secateur.ir.node import Op
from secateur.ir.rules.table import RuleTable
from secateur.ir.tensor import Tensor


class Resizing:
    """The graph, what was found of it, and what of its dimensions is kept: all that a resize rule works with."""

    def __init__(self, graph: Graph, dimensions: Dimensions, kept: Mapping[Dim, Indices]) -> None:
        self.graph = graph
        self.dimensions = dimensions
        self.kept = kept

    def input(self, op: Op, port: int) -> Layouts:
        """The layouts at an input port, as they were found."""
        value = op.inputs[port]
        assert value is not None
        use = Use(op, port)
        return self.dimensions.layouts[use if use in self.dimensions.layouts else value]

    def output(self, op: Op, port: int = 0) -> Layouts:
        """The layouts of an output, as they were found."""
        value = op.outputs[port]
        assert value is not None
        return self.dimensions.layouts[value]

    def indices(self, layout: Layout) -> Indices:
        """Which indices of an axis stay."""
        return indices(layout, self.kept)

    def size(self, layout: Layout) -> int | None:
        """The new size of an axis; None where it is not known."""
        return None if any(dim.size is None for dim in layout) else len(self.indices(layout))

    def constant(self, op: Op, port: int) -> list[int] | None:
        """The whole numbers at a port where they are constant."""
        tensor = self.graph.constant(op.input(port))
        return None if tensor is None else [int(number) for number in tensor.numpy().reshape(-1)]

    def set_constant(self, op: Op, port: int, numbers: list[int]) -> None:
        """Gives an op other numbers at a port, in a constant of its own unless nothing else reads the present one."""
        value = op.inputs[port]
        assert value is not None
        assert value.const is not None
        array = np.array(numbers, value.const.dtype.numpy)
        tensor = Tensor(array.reshape(value.const.shape) if len(numbers) == value.const.size else array)
        if tensor.equals(value.const):
            return
        if self.graph.consumers(value) == [op] and op.inputs.count(value) == 1 and value not in self.graph.outputs:
            value.set_const(tensor)
            return
        own = self.graph.add_constant(value.name, tensor)
        self.graph.set_inputs(op, [own if at == port else old for at, old in enumerate(op.inputs)])


ResizeRule: TypeAlias = Callable[[Resizing, Op], None]

resize_rules: RuleTable[ResizeRule] = RuleTable(
    "what of its attributes and shape constants follows when an axis shrinks?"
)
_register = resize_rules.register


@_register("Conv")
def _conv(resizing: Resizing, op: Op) -> None:
    data, weight = resizing.size(resizing.input(op, 0)[1]), resizing.size(resizing.input(op, 1)[1])
    if data is not None and weight:
        resizing.graph.set_attribute(op, "group", data // weight)


@_register("ConvTranspose")
def _conv_transpose(resizing: Resizing, op: Op) -> None:
    made, weight = resizing.size(resizing.output(op)[1]), resizing.size(resizing.input(op, 1)[1])
    if made is not None and weight:
        resizing.graph.set_attribute(op, "group", made // weight)


@_register("Reshape")
def _reshape(resizing: Resizing, op: Op) -> None:
    _retarget(resizing, op, 1, [resizing.size(layout) for layout in resizing.output(op)])


@_register("Expand")
def _expand(resizing: Resizing, op: Op) -> None:
    _retarget(resizing, op, 1, [resizing.size(layout) for layout in resizing.output(op)], ones=True)


def _retarget(resizing: Resizing, op: Op, port: int, sizes: list[int | None], *, ones: bool = False) -> None:
    """Writes new sizes where the target spells them as constants; what it computes from shapes follows by itself."""
    found = elements(resizing.graph, op, port)
    shift = len(sizes) - len(found)
    for place, element in enumerate(found):
        size = sizes[place + shift] if place + shift >= 0 else None
        keep = element is None or element.number in (0, -1) or (ones and element.number == 1)
        if keep or size is None or element is None or element.number == size:
            continue
        _write(resizing, element, size)


def _write(resizing: Resizing, element: Element, size: int) -> None:
    """Changes one number in a constant, along the way that it takes to its reader."""
    numbers = resizing.constant(element.reader, element.port)
    assert numbers is not None
    numbers[element.index] = size
    resizing.set_constant(element.reader, element.port, numbers)


@_register("Tile")
def _tile(resizing: Resizing, op: Op) -> None:
    before, after = resizing.input(op, 0), resizing.output(op)
    sizes = [(resizing.size(old), resizing.size(new)) for old, new in zip(before, after, strict=True)]
    numbers = resizing.constant(op, 1)
    if numbers is not None:
        new = [count if not old or not made else made // old for count, (old, made) in zip(numbers, sizes, strict=True)]
        resizing.set_constant(op, 1, new)


@_register("Split")
def _split(resizing: Resizing, op: Op) -> None:
    axis = op.attribute("axis", 0) % len(resizing.input(op, 0))
    sizes = [resizing.size(resizing.output(op, port)[axis]) for port in range(len(op.outputs))]
    if any(size is None for size in sizes):
        return
    numbers = [int(size or 0) for size in sizes]
    if op.input(1) is not None:
        resizing.set_constant(op, 1, numbers)
    elif op.attribute("split") is not None:
        resizing.graph.set_attribute(op, "split", numbers)
    elif len(set(numbers)) > 1:
        _spell_split(resizing, op, numbers)


def _spell_split(resizing: Resizing, op: Op, numbers: list[int]) -> None:
    """Parts that were equal are not any more: their sizes must be said."""
    if (resizing.graph.root.header.opset() or 13) < 13:
        resizing.graph.set_attribute(op, "split", numbers)
        return
    sizes = resizing.graph.add_constant(f"{op.outputs[0]}_sizes".lstrip("%"), Tensor(np.array(numbers, np.int64)))
    resizing.graph.set_attribute(op, "num_outputs", None)
    resizing.graph.set_inputs(op, [op.inputs[0], sizes])


@_register("Slice")
def _slice(resizing: Resizing, op: Op) -> None:
    data = resizing.input(op, 0)
    starts, ends = _bound(resizing, op, 1, "starts"), _bound(resizing, op, 2, "ends")
    which = _bound(resizing, op, 3, "axes") or list(range(len(starts)))
    steps = resizing.constant(op, 4) or [1] * len(starts)
    for place, axis in enumerate(axis % len(data) for axis in which):
        size = resizing.dimensions.known.size(op.inputs[0], axis)
        if size is None or resizing.size(data[axis]) == size:
            continue
        start, stop, step = slice(starts[place], ends[place], steps[place]).indices(size)
        stays = resizing.indices(data[axis])
        if step == 1:
            starts[place], ends[place] = (int(np.searchsorted(stays, bound)) for bound in (start, stop))
        elif step > 1:
            ends[place] = len(stays)
        else:
            raise RefusedError(f"{op} goes backwards along an axis that would shrink", hint="leave this group alone")
    _set_bound(resizing, op, 1, "starts", starts)
    _set_bound(resizing, op, 2, "ends", ends)


def _bound(resizing: Resizing, op: Op, port: int, attribute: str) -> list[int]:
    given = op.attribute(attribute)
    return [int(number) for number in given] if given is not None else resizing.constant(op, port) or []


def _set_bound(resizing: Resizing, op: Op, port: int, attribute: str, numbers: list[int]) -> None:
    if op.attribute(attribute) is not None:
        resizing.graph.set_attribute(op, attribute, numbers)
    else:
        resizing.set_constant(op, port, numbers)


@_register("Gather")
def _gather(resizing: Resizing, op: Op) -> None:
    data, chosen = resizing.input(op, 0), resizing.graph.constant(op.input(1))
    axis = op.attribute("axis", 0) % len(data)
    size = resizing.dimensions.known.size(op.inputs[0], axis)
    if chosen is None or len(chosen.shape) != 1 or size is None:
        return
    stays = resizing.indices(data[axis])
    wanted = chosen.numpy()[resizing.indices(resizing.output(op)[axis])] % size
    resizing.set_constant(op, 1, np.searchsorted(stays, wanted).tolist())


@_register("GroupNormalization")
def _group_norm(resizing: Resizing, op: Op) -> None:
    before = resizing.dimensions.known.size(op.inputs[0], 1)
    groups = op.attribute("num_groups")
    after = resizing.size(resizing.input(op, 0)[1])
    scale = resizing.size(resizing.input(op, 1)[0])
    if before is not None and after is not None and scale is not None and scale != after:
        resizing.graph.set_attribute(op, "num_groups", scale)
    elif before is not None and after is not None and groups and (before // groups) and after % (before // groups) == 0:
        resizing.graph.set_attribute(op, "num_groups", after // (before // groups))


@_register("Attention")
def _attention(resizing: Resizing, op: Op) -> None:
    query, key = resizing.input(op, 0), resizing.input(op, 1)
    known = resizing.dimensions.known
    flat = len(query) == 3
    heads = op.attribute("q_num_heads") if flat else known.size(op.inputs[0], 1)
    width = known.size(op.inputs[0], -1)
    if not heads or not width:
        return
    if op.attribute("scale") is None:
        resizing.graph.set_attribute(op, "scale", 1 / math.sqrt(width // heads if flat else width))
    if flat:
        resizing.graph.set_attribute(op, "q_num_heads", _heads(resizing, query[2], heads))
        resizing.graph.set_attribute(op, "kv_num_heads", _heads(resizing, key[2], op.attribute("kv_num_heads")))


def _heads(resizing: Resizing, layout: Layout, heads: int) -> int:
    """How many heads have at least one index left."""
    width = math.prod(dim.size or 1 for dim in layout) // heads
    return len(set((resizing.indices(layout) // width).tolist()))


@_register("TopK")
def _top_k(resizing: Resizing, op: Op) -> None:
    data = resizing.input(op, 0)
    axis = op.attribute("axis", -1) % len(data)
    numbers, size = resizing.constant(op, 1), resizing.size(data[axis])
    if numbers is not None and size is not None and numbers[0] > size:
        raise RefusedError(f"{op} takes the best {numbers[0]} of what would be {size}", hint="keep at least that many")


@_register("Resize")
def _resize(resizing: Resizing, op: Op) -> None:
    numbers = resizing.constant(op, 3) if op.input(3) is not None else None
    if numbers:
        made = resizing.output(op)
        sizes = [resizing.size(layout) for layout in made]
        which = op.attribute("axes") or range(len(made))
        new = [sizes[axis % len(made)] or number for axis, number in zip(which, numbers, strict=True)]
        resizing.set_constant(op, 3, new)
