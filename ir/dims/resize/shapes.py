"""Target shapes, repeats, and sizes to draw or to scale to."""

from __future__ import annotations

from collections.abc import Mapping

from secateur.ir.dims.algebra import Layout
from secateur.ir.dims.algebra import expand as expand_layout
from secateur.ir.dims.numbers import Count, Counts, count, evaluate, measured
from secateur.ir.dims.provenance import Element, elements, handed_on
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
    spelled: dict[int, int] = {}
    for place, element in enumerate(found or () if shift >= 0 and (ones or not shift) else ()):
        size = sizes[place + shift]
        keep = element is None or element.number in (0, -1) or (ones and element.number == 1)
        if not keep and size is not None:
            spelled[place] = size
    before = _computed(resizing, op, port, new=False)
    _write(resizing, op, port, spelled)
    if found is None or shift < 0 or (shift and not ones) or None in found:
        _check_computed(resizing, op, port, before)


def _write(resizing: Resizing, op: Op, port: int, spelled: Mapping[int, int]) -> None:
    """Changes numbers of the sizes that an op reads in the constants where they come from, for this op alone."""
    graph, known, value = resizing.graph, resizing.dimensions.known, op.inputs[port]
    assert value is not None
    present = elements(known, op, port) or []
    spelled = {place: size for place, size in spelled.items() if _differs(present[place], size)}
    maker = graph.producer(value)
    if not spelled:
        return
    if maker is None:
        numbers = [spelled.get(place, element.number) for place, element in enumerate(present) if element is not None]
        resizing.set_constant(op, port, numbers)
        return
    parts = [(part, len(elements(known, maker, part) or ())) for part in handed_on(graph, maker)]
    if len(graph.uses(value)) > 1 or graph.consumers(value) != [op] or value in graph.outputs:
        copy = Value(graph.unique_name(value.name), value.type)
        maker = graph.add_op(Op(maker.op_type, maker.inputs, (copy,), dict(maker.attributes), maker.domain))
        graph.set_inputs(op, [copy if at == port else old for at, old in enumerate(op.inputs)])
    start = 0
    for part, width in parts:
        _write(
            resizing,
            maker,
            part,
            {place - start: size for place, size in spelled.items() if 0 <= place - start < width},
        )
        start += width


def _differs(element: Element | None, size: int) -> bool:
    return element is not None and element.number != size


def _computed(resizing: Resizing, op: Op, port: int, *, new: bool) -> Counts | None:
    """What the target comes to, with the sizes as they were or as they will be."""

    def sizes(value: Value) -> Counts | None:
        layouts = resizing.dimensions.layouts.get(value)
        return None if layouts is None else [_count(resizing, layout, new=new) for layout in layouts]

    target = op.inputs[port]
    assert target is not None
    return evaluate(resizing.graph, target, sizes)


def _count(resizing: Resizing, layout: Layout, *, new: bool) -> Count:
    product = Count(1)
    for dim in expand_layout(layout):
        size = None if dim.size is None else len(resizing.indices((dim,))) if new else dim.size
        product *= count((dim,), size)
    return product


def _check_computed(resizing: Resizing, op: Op, port: int, before: Counts | None) -> None:
    """What is computed must change as the axes do.

    Raises:
        RefusedError: it does not, or that cannot be told.
    """
    after, target = _computed(resizing, op, port, new=True), op.inputs[port]
    assert target is not None
    if before is None or after is None or len(before) != len(after):
        shrunk = any(resizing.touches(value) for value, _ in measured(resizing.graph, target))
        follows = not shrunk and not any(map(resizing.shrinks, resizing.output(op)))
    else:
        made = resizing.output(op)[::-1]
        follows = all(
            _follows(one, other, _count(resizing, layout, new=False), _count(resizing, layout, new=True))
            for one, other, layout in zip(before[::-1], after[::-1], made, strict=False)
        )
    if not follows:
        raise RefusedError(
            f"the shape that {op} is given is computed in a way that does not follow the sizes of its axes",
            hint="fold constants first, or leave this group alone",
        )


def _follows(before: Count | None, after: Count | None, old: Count, new: Count) -> bool:
    """An entry changes by the factor that its axis changes by; 0, -1 and a one follow by themselves."""
    if before is None or after is None:
        return old == new
    if not after.unknown and after.number in (0, -1, 1) and before == after:
        return True
    return before.unknown == after.unknown and before.number * new.number == after.number * old.number


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
    sizes = {place: resizing.size(made[axis]) for place, axis in enumerate(axes) if resizing.shrinks(made[axis])}
    _write(resizing, op, 3, {place: size for place, size in sizes.items() if size is not None})


@_register("RandomNormal", "RandomUniform")
def draw(resizing: Resizing, op: Op) -> None:
    """The shape to draw."""
    sizes = [resizing.size(layout) for layout in resizing.output(op)]
    resizing.set_attribute(
        op, "shape", tuple(size or old for size, old in zip(sizes, op.attribute("shape"), strict=True))
    )
