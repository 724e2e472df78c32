"""What a model's time is made of: its heavy ops timed by themselves at several sizes, and the rest."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.calib.capture import Part
from secateur.ir.build import add_input, emit
from secateur.ir.dims.algebra import Layout, expand, leaves, size_of
from secateur.ir.dims.analysis import Dimensions
from secateur.ir.dims.axes import Layouts, Use
from secateur.ir.graph import Graph, attributes_of
from secateur.ir.node import Op, Value
from secateur.ir.rules.cost import cost
from secateur.ir.runner import Feeds, RunnerFactory, Stopwatch
from secateur.ir.tensor import Tensor
from secateur.ir.types import TensorType
from secateur.passes.context import Context
from secateur.passes.prune.costs import Sizes, Term, free, share
from secateur.passes.prune.gates import element_type

Array: TypeAlias = NDArray[np.float64]
Shape: TypeAlias = tuple[int, ...]

LEVELS = (0.125, 0.25, 0.5, 0.75, 1.0)
"""Each axis of an op that can shrink is timed at these shares of its size, where it is one of two or fewer."""
FEW_LEVELS = (0.25, 0.5, 1.0)
"""Where there are three. Of more, time is taken to be in proportion to them all."""
PLAIN = frozenset({("", "Conv"), ("", "ConvTranspose"), ("", "Gemm"), ("", "MatMul")})
"""The ops that are timed by themselves."""
PER_ELEMENT = 16
"""So many multiply-accumulates inside of another op (a fused attention) take as long as writing an element."""
ALIGN = 8
"""Sizes that are timed are multiples of this, as those that are kept mostly are."""


@dataclass(frozen=True)
class Timed(Term):
    """An op that was timed: `times` has an axis for each of `axes`, with the milliseconds at its `levels`."""

    levels: tuple[tuple[float, ...], ...]
    times: Array

    def at(self, sizes: Sizes) -> float:
        """What it costs with these sizes: linear in between, and below the lowest."""
        found = self.times
        for axis, levels in zip(self.axes, self.levels, strict=True):
            where = share(axis, sizes)
            right = min(max(int(np.searchsorted(levels, where)), 1), len(levels) - 1)
            low, high = levels[right - 1], levels[right]
            part = (where - low) / (high - low)
            found = (1 - part) * found[right - 1] + part * found[right]
        return max(float(found), 0.0)


def latencies(found: Dimensions, context: Context) -> list[Term]:
    """What a run of the graph on the first batch of the data takes, in milliseconds, part by part.

    Convolutions and products are timed by themselves, at smaller sizes, too (each shape once), and scaled down together
    where they sum up to more than the whole, which fuses them. Their times are made to grow with sizes. What is left of
    the whole is shared out over the other ops by what they give and multiply, in proportion to what they give.

    Raises:
        BackendError: nothing was given that times a model, or runs it.
        DataError: there is no data.
    """
    clock = context.needed_stopwatch("budget=latency")
    source, factory = context.needed_source("budget=latency"), context.needed_runner("budget=latency")
    graph, known = found.known.graph, found.known
    feeds = next(batch.feeds for _, batch in Part(graph, source).walk())
    macs = cost(known).macs
    heavy = dict.fromkeys(op for op in graph.ops() if macs.get(op) and op.key in PLAIN)
    seen = _shapes(found, feeds, factory)
    whole = 1e3 * clock(graph, feeds)
    bench = _Bench(clock, seen, {})
    timed = [bench.term(found, op) for op in heavy]
    summed = sum(term.amount for term in timed)
    scale = min(1.0, whole / summed) if summed else 1.0
    terms: list[Term] = [_scaled(term, scale) for term in timed]
    others = [op for op in graph.ops() if op not in heavy]
    sizes = [
        sum(math.prod(seen.get(value, ())) for value in op.outputs if value is not None) + macs.get(op, 0) / PER_ELEMENT
        for op in others
    ]
    rest = max(whole - scale * summed, 0.0) / (sum(sizes) or 1.0)
    for op, size in zip(others, sizes, strict=True):
        made = _first(op)
        terms.append(Term(rest * size, free(found.layouts.get(made, []))))
    return terms


def _scaled(term: Term, scale: float) -> Term:
    if isinstance(term, Timed):
        return Timed(term.amount * scale, term.axes, term.levels, term.times * scale)
    return Term(term.amount * scale, term.axes)


def _shapes(found: Dimensions, feeds: Feeds, factory: RunnerFactory) -> dict[Value, Shape]:
    """The shapes of all values that are tensors in a run: only these are fetched, not the values."""
    whole = found.known.graph
    graph, names = whole.clone(), {}
    for value in whole.values():
        if found.known.constant(value) is None and isinstance(value.type, TensorType | None):
            names[value] = emit(graph, "Shape", [graph[value.name]]).output
    graph.set_interface(outputs=names.values())
    with factory(graph) as runner:
        made = runner.run(feeds)
    return {value: tuple(map(int, made[name.name])) for value, name in names.items()}


def _first(op: Op) -> Value:
    return next(value for value in op.outputs if value is not None)


@dataclass(frozen=True)
class _Bench:
    """Times ops by themselves: what it is timed by, what their inputs are in a run, and what was timed before."""

    clock: Stopwatch
    seen: Mapping[Value, Shape]
    before: dict[Hashable, Array]

    def term(self, found: Dimensions, op: Op) -> Term:
        """An op as a function of the axes of its inputs and outputs that can shrink."""
        places = [found.layouts.get(Use(op, port), found.layouts.get(value, [])) for port, value in _ports(op)]
        axes = _independent([*places, found.layouts.get(_first(op), [])])
        shapes = [self._shape(found, value) for _, value in _ports(op)]
        if len(axes) > 3:
            return Term(self._time(found, op, shapes), axes)
        steps = LEVELS if len(axes) < 3 else FEW_LEVELS
        levels = tuple(_levels(size_of(axis) or 1, steps) for axis in axes)
        constant = tuple(found.known.constant(value) is not None for _, value in _ports(op))
        scaled = tuple(tuple(tuple(_which(axis, axes)) for axis in layouts) for layouts in places)
        key = (op.key, _said(op), tuple(shapes), constant, scaled, levels)
        if key not in self.before:
            times = np.empty(tuple(map(len, levels)))
            for index in np.ndindex(times.shape):
                now = [steps[at] for steps, at in zip(levels, index, strict=True)]
                times[index] = self._time(found, op, _shrunk(shapes, scaled, now))
            for axis in range(times.ndim):
                times = np.maximum.accumulate(times, axis)
            self.before[key] = times
        times = self.before[key]
        return Timed(float(times[(-1,) * times.ndim]), axes, levels, times)

    def _shape(self, found: Dimensions, value: Value) -> Shape:
        tensor = found.known.constant(value)
        return tensor.shape if tensor is not None else self.seen[value]

    def _time(self, found: Dimensions, op: Op, shapes: Sequence[Shape]) -> float:
        """Milliseconds with inputs of these shapes."""
        graph, feeds = _alone(found, op, shapes)
        return 1e3 * self.clock(graph, feeds)


def _ports(op: Op) -> list[tuple[int, Value]]:
    return [(port, value) for port, value in enumerate(op.inputs) if value is not None]


def _independent(places: Sequence[Layouts]) -> tuple[Layout, ...]:
    """The axes that can shrink, each once; where some share factors, as with groups of channels, all factors."""
    axes = tuple({_identity(axis): axis for layouts in places for axis in free(layouts)}.values())
    inside = [leaf for axis in axes for leaf in dict.fromkeys(leaves(axis))]
    if len(set(inside)) == len(inside):
        return axes
    return tuple((leaf,) for leaf in dict.fromkeys(inside) if leaf.pin is None)


def _identity(axis: Layout) -> tuple[int, ...]:
    return tuple(map(id, expand(axis)))


def _which(axis: Layout, axes: Sequence[Layout]) -> list[int]:
    """The product of which axes this is, of those that can shrink."""
    of = {_identity(one): index for index, one in enumerate(axes)}
    if _identity(axis) in of:
        return [of[_identity(axis)]]
    return [of[id(leaf),] for leaf in expand(axis) if (id(leaf),) in of]


def _levels(size: int, steps: Sequence[float]) -> tuple[float, ...]:
    """The shares of an axis to be timed, at multiples of ALIGN where there are as many."""
    wanted = {size if step == 1 else max(1, round(size * step / ALIGN) * ALIGN or round(size * step)) for step in steps}
    found = sorted(one / size for one in wanted if one <= size)
    return tuple(found) if len(found) > 1 else (0.0, 1.0)


def _shrunk(shapes: Sequence[Shape], scaled: Sequence[Sequence[Sequence[int]]], now: Sequence[float]) -> list[Shape]:
    made = []
    for shape, axes in zip(shapes, scaled, strict=True):
        shares = [math.prod(now[index] for index in which) for which in axes] or [1.0] * len(shape)
        made.append(tuple(max(1, round(size * one)) for size, one in zip(shape, shares, strict=True)))
    return made


def _said(op: Op) -> str:
    return repr(sorted((name, repr(attribute)) for name, attribute in op.attributes.items()))


def _alone(found: Dimensions, op: Op, shapes: Sequence[Shape]) -> tuple[Graph, Feeds]:
    """A graph of one op with inputs of these shapes, constants where it has constants, and what to feed."""
    whole = found.known.graph
    graph = Graph("alone", header=whole.header)
    random = np.random.default_rng(0)
    feeds: dict[str, NDArray[Any]] = {}
    inputs: list[Value | None] = [None] * len(op.inputs)
    for (port, value), shape in zip(_ports(op), shapes, strict=True):
        tensor = found.known.constant(value)
        kind = element_type(found.known, value, [op]) if tensor is None else tensor.dtype
        if tensor is not None and tensor.shape == shape:
            inputs[port] = graph.add_constant(f"constant_{port}", tensor)
            continue
        array = random.standard_normal(shape, np.float32).astype(kind.numpy)
        if tensor is None:
            inputs[port] = add_input(graph, f"input_{port}", shape, kind)
            feeds[f"input_{port}"] = array
        else:
            inputs[port] = graph.add_constant(f"constant_{port}", Tensor(array, kind))
    output = graph.add_value(Value("output"))
    attributes = dict(op.attributes)
    if op.op_type == "Conv" and op.attribute("group", 1) > 1:
        # A group more or less does not show in the weight: there are as many as inputs hold.
        attributes |= attributes_of({"group": max(1, shapes[0][1] // shapes[1][1])})
    graph.add_op(Op(op.op_type, tuple(inputs), (output,), attributes, op.domain))
    graph.set_interface(outputs=[output])
    return graph, feeds
