"""Which of several scales costs a place's products the least: tried on the Gram matrices of what they read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.calib.gram import Gram
from secateur.calib.solvers.smoothing import Inputs, Rounding, migration_error
from secateur.ir.graph import Graph
from secateur.ir.node import Value
from secateur.passes.context import Context
from secateur.passes.layers.evidence import Streams, gather
from secateur.passes.layers.matrix import matrix_of
from secateur.passes.layers.stages import walk
from secateur.passes.scale.places import Place
from secateur.passes.scale.region import Side

Array: TypeAlias = NDArray[np.float64]
Grams: TypeAlias = Mapping[Value, Gram]


def visit_places(
    graph: Graph, places: Sequence[Place], context: Context, who: str, visit: Callable[[int, Grams], None]
) -> None:
    """Hands each place, by its number, the Gram matrices of what its products read, block by block."""

    def look(which: int, streams: Streams) -> None:
        context.progress(who, which, len(places))
        uses = {side.use.data: side.use for side in places[which].products}
        gathered = gather(streams, list(uses.values()), context, 0)
        visit(which, {data: one.together() for data, one in zip(uses, gathered, strict=True)})

    walk(graph, graph, [[side.use.op for side in place.products] for place in places], context, look)
    context.progress(who, len(places), len(places))


_SAMPLE = 128
"""Outputs of a product by which scales are tried, at most."""


@dataclass(frozen=True)
class Search:
    """How well products do with their columns scaled.

    Attributes:
        rounding: of weights.
        levels: codes on one side of the grid of activations; None where they are not rounded.
    """

    rounding: Rounding
    levels: float | None = None

    def best(self, place: Place, grams: Grams, candidates: Iterable[tuple[float, Array]]) -> Found:
        """The candidate (exponent, scales [count] of columns) of the least error; scales 1 where it has not less.

        Wide products are tried by a sample of their outputs; what is chosen is held against scales 1 by all of them.
        """
        inputs = {
            data: Inputs(one.xx.astype(np.float32), one.count, one.absmax, self.levels) for data, one in grams.items()
        }
        whole = [_Part(side, matrix_of(side.use).astype(np.float32), inputs[side.use.data]) for side in place.products]
        some = [replace(part, weight=part.weight[:: -(-len(part.weight) // _SAMPLE)]) for part in whole]
        ones = np.ones(place.region.count)
        found = Found(0.0, ones, *[self._error(some, ones)] * 2)
        for alpha, scale in candidates:
            if (error := self._error(some, scale)) < found.error:
                found = Found(alpha, scale, error, found.before)
        energy = sum(float(np.einsum("rc,rc->", part.weight @ part.inputs.gram, part.weight)) for part in whole) or 1.0
        before = self._error(whole, ones) / energy
        after = before if found.scale is ones else self._error(whole, found.scale) / energy
        return Found(found.alpha, found.scale, after, before) if after < before else Found(0.0, ones, before, before)

    def _error(self, parts: Sequence[_Part], scale: Array) -> float:
        return sum(
            migration_error(part.inputs, [part.weight], scale[part.side.numbers], self.rounding) for part in parts
        )


@dataclass(frozen=True)
class _Part:
    """A product, some or all of its weight's rows, and what is known of its inputs."""

    side: Side
    weight: NDArray[np.float32]
    inputs: Inputs


@dataclass(frozen=True)
class Found:
    """The scales [count] of columns, their exponent, and the errors with them and without, over the outputs' energy."""

    alpha: float
    scale: Array
    error: float
    before: float
