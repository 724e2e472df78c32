"""Random small graphs that run: linear maps with everything between them that cuts, joins or regroups axes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from helpers.operator_net import Net

from secateur.ir import TensorType, Value

Shape: TypeAlias = tuple[int, ...]
_WIDTHS = (4, 6, 8, 9, 10, 12)
_MOST = 4
"""Axes that a value has at most."""


class RandomNet:
    """Values with their shapes; every step takes some that are there and adds one or more.

    With a name for the batch its size is not known; shapes say 0 or 1 for it, or are computed. It is then fed three.
    """

    def __init__(self, seed: int, steps: int, batch: str | None = None) -> None:
        self.net = Net(21, seed)
        self.batch = batch
        self.random = np.random.default_rng(seed)
        self.values: list[tuple[Value, Shape]] = []
        self.read: set[Value] = set()
        for _ in range(2):
            self.dense(self.keep(self.input(2, 3, 5), (2, 3, 5)))
        for _ in range(steps):
            step = _STEPS[self.random.integers(len(_STEPS))]
            step(self, self.values[self.random.integers(2, len(self.values))])
        self.finish()

    # ---- helpers ---------------------------------------------------------------------------------------------------

    def input(self, *shape: int) -> Value:
        value = self.net.input(*shape)
        if self.batch is not None:
            assert isinstance(value.type, TensorType)
            value.type = replace(value.type, shape=(self.batch, *shape[1:]))
            self.net.feeds[value.name] = self.random.normal(size=(3, *shape[1:])).astype(np.float32)
        return value

    def target(self, shape: Shape, value: Value, same: int) -> Value:
        """What a Reshape of `value` is given; `same` of its first axes stay as they are, and may be measured."""
        if self.batch is None:
            return self.net.const(shape)
        if self.random.random() < 0.5:
            return self.net.const((0, *shape[1:]))
        count = int(self.random.integers(1, same + 1))
        measured = self.net.op("Slice", self.net.op("Shape", value), self.net.const([0]), self.net.const([count]))
        return self.net.op("Concat", measured, self.net.const(shape[count:]), axis=0)

    def keep(self, value: Value, shape: Shape) -> tuple[Value, Shape]:
        self.values.append((value, shape))
        return self.values[-1]

    def op(self, kind: str, shape: Shape, *inputs: Value, **attributes: object) -> None:
        self.read.update(inputs)
        self.keep(self.net.op(kind, *inputs, **attributes), shape)

    def axis(self, shape: Shape) -> int:
        return int(self.random.integers(1, len(shape))) if len(shape) > 1 else 0

    def another(self, fits: Callable[[Shape], bool]) -> tuple[Value, Shape] | None:
        found = [one for one in self.values[2:] if fits(one[1])]
        return found[self.random.integers(len(found))] if found else None

    # ---- steps -----------------------------------------------------------------------------------------------------

    def dense(self, at: tuple[Value, Shape]) -> None:
        value, shape = at
        width = int(self.random.choice(_WIDTHS))
        self.read.add(value)
        weight = self.net.weight(shape[-1], width)
        product = self.net.op("MatMul", value, weight)
        self.keep(self.net.op("Add", product, self.net.weight(width)), (*shape[:-1], width))

    def activate(self, at: tuple[Value, Shape]) -> None:
        self.op(str(self.random.choice(["Relu", "Tanh", "Sigmoid", "Sin"])), at[1], at[0])

    def combine(self, at: tuple[Value, Shape]) -> None:
        other = self.another(lambda shape: shape == at[1])
        if other is not None:
            self.op(str(self.random.choice(["Add", "Mul", "Sub"])), at[1], at[0], other[0])

    def scale(self, at: tuple[Value, Shape]) -> None:
        shape = [size if self.random.random() < 0.5 else 1 for size in at[1]]
        if self.batch is not None:
            shape[0] = 1
        self.op("Mul", at[1], at[0], self.net.weight(*shape))

    def concat(self, at: tuple[Value, Shape]) -> None:
        axis = self.axis(at[1])
        other = self.another(lambda shape: len(shape) == len(at[1]) and _without(shape, axis) == _without(at[1], axis))
        if other is not None:
            total = at[1][axis] + other[1][axis]
            self.op("Concat", (*at[1][:axis], total, *at[1][axis + 1 :]), at[0], other[0], axis=axis)

    def split(self, at: tuple[Value, Shape]) -> None:
        axis = self.axis(at[1])
        if at[1][axis] < 2:
            return
        cut = int(self.random.integers(1, at[1][axis]))
        self.read.add(at[0])
        parts = self.net.ops("Split", 2, at[0], self.net.const([cut, at[1][axis] - cut]), axis=axis)
        for part, size in zip(parts, (cut, at[1][axis] - cut), strict=True):
            self.keep(part, (*at[1][:axis], size, *at[1][axis + 1 :]))

    def slice(self, at: tuple[Value, Shape]) -> None:
        axis = self.axis(at[1])
        size = at[1][axis]
        step = int(self.random.choice([1, 1, 2, 3]))
        start = int(self.random.integers(0, size))
        stop = int(self.random.integers(start, size)) + 1
        made = len(range(start, stop, step))
        bounds = [self.net.const([number]) for number in (start, stop, axis, step)]
        self.op("Slice", (*at[1][:axis], made, *at[1][axis + 1 :]), at[0], *bounds)

    def factor(self, at: tuple[Value, Shape]) -> None:
        axis = self.axis(at[1])
        divisors = [size for size in range(2, at[1][axis]) if at[1][axis] % size == 0]
        if divisors and len(at[1]) < _MOST:
            outer = int(self.random.choice(divisors))
            shape = (*at[1][:axis], outer, at[1][axis] // outer, *at[1][axis + 1 :])
            self.op("Reshape", shape, at[0], self.target(shape, at[0], axis))

    def merge(self, at: tuple[Value, Shape]) -> None:
        if len(at[1]) > 2:
            axis = int(self.random.integers(1, len(at[1]) - 1))
            shape = (*at[1][:axis], at[1][axis] * at[1][axis + 1], *at[1][axis + 2 :])
            target = self.target((*shape[:axis], -1, *shape[axis + 1 :]), at[0], axis)
            self.op("Reshape", shape, at[0], target)

    def transpose(self, at: tuple[Value, Shape]) -> None:
        order = [0, *(1 + self.random.permutation(len(at[1]) - 1))]
        self.op("Transpose", tuple(at[1][axis] for axis in order), at[0], perm=[int(axis) for axis in order])

    def total(self, at: tuple[Value, Shape]) -> None:
        if len(at[1]) > 2:
            axis = self.axis(at[1])
            self.op("ReduceSum", _without(at[1], axis), at[0], self.net.const([axis]), keepdims=0)

    def pick(self, at: tuple[Value, Shape]) -> None:
        axis = self.axis(at[1])
        size = at[1][axis]
        which = self.random.integers(0, size, self.random.integers(1, size + 1))
        if self.random.random() < 0.5:
            which = np.sort(np.unique(which))
        self.op("Gather", (*at[1][:axis], len(which), *at[1][axis + 1 :]), at[0], self.net.const(which), axis=axis)

    def repeat(self, at: tuple[Value, Shape]) -> None:
        axis = self.axis(at[1])
        if at[1][axis] <= max(_WIDTHS):
            counts = [2 if place == axis else 1 for place in range(len(at[1]))]
            self.op("Tile", (*at[1][:axis], 2 * at[1][axis], *at[1][axis + 1 :]), at[0], self.net.const(counts))

    def spread(self, at: tuple[Value, Shape]) -> None:
        if len(at[1]) < _MOST:
            axis = int(self.random.integers(1, len(at[1]) + 1))
            self.read.add(at[0])
            wide = self.net.op("Unsqueeze", at[0], self.net.const([axis]))
            shape = (*at[1][:axis], 2, *at[1][axis:])
            self.op("Expand", shape, wide, self.net.const(shape if self.batch is None else (1, *shape[1:])))

    def pad(self, at: tuple[Value, Shape]) -> None:
        axis = self.axis(at[1])
        pads = [0] * (2 * len(at[1]))
        pads[axis], pads[axis + len(at[1])] = 1, 2
        value = self.net.const(0.5, np.float32)
        self.op("Pad", (*at[1][:axis], at[1][axis] + 3, *at[1][axis + 1 :]), at[0], self.net.const(pads), value)

    def multiply(self, at: tuple[Value, Shape]) -> None:
        other = self.another(
            lambda shape: len(shape) == len(at[1]) > 2 and (*shape[:-2], shape[-1]) == (*at[1][:-2], at[1][-1])
        )
        if other is not None:
            order = [*range(len(at[1]) - 2), len(at[1]) - 1, len(at[1]) - 2]
            self.read.add(other[0])
            turned = self.net.op("Transpose", other[0], perm=order)
            self.op("MatMul", (*at[1][:-1], other[1][-2]), at[0], turned)

    def cumulate(self, at: tuple[Value, Shape]) -> None:
        self.op("CumSum", at[1], at[0], self.net.const(self.axis(at[1])))

    def normalise(self, at: tuple[Value, Shape]) -> None:
        self.op("LayerNormalization", at[1], at[0], self.net.weight(at[1][-1]))

    def finish(self) -> None:
        """Everything that nobody read goes through a linear map of its own, and out."""
        outputs = []
        for value, shape in self.values:
            if value not in self.read:
                flat = self.net.op("Flatten", value)
                outputs.append(self.net.dense(flat, int(np.prod(shape[1:])), 2))
        self.net.done(*outputs)


_STEPS: list[Callable[[RandomNet, tuple[Value, Shape]], None]] = [
    *(RandomNet.dense, RandomNet.dense, RandomNet.activate, RandomNet.combine, RandomNet.combine, RandomNet.scale),
    *(RandomNet.concat, RandomNet.concat, RandomNet.split, RandomNet.slice, RandomNet.factor, RandomNet.factor),
    *(RandomNet.merge, RandomNet.merge, RandomNet.transpose, RandomNet.total, RandomNet.pick, RandomNet.repeat),
    *(RandomNet.spread, RandomNet.pad, RandomNet.multiply, RandomNet.cumulate, RandomNet.normalise),
]


def _without(shape: Shape, axis: int) -> Shape:
    return (*shape[:axis], *shape[axis + 1 :])
