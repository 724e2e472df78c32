"""The `factorize` pass: layers through fewer numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.ir.graph import Graph
from secateur.ir.rules.weights import WeightUse, weight_uses
from secateur.passes.base import Pass
from secateur.passes.cleanup.shapes import known as known_fact
from secateur.passes.context import Context
from secateur.passes.facets import Effect, Facet
from secateur.passes.factorize.layouts import LAYOUTS
from secateur.passes.factorize.relu_aware import relu_aware
from secateur.passes.factorize.rewrite import Factors, split_layer
from secateur.passes.layers.evidence import Evidence, Streams, gather
from secateur.passes.layers.matrix import clip_of, write_layer
from secateur.passes.layers.stages import walk
from secateur.passes.prune.allocation import ALLOCATIONS, BY_HARM, BY_LOSS, Candidate
from secateur.passes.prune.repair import ROWS

_Visit: TypeAlias = Callable[[int, Evidence | None], None]


@dataclass(frozen=True)
class Factorize(Pass):
    """Splits layers in two with fewer numbers between them: a convolution and a 1x1 one, a product and another.

    With data: the principal directions of what a layer should give (`secateur.calib.solvers.low_rank`), fitted from
    the model as it is factorized so far to the outputs of the dense one. Without: singular vectors of the weights.
    The error of a layer is 1 - R² on held-out samples; `even` is the rank at which two ops cost what one did.
    Layers where the two would cost more than `worthwhile` of the one stay whole: two kernels must earn their launch.

    With `fit=relu-aware` the second of the two is fitted to what comes out of a Relu behind the layer, where there is
    one (Zhang et al. 2016, "Accelerating Very Deep Convolutional Networks for Classification and Detection", section
    3.2). Spatial cuts so fitted, channel cuts of what they leave, and pruned channels, one after the other, are the 3C
    of He et al. (2017): `factorize{layout=spatial, fit=relu-aware},factorize{fit=relu-aware},prune{dims=channels}`.
    """

    name: ClassVar[str] = "factorize"
    changes: ClassVar[Facet] = Facet.TOPOLOGY | Facet.WEIGHTS | Facet.SHAPE | Facet.ATTRIBUTES
    effect: ClassVar[Effect] = Effect.LOSSY
    replayable: ClassVar[bool] = False

    ratio: float = 0.5
    """The share of multiply-accumulates that goes, of each layer (uniform) or of all of them (global), in [0, 1)."""
    layout: Literal["channel", "spatial"] = "channel"
    """Channel: the kernel onto fewer channels, then 1x1. Spatial: a column of the kernel, then a row."""
    fit: Literal["linear", "relu-aware"] = "linear"
    """What the second op is fitted to with data: what the layer gives, or what a Relu behind it lets through."""
    allocation: str = "uniform"
    """How ranks are shared out: uniform, incremental, or global by energy left out for what is saved."""
    worthwhile: float = 0.8
    """A layer stays whole where two would cost more than this share of it."""
    align: int = 8
    """Ranks are multiples of this."""
    damping: float = 0.01
    """Pull of the fit towards the old weights, relative to the mean square of the inputs."""
    positions: int = 64
    """Output positions sampled of each image, more where images are few (`reads.ROWS`); 0 takes all."""

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1 or not 0 < self.worthwhile <= 1:
            raise ValueError(f"ratio must be in [0, 1) and worthwhile in (0, 1], got {self.ratio}, {self.worthwhile}")
        if self.align < 1 or self.positions < 0 or self.damping < 0:
            raise ValueError("align must be at least 1; damping and positions must not be negative")
        ALLOCATIONS.check(self.allocation)
        if self.allocation in BY_HARM:
            raise ValueError(f"allocation={self.allocation} tries what is removed; ranks are not: take another")

    def run(self, graph: Graph, context: Context) -> int:
        """Fits layer by layer, then splits them all; returns how many."""
        uses = [use for use in weight_uses(context.facts.get(known_fact)) if self._may(use, graph, context)]
        dense = graph.clone() if context.source is not None else graph
        if context.source is None:
            context.note("no calibration data: singular vectors of the weights, and nothing is fitted")
        ranks = self._ranks(graph, uses, context)
        split: dict[int, Factors] = {}

        def fit(which: int, evidence: Evidence | None) -> None:
            context.progress("factorize", which, len(uses))
            if ranks[which] and context.allow("factorize", uses[which].op):
                split[which] = self._fit(graph, uses[which], ranks[which], evidence, context)

        self._visit(graph, dense, uses, context, fit)
        context.progress("factorize", len(uses), len(uses))
        for which, factors in sorted(split.items()):
            split_layer(graph, uses[which], factors)
        context.manifest.exact &= not split
        return len(split)

    def _may(self, use: WeightUse, graph: Graph, context: Context) -> bool:
        reason = None
        if not use.is_plain:
            reason = f"{use.op} reads it stacked, or behind other ops"
        elif not use.tensor.dtype.is_float:
            reason = f"{use.op} reads it as {use.tensor.dtype.short}"
        elif use.groups > 1 or use.is_transposed or not use.has_samples_first:
            reason = f"{use.op} is grouped, transposed, or has its channels first"
        elif graph.consumers(use.weight) != [use.op]:
            reason = "something else reads it, too"
        else:
            reason = LAYOUTS[self.layout].refusal(use)
        if reason:
            context.note(f"{use.weight.name} stays whole: {reason}")
        return reason is None

    def _ranks(self, graph: Graph, uses: Sequence[WeightUse], context: Context) -> list[int]:
        """The rank of each layer; 0 where it stays whole."""
        energies: dict[int, NDArray[np.float64]] = {}
        if self.allocation in BY_LOSS:

            def score(which: int, evidence: Evidence | None) -> None:
                context.progress("score", which, len(uses))
                energies[which] = LAYOUTS[self.layout].energy(uses[which], evidence, self.damping)

            self._visit(graph, graph, uses, context, score)
        candidates = [self._candidate(use, energies.get(which)) for which, use in enumerate(uses)]
        wanted = ALLOCATIONS[self.allocation](candidates, self.ratio)
        ranks = []
        for use, candidate, rank in zip(uses, candidates, wanted, strict=True):
            whole = rank / candidate.size > self.worthwhile
            if whole:
                context.note(f"{use.weight.name} stays whole: rank {rank} of {candidate.size} that break even")
            ranks.append(0 if whole else rank)
        return ranks

    def _visit(self, graph: Graph, dense: Graph, uses: Sequence[WeightUse], context: Context, visit: _Visit) -> None:
        if context.source is None:
            for which in range(len(uses)):
                visit(which, None)
            return

        def look(which: int, streams: Streams) -> None:
            rows = ROWS if self.fit == "relu-aware" else 0
            visit(which, gather(streams, [uses[which]], context, self.positions, rows)[0])

        walk(graph, dense, [[use.op] for use in uses], context, look, is_steady=True)

    def _fit(self, graph: Graph, use: WeightUse, rank: int, evidence: Evidence | None, context: Context) -> Factors:
        """The factors of one layer, whose weight becomes their product until it is split."""
        layout = LAYOUTS[self.layout]
        factors = layout.factors(use, rank, evidence, self.damping)
        columns: dict[str, object] = {"weight": use.weight.name, "even": self._candidate(use).size, "rank": rank}
        if evidence is not None and self.fit == "relu-aware":
            clip = clip_of(graph, use)
            better = (
                None if clip is None else relu_aware(factors, layout.between(factors), clip, evidence, self.damping)
            )
            columns["behind_relu"] = better is not None
            factors = better or factors
        if evidence is not None:
            columns["error"] = evidence.error(factors.matrix.T, factors.bias)
        write_layer(graph, use, factors.matrix, factors.bias)
        context.row(**columns)
        return factors

    def _candidate(self, use: WeightUse, energy: NDArray[np.float64] | None = None) -> Candidate:
        """A layer as the rank at which it breaks even, of which a part goes; each rank costs the same."""
        price = LAYOUTS[self.layout].price(use)
        size = max(1, math.prod(use.tensor.shape) // price)
        loss = None
        if energy is not None:
            shares = np.zeros(size)
            shares[: len(energy)] = energy[:size] / (float(energy.sum()) or 1.0)
            loss = shares[::-1]
        return Candidate(size, self.align, 1, float(price), loss)
