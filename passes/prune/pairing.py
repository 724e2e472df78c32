"""What makes the units of a group and what reads them, with the function between: for repairs that fit both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateur.calib.solvers.two_layers import Rows
from secateur.ir.dims.rules.pointwise import BROADCAST, ONE_OPERAND
from secateur.ir.graph import Graph
from secateur.ir.node import Op, Value
from secateur.ir.rules.known import Known
from secateur.ir.rules.weights import WeightUse, weight_use
from secateur.ir.runner import RunnerFactory
from secateur.passes.layers.evidence import Evidence
from secateur.passes.prune.units import Units

Array = NDArray[np.float64]

_POINTWISE = frozenset({*ONE_OPERAND, *BROADCAST, "BatchNormalization"}) - {"SwiGLU"}
"""Functions of elements that meet: each unit by itself."""


@dataclass(frozen=True)
class Path:
    """From the layers that make units to the one that reads them: functions of each unit by itself, which nothing else
    sees. Where there is no op between, what the one layer gives is what is read.
    """

    graph: Graph
    makers: tuple[WeightUse, ...]
    ranks: tuple[int, ...]
    reader: WeightUse

    def run(self, made: Sequence[Rows], factory: RunnerFactory) -> Rows:
        """What the makers' ops give, [n, size] each, to what is read, [n, size].

        A bias that an Add of its own gives a MatMul is part of the path.
        """
        if self.makers[0].op.output is self.reader.data:
            return made[0]
        feeds = {}
        for use, rank, rows in zip(self.makers, self.ranks, made, strict=True):
            dtype = use.tensor.dtype.numpy
            around = tuple(axis for axis in range(1, rank) if axis != use.output_axis)
            feeds[use.op.output.name] = np.expand_dims(rows.astype(dtype), around)
        with factory(self.graph, inputs=list(feeds), outputs=[self.reader.data.name]) as runner:
            found = runner.run(feeds)[self.reader.data.name]
        return found.reshape(len(made[0]), -1).astype(np.float32)


@dataclass(frozen=True)
class First:
    """A layer that makes units: `matrix` [size, columns] and `bias` [size] (None where it takes none), and its rows."""

    matrix: Array
    bias: Array | None
    evidence: Evidence


@dataclass(frozen=True)
class Pairing:
    """The layers that make units, with what they read, and the path to the one that reads the units."""

    first: tuple[First, ...]
    path: Path
    factory: RunnerFactory

    def between(self, made: Sequence[Rows]) -> Rows:
        """See `Path.run`."""
        return self.path.run(made, self.factory)


def path_of(known: Known, units: Units) -> Path | None:
    """The path, where one layer reads the units, position by position, and plain layers make all of them in order."""
    size = units.group.size
    if len(units.readers) != 1 or not _is_plain(units.readers[0].use, units.readers[0].unit, size):
        return None
    reader = units.readers[0].use
    if int(np.prod(reader.tensor.shape)) != reader.outputs * size or not _moves_nothing(reader.op):
        return None
    makers = []
    for maker in units.makers:
        use = weight_use(known, maker.occurrence.use.op)
        if use is None or use.produced != maker.occurrence.axis or not _is_plain(use, maker.unit, size):
            return None
        makers.append(use)
    ranks = [known.rank(use.op.output) for use in makers]
    ends = {use.op.output for use in makers}
    if not ends or len(ends) < len(makers) or None in ranks or not _leads(known, ends, reader):
        return None
    return Path(known.graph, tuple(makers), tuple(rank for rank in ranks if rank is not None), reader)


def _is_plain(use: WeightUse, unit: NDArray[np.int64], size: int) -> bool:
    ordered = np.array_equal(unit, np.arange(size))
    return ordered and use.groups == 1 and not use.is_transposed and use.has_samples_first


def _moves_nothing(op: Op) -> bool:
    """True for products, and for convolutions that read each position where it is."""
    still = {"strides": {1}, "pads": {0}}
    return op.attribute("auto_pad", "NOTSET") in ("NOTSET", "VALID") and all(
        set(op.attribute(name, ())) <= values for name, values in still.items()
    )


def _leads(known: Known, ends: set[Value], reader: WeightUse) -> bool:
    """True where what is read depends on what the makers give, element by element, and nothing else sees that."""
    graph, waiting = known.graph, [reader.data]
    seen: dict[Value, set[Op]] = {reader.data: {reader.op}}
    while waiting:
        value = waiting.pop()
        if value in ends:
            continue
        op = graph.producer(value)
        if op is None or "::".join(filter(None, op.key)) not in _POINTWISE:
            return False
        for one in op.inputs:
            if one is None or known.constant(one) is not None:
                continue
            if one not in seen:
                waiting.append(one)
            seen.setdefault(one, set()).add(op)
    return ends <= seen.keys() and all(
        set(graph.consumers(value)) <= ops and value not in graph.outputs for value, ops in seen.items()
    )
