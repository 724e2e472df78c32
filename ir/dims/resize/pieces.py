"""Where axes are cut: sizes of parts, bounds, indices, and how many to take."""

from __future__ import annotations

import numpy as np

from secateur.ir.dims.algebra import size_of
from secateur.ir.dims.positions import giver
from secateur.ir.dims.resize.table import Resizing, resize_rules
from secateur.ir.errors import RefusedError
from secateur.ir.node import Op
from secateur.ir.tensor import Tensor

_register = resize_rules.register


@_register("Split")
def split(resizing: Resizing, op: Op) -> None:
    """The sizes of the parts; parts that were equal without being told must be told now."""
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
    if (resizing.graph.root.header.opset() or 13) < 13:
        resizing.graph.set_attribute(op, "split", numbers)
        return
    sizes = resizing.graph.add_constant(f"{op.outputs[0]}_sizes".lstrip("%"), Tensor(np.array(numbers, np.int64)))
    resizing.graph.set_attribute(op, "num_outputs", None)
    resizing.graph.set_inputs(op, [op.inputs[0], sizes])


@_register("Slice")
def slice_(resizing: Resizing, op: Op) -> None:
    """Bounds: where what they take lies among what stays."""
    data, made = resizing.input(op, 0), resizing.output(op)
    starts, ends = _bound(resizing, op, 1, "starts"), _bound(resizing, op, 2, "ends")
    which = _bound(resizing, op, 3, "axes") or list(range(len(starts)))
    steps = resizing.constant(op, 4) or [1] * len(starts)
    if not starts or not ends:
        return  # Bounds that are computed pin the axes that they cut.
    for place, axis in enumerate(axis % len(data) for axis in which):
        size = size_of(data[axis])
        if size is None or not resizing.shrinks(data[axis]):
            continue
        taken = np.arange(size)[starts[place] : ends[place] : steps[place]][resizing.indices(made[axis])]
        places = np.searchsorted(resizing.indices(data[axis]), taken)
        if steps[place] < 0 or (len(places) > 1 and (np.diff(places) != steps[place]).any()):
            raise RefusedError(f"{op} takes indices that would not follow each other", hint="leave this group alone")
        starts[place], ends[place] = (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)
    _set_bound(resizing, op, 1, "starts", starts)
    _set_bound(resizing, op, 2, "ends", ends)


def _bound(resizing: Resizing, op: Op, port: int, attribute: str) -> list[int]:
    given = op.attribute(attribute)
    return [int(number) for number in given] if given is not None else resizing.constant(op, port) or []


def _set_bound(resizing: Resizing, op: Op, port: int, attribute: str, numbers: list[int]) -> None:
    if op.attribute(attribute) is not None:
        resizing.set_attribute(op, attribute, tuple(numbers))
    else:
        resizing.set_constant(op, port, numbers)


@_register("Gather")
def gather(resizing: Resizing, op: Op) -> None:
    """Constant indices: where what they pick lies now."""
    data, chosen = resizing.input(op, 0), resizing.graph.constant(op.input(1))
    axis = op.attribute("axis", 0) % len(data)
    size = size_of(data[axis])
    if chosen is None or len(chosen.shape) > 1 or size is None:
        return
    stays, wanted = resizing.indices(data[axis]), chosen.numpy().reshape(-1) % size
    if chosen.shape:
        wanted = wanted[resizing.indices(resizing.output(op)[axis])]
    resizing.set_constant(op, 1, np.searchsorted(stays, wanted).tolist())


@_register("TopK")
def top_k(resizing: Resizing, op: Op) -> None:
    """No more can be taken than there are."""
    data = resizing.input(op, 0)
    axis = op.attribute("axis", -1) % len(data)
    given = op.attribute("k")
    numbers, size = [given] if given is not None else resizing.constant(op, 1), resizing.size(data[axis])
    if numbers is not None and size is not None and numbers[0] > size:
        name = resizing.name(data[axis])
        raise RefusedError(
            f"{name}: {op} takes the best {numbers[0]} of what would be {size}", hint="keep at least that many"
        )


@_register("Equal")
def equal(resizing: Resizing, op: Op) -> None:
    """Positions that are compared with constants: what these count now."""
    for port in (0, 1):
        found = giver(resizing.graph, op.inputs[port])
        numbers = resizing.constant(op, 1 - port)
        layout = () if found is None else resizing.input(found[0], 0)[found[1]]
        if numbers is not None and resizing.shrinks(layout):
            # What does not stay is cut off afterwards.
            resizing.set_constant(op, 1 - port, np.searchsorted(resizing.indices(layout), numbers).tolist())


@_register("OneHot")
def one_hot(resizing: Resizing, op: Op) -> None:
    """How many positions there are."""
    made = resizing.output(op)
    size = resizing.size(made[op.attribute("axis", -1) % len(made)])
    if size is not None and resizing.constant(op, 1) is not None:
        resizing.set_constant(op, 1, [size])
