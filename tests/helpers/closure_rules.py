"""What each operator does to masks: elementwise ops, ops that move elements, and ops that reduce or choose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from helpers.closure_masks import Mask, Masks, Place, Reason, See, title
from helpers.closure_positions import chooser, picked
from numpy.typing import NDArray

from secateur.ir import Graph, Op, Value
from secateur.ir.rules.table import RuleTable

ELEMENTWISE = (
    "Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast "
    "Ceil Celu Clip Cos Cosh Div Dropout Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid "
    "HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu "
    "Pow Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan "
    "Tanh ThresholdedRelu Where Xor com.microsoft::BiasGelu com.microsoft::FastGelu com.microsoft::Gelu "
    "com.microsoft::QuickGelu"
).split()


@dataclass(frozen=True)
class Visit:
    """One op and what its rule may ask: places of its ports, known numbers, and the masks to grow."""

    graph: Graph
    op: Op
    masks: Masks
    numbers: Mapping[Value, NDArray[Any]]

    def at(self, port: int) -> Place | None:
        """The place at an input port; None where it is left out."""
        value = self.op.input(port)
        if value is None:
            return None
        return value if self.graph.constant(value) is None else (self.op, port)

    def out(self, port: int = 0) -> Place | None:
        """The place of an output; None where it is left out."""
        return self.op.outputs[port] if port < len(self.op.outputs) else None

    def shape(self, place: Place | None) -> tuple[int, ...]:
        assert place is not None, f"{self.op.title} leaves out what it must have"
        return self.masks.shape_of(place)

    def number(self, port: int) -> NDArray[Any] | None:
        """The numbers at an input port, where they depend on constants and shapes only."""
        value = self.op.input(port)
        tensor = self.graph.constant(value)
        if tensor is not None:
            return tensor.numpy()
        return None if value is None else self.numbers.get(value)

    def integers(self, port: int, attribute: str = "") -> list[int] | None:
        """The same as a list; from an attribute where an older opset has one."""
        found = self.number(port)
        if found is not None:
            return [int(item) for item in found.reshape(-1)]
        given = self.op.attribute(attribute) if attribute and self.op.input(port) is None else None
        return None if given is None else [int(item) for item in given]

    def axis(self, rank: int, default: int, name: str = "axis") -> int:
        return int(self.op.attribute(name, default)) % max(rank, 1)

    def opset(self) -> int:
        return self.graph.root.header.opset() or 1

    def spread(
        self, small: Place | None, large: Place | None, see_small: See = np.asarray, see_large: See = np.asarray
    ) -> None:
        if small is not None and large is not None:
            self.masks.spread(small, large, see_small, see_large)

    def link(self, *members: tuple[Place | None, Sequence[str]], **sizes: int) -> None:
        self.masks.link(sizes, *members)

    def pin(self, place: Place | None, axis: int, kind: str, why: str) -> None:
        """Indices of this axis must stay."""
        self._note(self.masks.pinned, place, axis, kind, why)

    def blur(self, place: Place | None, axis: int, kind: str, why: str) -> None:
        """Indices of this axis may go, but that is more than masking them."""
        self._note(self.masks.inexact, place, axis, kind, why)

    def _note(self, notes: dict[Reason, None], place: Place | None, axis: int, kind: str, why: str) -> None:
        if place is None or self.shape(place)[axis] < 2 or self.masks.is_empty(place):
            return
        if self.masks.slabs(place, axis).any():
            notes[Reason(kind, f"axis {axis} of {title(place)}: {why} ({self.op.title})")] = None

    def pin_op(self, kind: str, why: str) -> None:
        """No element of any input or output may go."""
        places = [self.at(port) for port in range(len(self.op.inputs))]
        places += [self.out(port) for port in range(len(self.op.outputs))]
        places += self.graph.captures(self.op)
        for place in places:
            if place is not None and place in self.masks:
                self.masks.pinned[Reason(kind, f"{title(place)}: {why} ({self.op.title})")] = None


Rule: TypeAlias = Callable[[Visit], None]
rules: RuleTable[Rule] = RuleTable("what does it do to boolean masks?")


def as_shape(shape: Sequence[int]) -> See:
    """Sees a mask in another shape with as many elements."""
    return lambda mask: mask.reshape(shape)


def window(axis: int, start: int, stop: int, step: int = 1) -> See:
    """Sees a part of a mask along one axis."""

    def see(mask: Mask) -> Mask:
        cut = slice(start, None if step < 0 and stop < 0 else stop, step)
        return mask[(slice(None),) * axis + (cut,)]

    return see


def named(rank: int, axes: Iterable[int], prefix: str = "axis") -> list[str]:
    """Labels for the axes that an op passes through; nothing for those that it works along."""
    return ["" if axis in set(axes) else f"{prefix}{axis}" for axis in range(rank)]


def elementwise(visit: Visit) -> None:
    for port in range(len(visit.op.inputs)):
        visit.spread(visit.at(port), visit.out())
    for port in range(1, len(visit.op.outputs)):
        visit.spread(visit.out(), visit.out(port))


for _op_type in ELEMENTWISE:
    rules.add(_op_type, elementwise)


@rules.register("Shape", "Size", "ConstantOfShape")
def _no_elements(visit: Visit) -> None:
    """Only the shape matters, and that follows."""


@rules.register("CastLike")
def _first_input(visit: Visit) -> None:
    visit.spread(visit.at(0), visit.out())


@rules.register("CumSum")
def _cumulative(visit: Visit) -> None:
    visit.spread(visit.at(0), visit.out())


@rules.register("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshape(visit: Visit) -> None:
    visit.spread(visit.at(0), visit.out(), as_shape(visit.shape(visit.out())))


@rules.register("Expand")
def _expand(visit: Visit) -> None:
    visit.spread(visit.at(0), visit.out())


@rules.register("Transpose")
def _transpose(visit: Visit) -> None:
    rank = len(visit.shape(visit.out()))
    order = visit.op.attribute("perm", tuple(reversed(range(rank))))
    visit.spread(visit.at(0), visit.out(), lambda mask: mask.transpose(order))


@rules.register("Tile")
def _tile(visit: Visit) -> None:
    """A repeated axis is seen as [repeats, size]; whole repeats may go as well."""
    x, y = visit.at(0), visit.out()
    before, after = visit.shape(x), visit.shape(y)
    once = [size for n in before for size in (1, n)]
    often = [size for n, m in zip(before, after, strict=True) for size in (m // max(n, 1), n)]
    visit.spread(x, y, as_shape(once), as_shape(often))
    for axis, (n, m) in enumerate(zip(before, after, strict=True)):
        if 1 < n < m:
            pattern = ["" if other != axis else "repeat index" for other in range(len(after))]
            visit.link((y, pattern), repeat=m // n, index=n)


@rules.register("DepthToSpace", "SpaceToDepth")
def _depth(visit: Visit) -> None:
    """Channels are [block, block, c] (DCR, and SpaceToDepth always) or [c, block, block] (CRD)."""
    deep, wide = visit.at(0), visit.out()
    if visit.op.op_type == "SpaceToDepth":
        deep, wide = wide, deep
    block = int(visit.op.attribute("blocksize"))
    n, depth, height, width = visit.shape(deep)
    channels = depth // block**2
    if visit.op.attribute("mode", "DCR") == "DCR" or visit.op.op_type == "SpaceToDepth":
        inside, order = (n, block, block, channels, height, width), (0, 3, 4, 1, 5, 2)
    else:
        inside, order = (n, channels, block, block, height, width), (0, 1, 4, 2, 5, 3)
    spaced = (n, channels, height, block, width, block)
    visit.spread(deep, wide, lambda mask: mask.reshape(inside).transpose(order), as_shape(spaced))
    for axis in (2, 3):
        visit.pin(deep, axis, "spatial", "its places are laid side by side")
        visit.pin(wide, axis, "spatial", "its places are laid side by side")


def _pass_others(visit: Visit, whole: Place | None, part: Place | None, axes: Iterable[int]) -> None:
    """A slab across the axes that an op doesn't work along is removed from the whole tensor."""
    if whole in visit.masks.packed:
        return
    labels = named(len(visit.shape(whole)), axes)
    visit.link((whole, labels), (part, labels))


