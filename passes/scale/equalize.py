"""The `equalize` pass: channels between layers are scaled until the weights on both sides have ranges alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.calib.solvers.equalization import ROUNDS, TOLERANCE, pair_scales
from secateur.ir.graph import Graph
from secateur.ir.node import Op
from secateur.ir.rules.weights import WeightUse
from secateur.passes.base import Pass
from secateur.passes.context import Context
from secateur.passes.facets import Effect, Facet
from secateur.passes.layers.matrix import as_matrices
from secateur.passes.prune.facts import dims
from secateur.passes.scale.places import free_regions
from secateur.passes.scale.region import Region, Side
from secateur.passes.scale.rescale import rescale

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Equalize(Pass):
    """Divides a channel's weights by s in the layers that make it and multiplies them by s in those that read it.

    s makes the largest weight on both sides the same, over and over through the network until no scale changes: pairs,
    depthwise triplets and chains of any length then have equal ranges (Nagel et al. 2019, "Data-Free Quantization
    Through Weight Equalization and Bias Correction", section 4.1). No data is needed. It works where only ops with
    f(s x) = s f(x) lie in between: ReLU and its leaky kin, pooling, moving, adding, also the weighing of values by
    attention and the gated half of feed-forward networks; not ReLU6, SiLU or GELU, and not across a normalisation
    (fold it first). Residual trunks are scaled jointly, if all that write and read them can be.
    """

    name: ClassVar[str] = "equalize"
    changes: ClassVar[Facet] = Facet.TOPOLOGY | Facet.WEIGHTS | Facet.SHAPE
    effect: ClassVar[Effect] = Effect.ROUNDED
    tolerance: ClassVar[float] = 1e-4

    rounds: int = ROUNDS
    """After so many rounds through the network, what is there is taken."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds must be 1 at least, got {self.rounds}")

    def run(self, graph: Graph, context: Context) -> int:
        """Scales every place that it may; returns how many."""
        found = context.facts.get(dims)
        given = [one for one in free_regions(found, context, lambda use: True) if isinstance(one, Region)]
        regions = [one for one in given if _between_layers(one, context)]
        regions = [one for one in regions if context.allow(self.name, one.readers[0].use.op)]
        ranges = _Ranges()
        before = [ranges.of(region) for region in regions]
        totals = self._settled(regions, ranges)
        done = 0
        for region, total, (first, second) in zip(regions, totals, before, strict=True):
            if np.all(total == 1):
                continue
            if reason := rescale(graph, found.known, region, total):
                context.note(f"{_title(region)} keeps its scale: {reason}")
                continue
            done += 1
            after = ranges.of(region)
            context.row(
                data=_title(region),
                scales=region.count - 1,
                makers=_names(region.makers),
                readers=_names(region.readers),
                spread_before=_spread(first),
                spread_after=_spread(after[0]),
                mismatch_before=_mismatch(first, second),
                mismatch_after=_mismatch(*after),
            )
        return done

    def _settled(self, regions: Sequence[Region], ranges: _Ranges) -> list[Array]:
        """What values are multiplied by, [count] for each region, when all have gone on until no scale changes."""
        totals = [np.ones(region.count) for region in regions]
        waiting = set(range(len(regions)))
        by_layer: dict[Op, list[int]] = {}
        for which, region in enumerate(regions):
            for side in (*region.makers, *region.readers):
                by_layer.setdefault(side.use.op, []).append(which)
        for _ in range(self.rounds):
            for which in sorted(waiting):
                waiting.discard(which)
                region = regions[which]
                step = 1.0 / pair_scales(*ranges.of(region))
                if float(np.abs(np.log(step)).max(initial=0.0)) < TOLERANCE:
                    continue
                totals[which] *= step
                ranges.scale(region, step)
                layers = (side.use.op for side in (*region.makers, *region.readers))
                waiting.update(other for op in layers for other in by_layer[op] if other != which)
            if not waiting:
                break
        return totals


def _between_layers(region: Region, context: Context) -> bool:
    """Whether layers alone take the scales up; a note says why not."""
    reason = None
    if not region.makers or not region.readers:
        reason = "no layer makes it"
    elif gain := next((patch for patch in region.patches if patch.is_gain), None):
        reason = f"{gain.op} has a gain of its own"
    if reason is not None and region.readers:
        context.note(f"{_title(region)} is not equalized: {reason}")
    return reason is None


@dataclass
class _Ranges:
    """The largest taps of each layer, [slabs, outputs, inputs], with the scales that it has got so far."""

    weights: dict[Op, Array] = field(default_factory=dict)

    def of(self, region: Region) -> tuple[Array, Array]:
        """[count] the largest weights that make, and that read, channels of each scale; zero for what stays one."""
        made, read = np.zeros(region.count), np.zeros(region.count)
        for side in region.makers:
            np.maximum.at(made, side.numbers, self._of(side.use).max(axis=2).reshape(-1))
        for side in region.readers:
            np.maximum.at(read, side.numbers, self._of(side.use).max(axis=1).reshape(-1))
        made[0] = read[0] = 0.0
        return made, read

    def scale(self, region: Region, step: Array) -> None:
        """Multiplies what makes a channel, and divides what reads it."""
        for side in region.makers:
            weight = self._of(side.use)
            weight *= step[side.numbers].reshape(*weight.shape[:2], 1)
        for side in region.readers:
            weight = self._of(side.use)
            weight /= step[side.numbers].reshape(weight.shape[0], 1, -1)

    def _of(self, use: WeightUse) -> Array:
        if use.op not in self.weights:
            matrices: NDArray[Any] = np.abs(as_matrices(use, use.tensor.numpy()).astype(np.float64))
            inputs = use.inputs // use.groups
            self.weights[use.op] = matrices.reshape(*matrices.shape[:2], inputs, -1).max(axis=3)
        return self.weights[use.op]


def _title(region: Region) -> str:
    return ", ".join(dict.fromkeys(side.use.data.name for side in region.readers))


def _names(sides: Sequence[Side]) -> str:
    return ", ".join(dict.fromkeys(side.use.weight.name for side in sides))


def _spread(ranges: Array) -> float:
    """The largest range over the smallest, of channels that have one."""
    alive = ranges[ranges > 0]
    return float(alive.max() / alive.min()) if alive.size else 1.0


def _mismatch(first: Array, second: Array) -> float:
    """The largest factor between the ranges on both sides of a channel."""
    alive = (first > 0) & (second > 0)
    return float(np.exp(np.abs(np.log(first[alive] / second[alive])).max(initial=0.0)))
