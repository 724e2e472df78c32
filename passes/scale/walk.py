"""Finding regions: a walk from a layer's data over all that has to be scaled along, by what each op says of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np

from secateur.ir.dims.algebra import Dim, leaves, size_of
from secateur.ir.dims.analysis import Dimensions
from secateur.ir.dims.axes import Use
from secateur.ir.dims.carrying import NO_SCALE, Carrying, Numbers, Stuck, carrying_rules
from secateur.ir.node import Op, Value
from secateur.ir.rules.norms import norm_rules
from secateur.ir.rules.weights import WeightUse, strangers, weight_uses_of
from secateur.passes.scale.numbers import Scales
from secateur.passes.scale.region import Patch, Region, Side

_LAYERS = frozenset({("", "Conv"), ("", "ConvTranspose"), ("", "Gemm"), ("", "MatMul")})
_MEASURES = frozenset({("", "Shape"), ("", "Size")})
_LARGE = 1 << 14
"""Constants of more numbers than this are not copied for a scale."""
_FEW = 8
"""An axis of no more indices than this is short: what is packed along it may be told apart."""
_TRIES = 8
"""How many ways to go at products of two tensors, each of which could take the scale, are tried."""

Choices: TypeAlias = Mapping[Op, int]


def region_of(found: Dimensions, start: WeightUse) -> Region:
    """The region in which the data of a layer lies; one without free scales where something holds all of them.

    Where two tensors are multiplied either could take the scale; a way that leaves scales free is looked for.
    """
    best: Region | None = None
    waiting: deque[dict[Op, int]] = deque([{}])
    for _ in range(_TRIES):
        if not waiting:
            break
        choices = waiting.popleft()
        walk = _Walk(found, choices)
        region = walk.run(start)
        if best is None or region.count > best.count:
            best = region
        if region.reason is None:
            return region
        before: dict[Op, int] = dict(choices)
        for op, port in walk.open.items():
            waiting.append({**before, op: 1 - port})
            before[op] = port
    assert best is not None
    return best


@dataclass
class _Walk:
    """One walk from a layer's data to all that reads it, all that makes it, and on from there."""

    found: Dimensions
    choices: Choices
    scales: Scales = field(default_factory=Scales)
    numbers: dict[Value, Numbers] = field(default_factory=dict)
    spread: set[Dim] = field(default_factory=set)
    open: dict[Op, int] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    held: dict[Value, str] = field(default_factory=dict)
    layers: dict[Op, WeightUse] = field(default_factory=dict)
    absorbers: list[tuple[Op, int, Value | None, Value | None]] = field(default_factory=list)
    patches: list[tuple[Op, int, Numbers]] = field(default_factory=list)
    waiting: deque[tuple[Op, Value]] = field(default_factory=deque)
    done: set[Op] = field(default_factory=set)

    def run(self, start: WeightUse) -> Region:
        layouts = self.found.layouts.get(start.data)
        rank = None if layouts is None else len(layouts)
        if layouts is None or not rank or start.inputs < 2:
            return _none({}, "nothing is known of its axes")
        self.spread.update(leaves(layouts[start.data_axis % rank]))
        shape = [1] * rank
        shape[start.data_axis % rank] = start.inputs
        seed = self.numbers[start.data] = self.scales.fresh(tuple(shape))
        self._enter(start.data)
        checked = 0
        while self.waiting:
            op, value = self.waiting.popleft()
            if op not in self.done:
                self.done.add(op)
                try:
                    self._pass(op, value)
                except Stuck as reason:
                    self._stop(op, f"{op}: {reason}")
            if len(self.reasons) > checked:
                checked = len(self.reasons)
                if not self.scales.classes()[seed].any():
                    return _none(self.numbers, self.reasons[-1])
        for held, why in self.held.items():
            if held in self.numbers:
                self._fix(held, why)
        return self._region(start)

    # ---- values ----------------------------------------------------------------------------------------------------

    def _scaled(self, value: Value) -> Numbers:
        """The numbers of a value, which is in the region from now on."""
        if value not in self.numbers:
            layouts = self.found.layouts.get(value)
            if layouts is None:
                raise Stuck(f"nothing is known of the axes of {value.name}")
            self.numbers[value] = self.scales.fresh(self._shape(layouts, value))
            self._enter(value)
        return self.numbers[value]

    def _shape(self, layouts: Sequence[tuple[Dim, ...]], value: Value) -> tuple[int, ...]:
        """Axes that have something of what the scales spread over; others have size one."""
        shape = []
        for axis, layout in enumerate(layouts):
            mine = set(leaves(layout))
            size = self.found.known.size(value, axis) if mine & self.spread else None
            shape.append(size or 1)
            if size is not None:
                self.spread |= mine
        return tuple(shape)

    def _enter(self, value: Value) -> None:
        """All that makes and reads a value comes next."""
        graph = self.found.known.graph
        if value in graph.outputs:
            self._fix(value, f"{value.name} is an output of the model")
        maker = graph.producer(value)
        if maker is None:
            self._fix(value, f"{value.name} is an input of the model")
        else:
            self.waiting.append((maker, value))
        for op in graph.consumers(value):
            if value not in op.inputs:
                self._fix(value, f"{value.name} is read inside a body of {op}")
            else:
                self.waiting.append((op, value))

    def _fix(self, value: Value, why: str) -> None:
        self.scales.stay_one(self.numbers[value])
        self.reasons.append(why)

    def _hold(self, value: Value | None, why: str) -> None:
        """A value that must not be scaled, whether it is in the region yet or comes into it later."""
        if value is None:
            return
        self.held.setdefault(value, why)
        if value in self.numbers:
            self._fix(value, why)

    def _stop(self, op: Op, why: str) -> None:
        for value in (*op.inputs, *op.outputs):
            if value is not None and self.found.known.constant(value) is None:
                self._hold(value, why)

    # ---- ops -------------------------------------------------------------------------------------------------------

    def _pass(self, op: Op, value: Value) -> None:
        """What an op says of the scales of all that it reads and makes; it was reached from `value`."""
        uses = list(weight_uses_of(self.found.known, op)) if op.key in _LAYERS else []
        rule = carrying_rules.get(op)
        if uses:
            self._layer(op, uses[0])
        elif (norm := norm_rules.get(op)) is not None:
            if value in op.inputs and not norm.statistics:
                raise Stuck("normalises, so that a scale of single channels changes all others")
            self._norm(op)
        elif op.key in {("", "Mul"), ("", "Div")}:
            self._product(op, value)
        elif op.key == ("", "MatMul"):
            self._mix(op, value)
        elif rule is not None:
            self._carry(op, rule)
        elif op.key not in _MEASURES or value in op.outputs:
            raise Stuck("f(s x) is not s f(x)")

    def _layer(self, op: Op, use: WeightUse) -> None:
        graph = self.found.known.graph
        if not use.tensor.dtype.is_float or use.batch or len(use.rows) > 1 or use.targets != "output":
            raise Stuck("its weight is not one plain matrix or kernel of floating-point numbers")
        if strangers(graph, use.weight, [use]):
            raise Stuck("its weight is read elsewhere, too")
        if op.inputs.count(use.data) > 1:
            raise Stuck("it reads its data twice")
        if use.bias is not None:
            tensor = graph.constant(use.bias)
            self._hold(use.bias, f"{op} takes it as its bias")
            if tensor is None or tensor.size not in (1, use.outputs):
                self._hold(op.output, f"the bias of {op} is not one constant for each channel")
        self.layers[op] = use

    def _norm(self, op: Op) -> None:
        rule, graph = norm_rules.get(op), self.found.known.graph
        assert rule is not None
        parameters = [rule.scale, *([rule.bias] if op.input(rule.bias or 0) and rule.bias else [])]
        for port in (*parameters, *rule.statistics):
            if graph.constant(op.input(port)) is None:
                raise Stuck("its parameters are computed")
        if rule.statistics and op.attribute("training_mode", 0):
            raise Stuck("it normalises with the statistics of each batch")
        data = op.inputs[0] if rule.statistics else None
        for one in (*op.inputs, *op.outputs[1:]):
            if one is not None and one is not data and graph.constant(one) is None:
                self._hold(one, f"{op} normalises it, or hands it on as it is")
        for port in parameters:
            self.absorbers.append((op, port, op.output, data if port == rule.scale else None))
        for port in rule.statistics[:1]:
            self.absorbers.append((op, port, data, None))

    def _product(self, op: Op, value: Value) -> None:
        """Mul and Div: a constant takes the scale, or else one of two tensors does."""
        graph = self.found.known.graph
        known = [graph.constant(one) for one in op.inputs]
        if all(one is None for one in known):
            port = self._chosen(op, value) if op.op_type == "Mul" else 0
            self._hold(op.inputs[1 - port], f"{op} multiplies by it what is scaled already")
            self._pointwise(op, (port,))
            return
        port = 0 if known[0] is not None else 1
        if op.op_type == "Div" and port == 0:
            raise Stuck("f(s x) is not s f(x)")
        tensor, data = known[port], op.inputs[1 - port]
        assert tensor is not None
        numbers = self.numbers[value]
        rank = max(numbers.ndim, len(tensor.shape))
        mine = (1,) * (rank - len(tensor.shape)) + tensor.shape
        theirs = (1,) * (rank - numbers.ndim) + numbers.shape
        if all(one > 1 or other == 1 for one, other in zip(mine, theirs, strict=True)):
            pair = (op.output, data) if op.op_type == "Mul" else (data, op.output)
            self.absorbers.append((op, port, *pair))
        else:
            self._pointwise(op, (1 - port,))

    def _chosen(self, op: Op, value: Value) -> int:
        """Which input takes the scale: the one that it came from, or one that is chosen."""
        if value in op.inputs:
            return op.inputs.index(value)
        if op not in self.choices:
            self.open.setdefault(op, 0)
        return self.choices.get(op, 0)

    def _mix(self, op: Op, value: Value) -> None:
        """The product of two tensors, as of probabilities and values: columns of the right, or rows of the left."""
        numbers = self.numbers[value]
        if value in op.inputs:
            port = op.inputs.index(value)
        elif numbers.ndim < 2 or (numbers.shape[-1] > 1 and numbers.shape[-2] > 1):
            raise Stuck("rows and columns of a product have scales")
        else:
            port = int(numbers.shape[-2] == 1)
        carried = op.inputs[port]
        assert carried is not None
        self._hold(op.inputs[1 - port], f"{op} multiplies by it what is scaled already")
        given = self._scaled(carried)
        if given.ndim < 2 or given.shape[-1 - port] > 1:
            raise Stuck("it sums over what is scaled")
        self.scales.equal(self._scaled(op.output), given)

    def _carry(self, op: Op, rule: Carrying) -> None:
        for port in set(range(len(op.inputs))) - set(rule.inputs(op)):
            self._hold(op.inputs[port], f"{op} reads it as something else than data")
        if rule.move is None:
            self._pointwise(op, rule.inputs(op))
            return
        self._cut(op, rule)
        given = []
        for port in rule.inputs(op):
            value = op.inputs[port]
            if value is not None:
                given.append(self._constant(op, port) if self._is_constant(value) else self._scaled(value))
        moved = rule.move(self.found, op, given)
        for made, numbers in zip(op.outputs, moved, strict=False):
            if made is not None:
                self.scales.equal(self._scaled(made), numbers)
        for made in op.outputs[len(moved) :]:
            self._hold(made, f"{op} says something else by it")

    def _cut(self, op: Op, rule: Carrying) -> None:
        """Parts of a short axis, as the queries, keys and values that lie there, may have scales of their own."""
        layouts = None if rule.cuts is None else self.found.layouts.get(op.inputs[0])  # type: ignore[arg-type]
        for axis in [] if rule.cuts is None or layouts is None else rule.cuts(self.found, op):
            layout = layouts[axis % len(layouts)] if layouts else ()
            if (size_of(layout) or _FEW + 1) <= _FEW:
                self.spread.update(leaves(layout))

    def _pointwise(self, op: Op, ports: Sequence[int]) -> None:
        made = self._scaled(op.output)
        for other in op.outputs[1:]:
            self._hold(other, f"{op} says something else by it")
        for port in ports:
            value = op.input(port)
            if value is not None and self._is_constant(value):
                self.patches.append((op, port, self._patched(op, port, made)))
            elif value is not None:
                self.scales.equal(made, self._scaled(value))

    def _is_constant(self, value: Value) -> bool:
        return self.found.known.constant(value) is not None

    def _constant(self, op: Op, port: int) -> Numbers:
        """The numbers of a constant that is moved about, as a table of embeddings is."""
        value, layouts = op.inputs[port], self.found.layouts.get(Use(op, port))
        assert value is not None
        if layouts is None:
            raise Stuck(f"nothing is known of the axes of {value.name}")
        numbers = self.scales.fresh(self._shape(layouts, value))
        self.patches.append((op, port, self._patched(op, port, numbers)))
        return numbers

    def _patched(self, op: Op, port: int, numbers: Numbers) -> Numbers:
        """Checks that a constant may be scaled so."""
        value = op.inputs[port]
        assert value is not None
        tensor = self.found.known.constant(value)
        assert tensor is not None
        alone = len(self.found.known.graph.uses(value)) == 1
        if tensor.size > _LARGE and not alone:
            raise Stuck(f"{value.name} is read elsewhere, too")
        if int(np.prod(np.broadcast_shapes(tensor.shape, numbers.shape))) > max(tensor.size, _LARGE):
            raise Stuck(f"{value.name} would become much larger")
        return numbers

    # ---- the result ------------------------------------------------------------------------------------------------

    def _region(self, start: WeightUse) -> Region:
        makers, readers = [], []
        for op, use in self.layers.items():
            if use.data in self.numbers:
                readers.append(self._side(use, use.data, use.data_axis))
            if op.output in self.numbers:
                makers.append(self._side(use, op.output, use.output_axis))
        patches = [Patch(op, port, self._aligned(op, port, numbers)) for op, port, numbers in self.patches]
        for op, port, times, over in self.absorbers:
            pair = [
                self._aligned(op, port, self.numbers[one]) if one in self.numbers else None for one in (times, over)
            ]
            if any(one is not None for one in pair):
                patches.append(Patch(op, port, pair[0], pair[1], is_gain=True))
        return self._numbered(Region(self.numbers, makers, readers, patches, 0, None))

    def _side(self, use: WeightUse, value: Value, axis: int) -> Side:
        """The scales of one side of a layer; where they differ along other axes, they stay one."""
        numbers, channels = self.numbers[value], use.inputs if value is use.data else use.outputs
        lengthwise = np.moveaxis(numbers, axis % numbers.ndim, -1)
        if lengthwise.size != lengthwise.shape[-1]:
            self.scales.equal(lengthwise, lengthwise.reshape(-1, lengthwise.shape[-1])[:1])
        flat = lengthwise.reshape(-1, lengthwise.shape[-1])[0]
        return Side(use, np.broadcast_to(flat, (channels,)))

    def _aligned(self, op: Op, port: int, numbers: Numbers) -> Numbers:
        """Numbers as they broadcast over a parameter."""
        rule = norm_rules.get(op)
        if rule is None or not rule.by_channel:
            return numbers
        lengthwise = np.moveaxis(numbers, 1, -1).reshape(-1, numbers.shape[1])
        self.scales.equal(lengthwise, lengthwise[:1])
        value = op.inputs[port]
        assert value is not None
        tensor = self.found.known.constant(value)
        if tensor is None or tensor.size not in (1, len(lengthwise[0])):
            self.scales.stay_one(numbers)
            self.reasons.append(f"{op} has a gain for groups of channels")
            return numbers.reshape(-1)[:1]
        return np.asarray(lengthwise[0])

    def _numbered(self, region: Region) -> Region:
        """The region with its scales numbered 1, 2, ... as they come."""
        classes = self.scales.classes()
        used = np.concatenate([classes[one.reshape(-1)] for one in region.values.values()])
        order = used[np.sort(np.unique(used, return_index=True)[1])]
        order = order[order != NO_SCALE]
        final = np.zeros(int(classes.max()) + 1, np.int64)
        final[order] = np.arange(1, len(order) + 1)
        whole = final[classes]

        def of(numbers: Numbers | None) -> Numbers | None:
            return None if numbers is None else np.asarray(whole[numbers])

        return Region(
            {value: whole[numbers] for value, numbers in region.values.items()},
            [replace(side, numbers=whole[side.numbers]) for side in region.makers],
            [replace(side, numbers=whole[side.numbers]) for side in region.readers],
            [replace(one, times=of(one.times), over=of(one.over)) for one in region.patches],
            len(order) + 1,
            self.reasons[0] if (used == NO_SCALE).any() and self.reasons else None,
        )


def _none(values: Collection[Value], reason: str) -> Region:
    return Region({value: np.zeros(1, np.int64) for value in values}, [], [], [], 1, reason)