@rules.register("Concat")
def _concat(visit: Visit) -> None:
    y = visit.out()
    axis, start = visit.axis(len(visit.shape(y)), 1), 0
    for port in range(len(visit.op.inputs)):
        x = visit.at(port)
        stop = start + visit.shape(x)[axis]
        visit.spread(x, y, see_large=window(axis, start, stop))
        _pass_others(visit, y, x, [axis])
        start = stop


@rules.register("Split")
def _split(visit: Visit) -> None:
    x = visit.at(0)
    axis, start = visit.axis(len(visit.shape(x)), 0), 0
    for port in range(len(visit.op.outputs)):
        y = visit.out(port)
        stop = start + visit.shape(y)[axis]
        visit.spread(y, x, see_large=window(axis, start, stop))
        _pass_others(visit, x, y, [axis])
        start = stop


@rules.register("Slice")
def _slice(visit: Visit) -> None:
    x, y = visit.at(0), visit.out()
    shape = visit.shape(x)
    starts, ends = visit.integers(1, "starts"), visit.integers(2, "ends")
    if starts is None or ends is None:
        visit.pin_op("data", "its bounds are not known before run time")
        return
    axes = [axis % len(shape) for axis in visit.integers(3, "axes") or range(len(starts))]
    steps = visit.integers(4) or [1] * len(starts)
    cuts = [slice(None)] * len(shape)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        first, last, stride = slice(start, end, step).indices(shape[axis])
        cuts[axis] = slice(first, None if last < 0 else last, stride)
    visit.spread(y, x, see_large=lambda mask: mask[tuple(cuts)])
    cut = [axis for axis in axes if visit.shape(y)[axis] != shape[axis]]
    _pass_others(visit, x, y, {axis for axis, step in zip(axes, steps, strict=True) if axis in cut or step != 1})


