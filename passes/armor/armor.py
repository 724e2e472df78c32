"""The `armor` pass: a sparse core between blocks, for layers that a sparse matrix alone cannot stand for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from secateur.calib.solvers.armor import CHOICES
from secateur.ir.graph import Graph
from secateur.ir.sparsity import sparsity_of
from secateur.passes.armor.fit import Blocks, Effort, Fitted, blocks_of, fit
from secateur.passes.armor.rewrite import refusal, wrap_layer
from secateur.passes.base import Pass
from secateur.passes.cleanup.shapes import known as known_fact
from secateur.passes.context import Context
from secateur.passes.facets import Effect, Facet
from secateur.passes.layers.evidence import Evidence, Streams, gather
from secateur.passes.layers.matrix import bias_of, matrix_of, write_layer
from secateur.passes.layers.problem import Problem
from secateur.passes.layers.stages import walk
from secateur.passes.layers.variations import varied
from secateur.passes.sparsify.patterns import Dense, Neighbours, parse_named, parse_pattern
from secateur.passes.sparsify.spots import Demands, Spot, spots_of, steps_of


@dataclass(frozen=True)
class Armor(Pass):
    """Each weight becomes a 2:4 core between two block-diagonal matrices, W ~ A S B, with an error far below that of S.

    Liu et al. 2025, "ARMOR: High-Performance Semi-Structured Pruning via Adaptive Matrix Factorization". The core runs
    on sparse tensor cores; the blocks are small dense products, batched, before it and behind it. They cost (outputs +
    inputs) x `block` numbers and as many multiply-accumulates a row: a sixteenth of a 4096 x 4096 matrix with blocks of
    128, a sixth of a 384 x 384 one with blocks of 32. Each row of the report says what they cost. Time both: where rows
    are few, more ops may cost more than the core saves.

    Matrix products and 1x1 convolutions. What blocks do not fit, what they would cost too much of, and what `sparsify`
    leaves dense, too, stays dense, and the report says why. `sparsify` afterwards takes blocks for weights: name them
    as dense, `sparsify{patterns=[*_left:dense, *_right:dense]}`.

    Fitted on the inputs that the model gives so far to the outputs of the dense one, first as in the paper by the
    diagonal of the Gram matrix, then beyond it by all of it, in exact steps (`secateur.calib.solvers.armor`). Without
    data all inputs count the same.
    """

    name: ClassVar[str] = "armor"
    changes: ClassVar[Facet] = Facet.TOPOLOGY | Facet.WEIGHTS | Facet.SHAPE | Facet.ATTRIBUTES
    effect: ClassVar[Effect] = Effect.LOSSY
    replayable: ClassVar[bool] = False

    pattern: str = "2:4"
    """N:M of the core, of how many neighbours how many stay."""
    patterns: tuple[str, ...] = ()
    """Other patterns for weights by name: `[*head*:dense, *down*:4:8]`; globs, the first that fits counts."""
    block: int = 32
    """Rows and columns of a block at the most: the largest divisors of outputs and inputs up to it. The paper: 128."""
    extra: float = 0.25
    """Blocks are made smaller until they cost at most this share of what the dense layer did."""
    iterations: int = 60
    """On the diagonal of the Gram matrix, at the most; a layer is done earlier once hardly anything changes."""
    refits: int = 15
    """On the whole Gram matrix after that; each takes longer by about inputs / block. 0 for the paper's loss alone."""
    worthwhile: bool = True
    """Leave alone what no N:M kernel speeds up: input channels not in 16s, outputs not in 8s."""
    damping: float = 0.01
    """What is added to the diagonals of Gram matrices, relative to their mean; pulls to the old weights go by it."""
    positions: int = 64
    """Output positions sampled of each image, more where images are few (`reads.ROWS`); 0 takes all."""
    augment: int = 0
    """Variations of each batch to fit on as well (`secateur.calib.augment`): narrow data repairs narrowly."""

    def __post_init__(self) -> None:
        demands = self._demands()
        for pattern in (demands.pattern, *(one for _, one in demands.named)):
            if isinstance(pattern, Dense) and pattern is not demands.pattern:
                continue
            if not isinstance(pattern, Neighbours) or math.comb(pattern.group, pattern.keep) > CHOICES:
                raise ValueError(f"a core is N:M with at most {CHOICES} choices a group, such as 2:4; got {pattern}")
        if self.block < 1 or not self.extra > 0:
            raise ValueError(f"block and extra must be positive, got {self.block} and {self.extra}")
        if min(self.iterations, self.refits, self.positions, self.augment, self.damping) < 0:
            raise ValueError("iterations, refits, positions, augment and damping must not be negative")

    def run(self, graph: Graph, context: Context) -> int:
        """Fits layer by layer, then wraps them all; returns how many."""
        context = varied(context, graph, self.augment)
        found = spots_of(context.facts.get(known_fact), self._demands(), context)
        spots = [spot for spot in found if self._may(spot, context)]
        done: dict[int, Fitted] = {}
        if context.source is None:
            context.note("no calibration data: the weights alone say what the core keeps and what the blocks mend")

        def decide(members: Sequence[int], streams: Streams | None) -> None:
            context.progress("armor", len(done), len(spots))
            members = [which for which in members if context.allow("armor", spots[which].use.op)]
            seen: Sequence[Evidence | None] = [None] * len(members)
            if streams is not None and members:
                seen = gather(streams, [spots[which].use for which in members], context, self.positions)
            for which, evidence in zip(members, seen, strict=True):
                done[which] = self._fit(graph, spots[which], evidence, context)

        steps = steps_of(spots)
        if context.source is None:
            for step in steps:
                decide(step, None)
        elif spots:
            jobs = [[spots[which].use.op for which in step] for step in steps]
            walk(graph, graph.clone(), jobs, context, lambda job, streams: decide(steps[job], streams), is_steady=True)
        context.progress("armor", len(spots), len(spots))
        for which, fitted in sorted(done.items()):
            use = spots[which].use
            if fitted.wrapped.is_bare:
                context.note(f"{use.weight.name} has no blocks: they were no better than none on held-out samples")
                continue
            wrap_layer(graph, use, fitted.wrapped, bias_of(use) if use.bias_port is not None else None)
        context.manifest.exact &= not done
        return len(done)

    def _demands(self) -> Demands:
        named = tuple(parse_named(one) for one in self.patterns)
        return Demands(parse_pattern(self.pattern), named, self.worthwhile)

    def _pattern(self, spot: Spot) -> Neighbours:
        found = spot.pattern or parse_pattern(self.pattern)
        assert isinstance(found, Neighbours)
        return found

    def _blocks(self, spot: Spot) -> Blocks | None:
        use = spot.use
        return blocks_of(use.outputs, use.inputs, self._pattern(spot).group, self.block, self.extra)

    def _may(self, spot: Spot, context: Context) -> bool:
        reason = f"{len(spot.uses)} ops read it" if len(spot.uses) > 1 else refusal(spot.use)
        pattern = self._pattern(spot)
        if reason is None and sparsity_of(spot.use).holds(pattern.keep, pattern.group):
            reason = f"it is {pattern} already"
        if reason is None and self._blocks(spot) is None:
            shape = f"{spot.use.outputs} x {spot.use.inputs}"
            reason = f"no blocks divide {shape} that cost at most {self.extra:.0%} of it (extra)"
        if reason is not None:
            context.note(f"{spot.weight.name} stays as it is: {reason}")
        return reason is None

    def _fit(self, graph: Graph, spot: Spot, evidence: Evidence | None, context: Context) -> Fitted:
        """The matrices of one layer, whose weight becomes their product until it is wrapped."""
        use, blocks, pattern = spot.use, self._blocks(spot), self._pattern(spot)
        assert blocks is not None
        problem = Problem(
            name=spot.weight.name,
            weight=matrix_of(use),
            bias=bias_of(use, graph),
            order=spot.order,
            evidence=evidence,
            channels=spot.channels,
            random=context.random(spot.weight.name),
            damping=self.damping,
        )
        found = fit(problem, pattern, blocks, Effort(self.iterations, self.refits))
        write_layer(graph, use, found.wrapped.matrix, found.bias)
        cost = 0 if found.wrapped.is_bare else found.wrapped.extra
        columns: dict[str, object] = {
            "weight": spot.weight.name,
            "pattern": str(pattern),
            "left": blocks.left,
            "right": blocks.right,
            "extra_parameters": cost,
            "extra_macs": cost / (use.outputs * use.inputs),
        }
        if found.error is not None:
            columns |= {"error": found.error, "unwrapped": found.unwrapped}
        context.row(**columns)
        return found
