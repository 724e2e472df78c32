"""Which of several scales costs a place's products the least: tried on the Gram matrices of what they read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.calib.gram import Gram
from secateur.calib.solvers.smoothing import Inputs, Migration, Reader, Rounding, best_migration
from secateur.ir.dims.analysis import Dimensions
from secateur.ir.errors import RefusedError
from secateur.ir.graph import Graph
from secateur.ir.node import Value
from secateur.passes.base import Pass
from secateur.passes.context import Context
from secateur.passes.layers.evidence import Streams, gather
from secateur.passes.layers.matrix import matrix_of
from secateur.passes.layers.stages import walk
from secateur.passes.prune.facts import dims
from secateur.passes.scale.places import Place, places_of

Array: TypeAlias = NDArray[np.float64]
Grams: TypeAlias = Mapping[Value, Gram]


def wanted_places(pass_: Pass, context: Context, *, insert: bool) -> tuple[Dimensions, list[Place]]:
    """The dimensions of the model, and the places where scales may move, for a pass that measures data.

    Raises:
        RefusedError: there is no data.
    """
    if context.source is None:
        raise RefusedError(f"{pass_} needs calibration data, but none was given", hint="give --data, or use equalize")
    found = context.facts.get(dims)
    return found, places_of(found, context, insert=insert)


def visit_places(
    graph: Graph, places: Sequence[Place], context: Context, who: str, visit: Callable[[int, Grams], None]
) -> None:
    """Hands each place, by its number, the Gram matrices of what its products read, block by block."""

    def look(which: int, streams: Streams) -> None:
        context.progress(who, which, len(places))
        uses = {side.use.data: side.use for side in places[which].products}
        gathered = gather(streams, list(uses.values()), context, 0)
        visit(which, {data: one.together() for data, one in zip(uses, gathered, strict=True)})

    walk(graph, graph, [[side.use.op for side in place.products] for place in places], context, look, is_steady=True)
    context.progress(who, len(places), len(places))


_SAMPLE = 128
"""Outputs of a product by which scales are tried, at most."""


def best_of(
    place: Place,
    grams: Grams,
    candidates: Iterable[tuple[float, Array]],
    rounding: Rounding,
    levels: float | None = None,
) -> Migration:
    """The candidate (exponent, scales [count] of columns) of the least error; scales 1 where it has not less.

    Args:
        place: whose products are tried.
        grams: of what they read.
        candidates: by number, the first of which is one.
        rounding: of weights.
        levels: codes on one side of the grid of activations; None where they are not rounded.
    """
    inputs = {data: Inputs(one.xx.astype(np.float32), one.count, one.absmax, levels) for data, one in grams.items()}
    readers = [
        Reader(matrix_of(side.use).astype(np.float32), inputs[side.use.data], side.numbers) for side in place.products
    ]
    return best_migration(readers, candidates, rounding, place.region.count, _SAMPLE)