@rules.register("Pad")
def _pad(visit: Visit) -> None:
    x, y = visit.at(0), visit.out()
    shape, pads = visit.shape(x), visit.integers(1, "pads")
    if pads is None:
        visit.pin_op("data", "its pads are not known before run time")
        return
    axes = [axis % len(shape) for axis in visit.integers(3) or range(len(shape))]
    before = dict.fromkeys(range(len(shape)), 0) | dict(zip(axes, pads, strict=False))
    padded = [axis for axis in range(len(shape)) if shape[axis] != visit.shape(y)[axis] or before[axis]]
    cuts = tuple(slice(before[axis], before[axis] + shape[axis]) for axis in range(len(shape)))
    visit.spread(x, y, see_large=lambda mask: mask[cuts])
    _pass_others(visit, y, x, padded)
    if visit.op.attribute("mode", "constant") != "constant":
        for axis in padded:
            visit.pin(x, axis, "spatial", "it is padded with its own elements")


@rules.register("Gather")
def _gather(visit: Visit) -> None:
    """Constant indices tie what they name to where it goes; indices that are data keep the axis whole."""
    x, y, indices = visit.at(0), visit.out(), visit.number(1)
    shape, rank = visit.shape(x), len(visit.shape(visit.at(1)))
    axis = visit.axis(len(shape), 0)
    outer, inner = named(axis, ()), [f"axis{k}" for k in range(axis + 1, len(shape))]
    chosen = [f"index{k}" for k in range(rank)]
    if indices is None:
        visit.link((x, [*outer, "", *inner]), (y, [*outer, *chosen, *inner]), (visit.at(1), chosen))
        if not _chosen_from(visit, x, axis):
            visit.pin(x, axis, "data", "which of it is needed depends on the data")
        return
    flat = (*shape[:axis], indices.size, *shape[axis + 1 :])
    for place, index in enumerate(indices.reshape(-1).tolist()):
        index %= shape[axis]
        visit.spread(x, y, window(axis, index, index + 1), _in_shape(flat, window(axis, place, place + 1)))
    if x not in visit.masks.packed:
        visit.link((x, [*outer, "", *inner]), (y, [*outer, *[""] * rank, *inner]))


