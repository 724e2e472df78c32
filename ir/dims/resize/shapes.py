"""Target shapes, repeats, and sizes to draw or to scale to."""

from __future__ import annotations

from secateur.ir.dims.numbers import Count, Counts, count, evaluate
from secateur.ir.dims.provenance import Element, elements
from secateur.ir.dims.resize.table import Resizing, resize_rules
from secateur.ir.errors import RefusedError
from secateur.ir.node import Op, Value

_register = resize_rules.register


@_register("Reshape")
def reshape(resizing: Resizing, op: Op) -> None:
    """The target shape; 0 and -1 follow by themselves."""
    _retarget(resizing, op, 1)


@_register("Expand")
def expand(resizing: Resizing, op: Op) -> None:
    """The target shape; a 1 stays whatever the input's axis is."""
    _retarget(resizing, op, 1, ones=True)


@_register("ConstantOfShape")
def constant_of_shape(resizing: Resizing, op: Op) -> None:
    """The shape to fill."""
    _retarget(resizing, op, 0)


def _retarget(resizing: Resizing, op: Op, port: int, *, ones: bool = False) -> None:
    """Writes new sizes where the target spells them in constants, and sees to it that the others follow."""
    layouts = resizing.output(op)
    sizes = [resizing.size(layout) for layout in layouts]
    found = elements(resizing.dimensions.known, op, port)
    shift = len(sizes) - len(found or ())
    for place, element in enumerate(found or () if shift >= 0 and (ones or not shift) else ()):
        size = sizes[place + shift]
        keep = element is None or element.number in (0, -1) or (ones and element.number == 1)
        if not keep and size is not None and element is not None and element.number != size:
            _write(resizing, element, size)
    if found is None or shift < 0 or (shift and not ones) or None in found:
        wanted = [count(layout, size) for layout, size in zip(layouts, sizes, strict=True)]
        _check_computed(resizing, op, port, wanted, ones=ones)


def _write(resizing: Resizing, element: Element, size: int) -> None:
    """Changes one number in a constant, along the way that it takes to its reader."""
    numbers = resizing.constant(element.reader, element.port)
    assert numbers is not None
    numbers[element.index] = size
    resizing.set_constant(element.reader, element.port, numbers)


def _check_computed(resizing: Resizing, op: Op, port: int, wanted: list[Count], *, ones: bool) -> None:
    """What is computed from shapes must come to the new sizes.

    Raises:
        RefusedError: it does not, or that cannot be told.
    """

    def sizes(value: Value) -> Counts | None:
        layouts = resizing.dimensions.layouts.get(value)
        return None if layouts is None else [count(layout, resizing.size(layout)) for layout in layouts]

    target = op.inputs[port]
    assert target is not None
    found = evaluate(resizing.graph, target, sizes)
    if found is None:
        follows = not any(map(resizing.shrinks, resizing.output(op))) and not _measures_what_shrinks(resizing, target)
    else:
        free = {0, -1, 1} if ones else {0, -1}
        pairs = zip(found[::-1], wanted[::-1], strict=False)
        follows = all(
            one is not None and (one == new or (not one.unknown and one.number in free)) for one, new in pairs
        )
    if not follows:
        raise RefusedError(
            f"the shape that {op} is given is computed in a way that does not follow the sizes of its axes",
            hint="fold constants first, or leave this group alone",
        )


def _measures_what_shrinks(resizing: Resizing, value: Value) -> bool:
    seen, waiting = {value}, [value]
    while waiting:
        maker = resizing.graph.producer(waiting.pop())
        for one in maker.inputs if maker is not None else ():
            if one is None or one in seen:
                continue
            if maker is not None and maker.op_type in ("Shape", "Size"):
                if resizing.touches(one):
                    return True
                continue
            seen.add(one)
            waiting.append(one)
    return False


@_register("Tile")
def tile(resizing: Resizing, op: Op) -> None:
    """How often each axis is repeated."""
    before, after = resizing.input(op, 0), resizing.output(op)
    sizes = [(resizing.size(old), resizing.size(new)) for old, new in zip(before, after, strict=True)]
    numbers = resizing.constant(op, 1)
    if numbers is not None:
        new = [
            number if not old or not made else made // old for number, (old, made) in zip(numbers, sizes, strict=True)
        ]
        resizing.set_constant(op, 1, new)


@_register("Resize")
def resize(resizing: Resizing, op: Op) -> None:
    """Sizes to scale to, where they are given as numbers (from opset 11)."""
    if op.input(3) is None:
        return
    made = resizing.output(op)
    axes = [axis % len(made) for axis in op.attribute("axes") or range(len(made))]
    for axis, element in zip(axes, elements(resizing.dimensions.known, op, 3) or (), strict=False):
        size = resizing.size(made[axis])
        if element is not None and size is not None and resizing.shrinks(made[axis]):
            _write(resizing, element, size)


@_register("RandomNormal", "RandomUniform")
def draw(resizing: Resizing, op: Op) -> None:
    """The shape to draw."""
    sizes = [resizing.size(layout) for layout in resizing.output(op)]
    resizing.set_attribute(
        op, "shape", tuple(size or old for size, old in zip(sizes, op.attribute("shape"), strict=True))
    )
