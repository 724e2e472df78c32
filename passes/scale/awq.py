"""The `awq` pass: weights that large inputs meet are scaled up before they are rounded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.calib.solvers.grids import nearest
from secateur.calib.solvers.smoothing import ALPHAS, awq_scales
from secateur.ir.graph import Graph
from secateur.passes.base import Pass
from secateur.passes.context import Context
from secateur.passes.facets import Effect, Facet
from secateur.passes.quantize.formats import Format, find_format
from secateur.passes.quantize.weights import grid_scales
from secateur.passes.scale.places import Place, with_number_one
from secateur.passes.scale.search import Grams, best_of, visit_places, wanted_places

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Awq(Pass):
    """Multiplies columns of weights by s before they are rounded, and divides what they read by it: the same function.

    s = mean|x|^a, over the root of its largest times its least, with the a out of 20 from 0 to 0.95 whose scales leave
    the least error of the products' outputs when their weights are rounded as `format` and `block` say (Lin et al.
    2024, "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration", section 3.2; on the Gram
    matrix of the inputs, so that no data is replayed). a = 0 is plain rounding, so that none is made worse. What makes
    the channels takes 1 / s up, as for `smooth-quant`.
    """

    name: ClassVar[str] = "awq"
    changes: ClassVar[Facet] = Facet.TOPOLOGY | Facet.WEIGHTS | Facet.SHAPE
    effect: ClassVar[Effect] = Effect.ROUNDED
    tolerance: ClassVar[float] = 1e-4
    replayable: ClassVar[bool] = False

    format: str = "int4"
    """What weights are going to be rounded to, as `quantize` calls it: int8, fp8, int4, int8-block, nvfp4, mxfp8."""
    block: int = 0
    """How many neighbours of a row share a scale in the formats that have blocks of any size; 0 is 128."""
    insert: bool = False
    """Whether a Mul goes in front of products that nothing else can take the scale up for."""

    def __post_init__(self) -> None:
        if self.block < 0:
            raise ValueError(f"block must not be negative, got {self.block}")
        self._format()

    def run(self, graph: Graph, context: Context) -> int:
        """Scales every place where that helps; returns how many."""
        found, places = wanted_places(self, context, insert=self.insert)
        scales: dict[int, Array] = {}

        def visit(which: int, grams: Grams) -> None:
            scales[which] = self._searched(places[which], grams, context)

        visit_places(graph, places, context, self.name, visit)
        done = 0
        for which, scale in sorted(scales.items()):
            if not np.all(scale == 1) and context.allow(self.name, places[which].products[0].use.op):
                done += places[which].apply(graph, context, found, scale)
        return done

    def _searched(self, place: Place, grams: Grams, context: Context) -> Array:
        """What values are multiplied by, [count] by number."""
        sizes = place.by_number({data: gram.absmean for data, gram in grams.items()})
        candidates = ((alpha, with_number_one(awq_scales(sizes[1:], alpha))) for alpha in ALPHAS[1:])
        found = best_of(place, grams, candidates, self._rounded)
        context.row(
            data=place.title,
            scales=place.region.count - 1,
            products=len(place.products),
            power=found.alpha,
            error_before=found.before,
            error_after=found.error,
            folded=place.multiplied is None,
        )
        return np.asarray(1.0 / found.scales)

    def _rounded(self, weight: NDArray[Any]) -> NDArray[Any]:
        wanted = self._format()
        block = wanted.fitting_block(weight.shape[1]) or wanted.block
        return nearest(weight, grid_scales(wanted, block, weight).scale, wanted.grid, block)

    def _format(self) -> Format:
        """What weights become.

        Raises:
            ValueError: there is no such format, or it is none.
        """
        found = find_format(self.format)
        if found is None:
            raise ValueError("format must be one that rounds, got float")
        return found.with_block(self.block)