def _in_shape(shape: Sequence[int], see: See) -> See:
    return lambda mask: see(mask.reshape(shape))


@rules.register("GatherND")
def _gather_nd(visit: Visit) -> None:
    x, indices, y = visit.at(0), visit.at(1), visit.out()
    batch, depth = int(visit.op.attribute("batch_dims", 0)), visit.shape(indices)[-1]
    rank, chosen = len(visit.shape(x)), len(visit.shape(indices)) - 1
    inner = [f"axis{k}" for k in range(batch + depth, rank)]
    outer = [f"index{k}" for k in range(chosen)]
    visit.link((x, [*outer[:batch], *[""] * depth, *inner]), (y, [*outer, *inner]), (indices, [*outer, ""]))
    for axis in range(batch, batch + depth):
        if depth > 1 or not _chosen_from(visit, x, axis):
            visit.pin(x, axis, "data", "which of it is needed depends on the data")


def _chosen_from(visit: Visit, x: Place | None, axis: int) -> bool:
    """Rows that are picked by the positions of the best are chosen from: they go with the scores, where those may."""
    best = chooser(visit.graph, visit.op.input(1))
    if best is None or picked(visit.graph, best) is None:
        return False
    _link_scores(visit, best, x, axis)
    return True


def _link_scores(visit: Visit, best: Op, x: Place | None, axis: int) -> None:
    scores = best.inputs[0]
    rank = len(visit.shape(scores))
    along = int(best.attribute("axis", -1 if best.op_type == "TopK" else 0)) % rank
    rows = ["" if other != axis else "row" for other in range(len(visit.shape(x)))]
    visit.link((x, rows), (scores, ["" if other != along else "row" for other in range(rank)]))


@rules.register("ScatterND")
def _scatter_nd(visit: Visit) -> None:
    x, indices, updates, y = visit.at(0), visit.at(1), visit.at(2), visit.out()
    depth, chosen, rank = visit.shape(indices)[-1], len(visit.shape(indices)) - 1, len(visit.shape(x))
    inner = [f"axis{k}" for k in range(depth, rank)]
    outer = [f"index{k}" for k in range(chosen)]
    visit.spread(x, y)
    visit.link((y, [*[""] * depth, *inner]), (updates, [*outer, *inner]), (indices, [*outer, ""]))
    for axis in range(depth):
        visit.pin(x, axis, "data", "where it is written depends on the data")


@rules.register("GatherElements", "ScatterElements")
def _elements(visit: Visit) -> None:
    """Along one axis each element has an index of its own; the others run along together where they are whole."""
    x, indices, y = visit.at(0), visit.at(1), visit.out()
    rank = len(visit.shape(x))
    axis = visit.axis(rank, 0)
    partial = [k for k in range(rank) if visit.shape(indices)[k] != visit.shape(x)[k] or k == axis]
    labels, chosen = named(rank, partial), [f"axis{k}" for k in range(rank)]
    if visit.op.op_type == "ScatterElements":
        visit.spread(x, y)
        visit.link((x, labels), (indices, labels), (visit.at(2), labels))
        visit.link((indices, chosen), (visit.at(2), chosen))
    else:
        visit.link((x, labels), (indices, labels))
        visit.link((indices, chosen), (y, chosen))
    for other in partial:
        visit.pin(x, other, "data", "which of it is meant depends on the data")


