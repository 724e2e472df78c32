"""The `drop-blocks` pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from secateur.calib.capture import CaptureOptions
from secateur.calib.capture import Part as Walk
from secateur.calib.influence import Passage, similarities
from secateur.ir.errors import RefusedError
from secateur.ir.graph import Graph
from secateur.ir.removable import Removable, is_composite, removable_blocks
from secateur.passes.base import Pass
from secateur.passes.cleanup.dead_code import RemoveDeadCode
from secateur.passes.cleanup.shapes import known
from secateur.passes.context import Context
from secateur.passes.drop.bypass import bypass
from secateur.passes.facets import Effect, Facet
from secateur.passes.registry import suggest

SHARE = 0.25
"""The share of the blocks that goes where nobody says how many."""


@dataclass(frozen=True)
class DropBlocks(Pass):
    """Takes out the residual blocks that change least of what goes through them: `y = x + f(x)` becomes `y = x`.

    Block influence is 1 minus the mean cosine between a block's input and output (Men et al. 2024, "ShortGPT: Layers in
    Large Language Models are More Redundant Than You Expect", section 3.2); the angle between them is what Gromov et
    al. 2024, "The Unreasonable Ineffectiveness of the Deeper Layers", section 3, go by. Blocks are judged one by one,
    once, in the dense model; nothing is repaired.

    Blocks are found from the graph alone (`secateur.ir.removable`), before and after norms, fused or not; `secateur
    groups` lists them, and says why some cannot go.
    """

    name: ClassVar[str] = "drop-blocks"
    changes: ClassVar[Facet] = Facet.TOPOLOGY | Facet.SHAPE | Facet.DTYPE | Facet.ATTRIBUTES | Facet.SCHEME
    effect: ClassVar[Effect] = Effect.LOSSY

    part: Literal["any", "attention", "ffn", "convolutions", "layer"] = "any"
    """Which blocks are judged; any is all those that no others lie in, layer runs of attention and feed-forward."""
    count: int | None = None
    """How many go."""
    ratio: float | None = None
    """The share of them that goes, rounded down; 0.25 where neither this nor `count` nor `names` is given."""
    names: tuple[str, ...] = ()
    """The blocks that go, of whatever part, whatever they change."""
    criterion: Literal["auto", "influence", "angle", "last", "random"] = "auto"
    """What decides; auto is influence with data and last without. Last takes the deepest; random is seeded."""
    protect: int = 1
    """This many blocks stay at either end, unless they are named."""

    def __post_init__(self) -> None:
        if sum(given is not None for given in (self.count, self.ratio, self.names or None)) > 1:
            raise ValueError("give one of count, ratio and names")
        if self.count is not None and self.count < 1:
            raise ValueError(f"count must be at least 1, got {self.count}")
        if self.ratio is not None and not 0 < self.ratio < 1:
            raise ValueError(f"ratio must be in (0, 1), got {self.ratio}")
        if self.protect < 0:
            raise ValueError(f"protect must not be negative, got {self.protect}")

    def run(self, graph: Graph, context: Context) -> int:
        """Judges all candidates in the dense model, takes out the least, and returns how many went."""
        every = removable_blocks(context.facts.get(known))
        candidates = self._candidates(every, context)
        scores = self._scores(graph, candidates, context)
        wanted = set(self._wanted(candidates, scores, context))
        chosen = [block for block in candidates if block in wanted and context.allow("drop", block.branches[0].total)]
        outermost = [block for block in chosen if not any(other.holds(block) for other in chosen)]
        before = {value.name for value in graph.constants()}
        bypass(graph, outermost)
        if outermost:
            RemoveDeadCode().run(graph, Context())
            context.manifest.dropped.extend(block.name for block in outermost)
            context.manifest.forget(before - {value.name for value in graph.constants()})
        for block, score in zip(candidates, scores, strict=True):
            context.row(
                block=block.name,
                part=block.part.value,
                parameters=block.parameters,
                macs=block.macs,
                score=score,
                dropped=block in chosen,
            )
        return len(chosen)

    def _candidates(self, every: Sequence[Removable], context: Context) -> list[Removable]:
        """The blocks to choose from, in the order of the graph."""
        if self.names:
            return self._named(every)
        found = [
            block
            for block in every
            if block.part.value == self.part or (self.part == "any" and not is_composite(block, every))
        ]
        for block in found:
            if block.pin is not None:
                context.note(f"{block.name} stays: {block.pin}")
        free = [block for block in found if block.pin is None]
        if not free:
            kind = "block" if self.part == "any" else f"{self.part} block" if self.part != "layer" else "layer"
            reason = f": {found[0].name}, for one, stays, as {found[0].pin}" if found else ""
            raise RefusedError(
                f"the model has no {kind} that can be taken out{reason}",
                hint="`secateur groups` shows the blocks of a model; `prune` takes channels out of them",
            )
        return free

    def _named(self, every: Sequence[Removable]) -> list[Removable]:
        by_name = {block.name: block for block in every}
        for name in self.names:
            block = by_name.get(name)
            if block is None:
                raise RefusedError(f"there is no block {name!r}", hint=suggest(name, by_name))
            if block.pin is not None:
                total = block.branches[0].total
                raise RefusedError(
                    f"the block {name}, which ends with {total}, cannot be taken out: {block.pin}",
                    hint="`secateur groups` shows the blocks that can",
                )
        return [block for block in every if block.name in self.names]

    def _scores(self, graph: Graph, blocks: Sequence[Removable], context: Context) -> list[float | None]:
        """What each block changes; None where nobody asks."""
        how = self._criterion(context)
        if how not in ("influence", "angle"):
            return [None] * len(blocks)
        runner, source = context.needed_runner(str(self)), context.needed_source(str(self))
        passages = [Passage(block.entry.name, block.exit.name, block.axis) for block in blocks]
        found = similarities(Walk(graph, source), passages, runner, CaptureOptions(progress=context.progress))
        return [one.influence if how == "influence" else one.angle for one in found]

    def _wanted(self, blocks: Sequence[Removable], scores: Sequence[float | None], context: Context) -> list[Removable]:
        if self.names:
            return list(blocks)
        free = list(range(self.protect, len(blocks) - self.protect))
        share = SHARE if self.ratio is None else self.ratio
        count = self.count if self.count is not None else math.floor(len(blocks) * share + 1e-9)
        if count > len(free) or count == 0:
            stay = f", and protect={self.protect} keeps {len(blocks) - len(free)} of them" if self.protect else ""
            asked = f"{count} blocks were asked for" if count else f"a share of {share:g} is less than one block"
            raise RefusedError(
                f"{asked}, but there are {len(blocks)} to choose from{stay}",
                hint="ask for another count, protect fewer, or name the blocks",
            )
        how = self._criterion(context)
        if how == "last":
            if self.criterion == "auto":
                context.note("no calibration data: the deepest blocks go")
            return [blocks[index] for index in free[len(free) - count :]]
        if how == "random":
            order = context.random(self.name).permutation(free).tolist()
        else:
            order = sorted(free, key=lambda index: (scores[index], -index))
        return [blocks[index] for index in order[:count]]

    def _criterion(self, context: Context) -> str:
        if self.criterion == "auto":
            return "influence" if context.source is not None and not self.names else "last"
        return self.criterion
