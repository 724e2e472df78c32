"""The `smooth-quant` pass: outliers move from activations into weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.calib.capture import CaptureOptions, capture
from secateur.calib.ranges import Range
from secateur.calib.solvers.grids import INT8, nearest, scales_by_range
from secateur.calib.solvers.smoothing import ALPHAS, column_ranges, smooth_scales
from secateur.ir.graph import Graph
from secateur.passes.base import Pass
from secateur.passes.context import Context
from secateur.passes.facets import Effect, Facet
from secateur.passes.layers.matrix import matrix_of
from secateur.passes.scale.places import Place, with_number_one
from secateur.passes.scale.search import Grams, best_of, visit_places, wanted_places

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class SmoothQuant(Pass):
    """Divides channels of what matrix products read by s, and multiplies the weights' columns by it: the same function.

    s = max|x|^alpha / max|w|^(1 - alpha), channel by channel, over the calibration data and over all products that read
    the channel (Xiao et al. 2023, "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language
    Models", section 4). What makes the channel takes 1 / s up: the gain and bias of a normalisation, in one op or in
    several, the rows of a layer before (values before the output projection, `up` before `down`), added and multiplied
    constants. Heads that share values share their scales. Where something else reads the channels, they keep their
    scale, and the report says why.
    """

    name: ClassVar[str] = "smooth-quant"
    changes: ClassVar[Facet] = Facet.TOPOLOGY | Facet.WEIGHTS | Facet.SHAPE
    effect: ClassVar[Effect] = Effect.ROUNDED
    tolerance: ClassVar[float] = 1e-4
    replayable: ClassVar[bool] = False

    alpha: float | None = 0.5
    """How much of the difficulty moves to the weights: 0 flattens the ranges of their columns, 1 those of the data;
    none looks for what costs the products least in INT8, place by place, and leaves alone what gains nothing."""
    insert: bool = False
    """Whether a Mul goes in front of products that nothing else can take the scale up for."""

    def __post_init__(self) -> None:
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be within 0..1, got {self.alpha}")

    def run(self, graph: Graph, context: Context) -> int:
        """Scales every place that it may; returns how many."""
        found, places = wanted_places(self, context, insert=self.insert)
        moves = self._searched(graph, places, context) if self.alpha is None else self._given(graph, places, context)
        done = 0
        for place, move in zip(places, moves, strict=True):
            scale = 1.0 / move.scale
            if np.all(scale == 1) or not context.allow(self.name, place.products[0].use.op):
                continue
            done += place.apply(graph, context, found, scale)
            context.row(
                data=place.title,
                scales=place.region.count - 1,
                products=len(place.products),
                alpha=move.alpha,
                spread_before=_spread(move.inputs[1:]),
                spread_after=_spread((move.inputs * scale)[1:]),
                folded=place.multiplied is None,
            )
        return done

    def _given(self, graph: Graph, places: Sequence[Place], context: Context) -> list[_Move]:
        assert self.alpha is not None
        axes = {side.use.data: side.use.data_axis for place in places for side in place.products}
        watchers = {value: Range(axis) for value, axis in axes.items()}
        watched = {value.name: [one] for value, one in watchers.items()}
        if watched:
            runner, source = context.needed_runner(self.name), context.needed_source(self.name)
            capture(graph, source, runner, watched, CaptureOptions(progress=context.progress))
        moves = []
        for place in places:
            inputs = place.by_number({value: one.absmax for value, one in watchers.items()})
            scale = smooth_scales(inputs[1:], _weight_ranges(place)[1:], self.alpha)
            moves.append(_Move(self.alpha, with_number_one(scale), inputs))
        return moves

    def _searched(self, graph: Graph, places: Sequence[Place], context: Context) -> list[_Move]:
        moves: dict[int, _Move] = {}

        def visit(which: int, grams: Grams) -> None:
            place = places[which]
            inputs = place.by_number({data: gram.absmax for data, gram in grams.items()})
            weights = _weight_ranges(place)
            pairs = ((alpha, with_number_one(smooth_scales(inputs[1:], weights[1:], alpha))) for alpha in ALPHAS)
            best = best_of(place, grams, pairs, _rounded, INT8.largest)
            moves[which] = _Move(best.alpha, best.scales, inputs)

        visit_places(graph, places, context, self.name, visit)
        return [moves[which] for which in range(len(places))]


@dataclass(frozen=True)
class _Move:
    """The exponent, the scales [count] that columns are multiplied by, and the ranges [count] of inputs."""

    alpha: float
    scale: Array
    inputs: Array


def _rounded(weight: NDArray[Any]) -> NDArray[Any]:
    return nearest(weight, scales_by_range(weight, INT8), INT8)


def _weight_ranges(place: Place) -> Array:
    """[count] the largest weight that reads a channel, over all channels of one scale."""
    found = np.zeros(place.region.count)
    for side in place.products:
        np.maximum.at(found, side.numbers, column_ranges(matrix_of(side.use)))
    return found


def _spread(ranges: Array) -> float:
    """The largest range over the median one: how far outliers stand out."""
    median = float(np.median(ranges)) if ranges.size else 0.0
    return float(ranges.max() / median) if median > 0 else 1.0