@rules.register("TopK", "ArgMax", "ArgMin", "Hardmax", "Trilu", "OneHot")
def _chooses(visit: Visit) -> None:
    """Along some axes elements are compared or counted; the others pass."""
    x = visit.at(0)
    rank = len(visit.shape(x))
    if visit.op.op_type == "Trilu":
        visit.spread(x, visit.out())
        axes: list[int] = [rank - 2, rank - 1]
    elif visit.op.op_type == "OneHot":
        y = visit.out()
        made = visit.axis(rank + 1, -1)
        visit.link((x, named(rank, ())), (y, [*named(made, ()), "", *[f"axis{k}" for k in range(made, rank)]]))
        visit.pin(y, made, "data", "which of it is set depends on the data")
        return
    else:
        axes = [visit.axis(rank, 0 if visit.op.op_type.startswith("Arg") else -1)]
        kept = bool(visit.op.attribute("keepdims", 1))
        labels = named(rank, axes)
        shown = labels if kept else [label for axis, label in enumerate(labels) if axis not in axes]
        visit.link((x, labels), (visit.out(), shown), (visit.out(1), shown))
    pickers = picked(visit.graph, visit.op) if visit.op.op_type in ("TopK", "ArgMax") else None
    for axis in axes:
        if pickers is None:
            visit.pin(x, axis, "data", "its indices have a meaning of their own")
    for op in pickers or ():
        data = op.inputs[0]
        place = data if visit.graph.constant(data) is None else (op, 0)
        _link_scores(visit, visit.op, place, int(op.attribute("axis", 0)) if op.op_type == "Gather" else 0)
    for axis in axes if pickers else ():
        visit.blur(x, axis, "data", "the best of it are chosen")


REDUCTIONS = "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum"
_SUMS = {"ReduceL1", "ReduceL2", "ReduceSum", "ReduceSumSquare"}


@rules.register(*REDUCTIONS.split(), "ReduceSumSquare")
def _reduce(visit: Visit) -> None:
    x = visit.at(0)
    rank = len(visit.shape(x))
    axes = visit.integers(1, "axes")
    if not axes and visit.op.attribute("noop_with_empty_axes", 0):
        visit.spread(x, visit.out())
        return
    gone = {axis % rank for axis in axes or range(rank)}
    labels = named(rank, gone)
    shown = labels if visit.op.attribute("keepdims", 1) else [label for label in labels if label]
    visit.link((x, labels), (visit.out(), shown))
    for axis in gone if visit.op.op_type not in _SUMS else ():
        visit.blur(x, axis, "reduction", "a reduction other than a sum runs over it")


@rules.register("Softmax", "LogSoftmax")
def _softmax(visit: Visit) -> None:
    x = visit.at(0)
    rank = len(visit.shape(x))
    visit.spread(x, visit.out())
    newer = visit.opset() >= 13
    first = visit.axis(rank, -1 if newer else 1)
    for axis in [first] if newer else range(first, rank):
        visit.pin(x, axis, "softmax", "a softmax runs over it")


@rules.register("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def _pool(visit: Visit) -> None:
    x = visit.at(0)
    labels = named(len(visit.shape(x)), range(2, len(visit.shape(x))))
    visit.link((x, labels), (visit.out(), labels), (visit.out(1), labels))
    for place in (x, visit.out()):
        for axis in range(2, len(labels)):
            visit.pin(place, axis, "spatial", "a window runs over it")


@rules.register("Resize", "Upsample")
def _resize(visit: Visit) -> None:
    x, y = visit.at(0), visit.out()
    changed = [k for k, (a, b) in enumerate(zip(visit.shape(x), visit.shape(y), strict=True)) if a != b]
    labels = named(len(visit.shape(x)), changed)
    visit.link((x, labels), (y, labels))
    for axis in changed:
        visit.pin(x, axis, "spatial", "it is resampled")
        visit.pin(y, axis, "spatial", "it is resampled")
