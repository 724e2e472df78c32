"""The `drop-blocks` pass."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from secateur.calib.capture import PairedStream
from secateur.calib.output_error import meanings
from secateur.ir.errors import RefusedError
from secateur.ir.graph import Graph
from secateur.ir.removable import Removable, is_composite, removable_blocks
from secateur.passes.base import Pass
from secateur.passes.cleanup.dead_code import RemoveDeadCode
from secateur.passes.cleanup.shapes import known
from secateur.passes.context import Context
from secateur.passes.drop.bypass import bypass
from secateur.passes.drop.choice import Criterion, Question, Scores, choose, judged, pattern
from secateur.passes.drop.compensation import Filled, compensate, hold
from secateur.passes.facets import Effect, Facet
from secateur.passes.layers.answers import answers_of
from secateur.passes.registry import suggest

SHARE = 0.25
"""The share of the blocks that goes where nobody says how many."""


@dataclass(frozen=True)
class DropBlocks(Pass):
    """Takes out the residual blocks that are missed least: `y = x + f(x)` becomes `y = x`, or x and a constant.

    Blocks are judged in the dense model. Influence is 1 minus the mean cosine between a block's input and output (Men
    et al. 2024, "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect", section 3.2), relative
    the mean length of what a block adds over that of what it adds to. Angle takes blocks in a row, between whose ends
    the angle is smallest (Gromov et al. 2024, "The Unreasonable Ineffectiveness of the Deeper Layers", section 3).
    Greedy takes one block after another, each time the one without which the model's outputs change least (Song et al.
    2024, "SLEB: Streamlining LLMs through Redundancy Verification and Elimination of Transformer Blocks", section 3.3);
    `secateur.calib.output_error` says how outputs are compared. Fixed goes by place alone (Kim et al. 2024, "BK-SDM").

    What the blocks added on average is then added to what is there already, a bias, a norm's shift, or in an op of its
    own (`secateur.calib.drift`).

    Blocks are found from the graph alone (`secateur.ir.removable`), before and after norms, fused or not; `secateur
    groups` lists them, and says why some cannot go.
    """

    name: ClassVar[str] = "drop-blocks"
    changes: ClassVar[Facet] = (
        Facet.TOPOLOGY | Facet.SHAPE | Facet.DTYPE | Facet.WEIGHTS | Facet.ATTRIBUTES | Facet.SCHEME
    )
    effect: ClassVar[Effect] = Effect.LOSSY

    part: Literal["any", "attention", "ffn", "convolutions", "layer"] = "any"
    """Which blocks are judged; any is all those that no others lie in, layer runs of attention and feed-forward."""
    count: int | None = None
    """How many go."""
    ratio: float | None = None
    """The share of them that goes, rounded down; 0.25 where neither this nor `count` nor `names` is given (with the
    fixed pattern all that are in it)."""
    names: tuple[str, ...] = ()
    """The blocks that go, of whatever part, whatever they change."""
    criterion: Literal["auto", "influence", "relative", "angle", "greedy", "fixed", "last", "random"] = "auto"
    """What decides; auto is influence with data and last without. Last takes the deepest; random is seeded."""
    protect: int = 1
    """This many blocks stay at either end, unless they are named."""
    samples: int = 32
    """How many samples, spread over the data, outputs are compared on: by greedy, and to choose what makes up for a
    block."""
    compensate: Literal["auto", "none", "bias", "linear"] = "auto"
    """What makes up for blocks that are gone: a constant for each channel; or, where samples held out say that it is
    better, a linear map of what enters, which costs a matrix of the width of the model. Auto is bias with data."""

    def __post_init__(self) -> None:
        if sum(given is not None for given in (self.count, self.ratio, self.names or None)) > 1:
            raise ValueError("give one of count, ratio and names")
        if self.count is not None and self.count < 1:
            raise ValueError(f"count must be at least 1, got {self.count}")
        if self.ratio is not None and not 0 < self.ratio < 1:
            raise ValueError(f"ratio must be in (0, 1), got {self.ratio}")
        if self.protect < 0:
            raise ValueError(f"protect must not be negative, got {self.protect}")
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")

    def run(self, graph: Graph, context: Context) -> int:
        """Judges all candidates in the dense model, takes out the least, and returns how many went.

        Raises:
            DataError: data is needed and missing, does not fit, or makes something inside NaN or infinite.
            RefusedError: there are no such blocks, or not that many.
        """
        every = removable_blocks(context.facts.get(known))
        found = self._found(every)
        candidates = self._named(every) if self.names else self._free(found, context)
        wanted, scores = self._choose(graph, found, candidates, context)
        chosen = [
            block
            for index, block in enumerate(candidates)
            if index in wanted and context.allow("drop", block.branches[0].total)
        ]
        outermost = [block for block in chosen if not any(other.holds(block) for other in chosen)]
        filled = self._take_out(graph, outermost, context) if outermost else {}
        for block, score in zip(candidates, scores, strict=True):
            context.row(
                block=block.name,
                part=block.part.value,
                parameters=block.parameters,
                macs=block.macs,
                score=score,
                dropped=block in chosen,
                **filled.get(block, _UNFILLED),
            )
        return len(chosen)

    def _take_out(
        self, graph: Graph, blocks: Sequence[Removable], context: Context
    ) -> dict[Removable, dict[str, object]]:
        """Takes blocks out of the graph; the columns of the report for those that something was done for."""
        before = {value.name for value in graph.constants()}
        how, done = self._compensation(context), list[Filled]()
        if how == "none":
            bypass(graph, blocks)
            RemoveDeadCode().run(graph, Context())
        else:
            dense = graph.clone()
            outputs = meanings(context.facts.get(known))
            answers = answers_of(dense, outputs, self.samples, context, str(self)) if outputs else None
            gaps = hold(graph, blocks)
            bypass(graph, blocks)
            RemoveDeadCode().run(graph, Context())
            done = compensate(PairedStream(dense, graph), gaps, answers, context, linear=how == "linear")
        context.manifest.dropped.extend(block.name for block in blocks)
        context.manifest.forget(before - {value.name for value in graph.constants()})
        context.manifest.exact &= all(one.bridge.kind == "none" for one in done)
        return {one.gap.blocks[-1]: self._columns(one, context) for one in done}

    def _columns(self, filled: Filled, context: Context) -> dict[str, object]:
        bridge, last = filled.bridge, filled.gap.blocks[-1]
        if bridge.matrix is not None:
            context.note(f"{last.name}: a linear map of {bridge.matrix.size:,} parameters takes its place")
        return {
            "compensation": bridge.kind,
            "error_before": bridge.before,
            "error_after": bridge.after,
            "output_error": filled.error,
        }

    def _found(self, every: Sequence[Removable]) -> list[Removable]:
        """The blocks of the part that was asked for, those that cannot go among them, in the order of the graph."""
        return [
            block
            for block in every
            if block.part.value == self.part or (self.part == "any" and not is_composite(block, every))
        ]

    def _free(self, found: Sequence[Removable], context: Context) -> list[Removable]:
        """Those that can go."""
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

    def _choose(
        self, graph: Graph, found: Sequence[Removable], blocks: Sequence[Removable], context: Context
    ) -> tuple[set[int], Scores]:
        """The indices of those that go, and the scores of all."""
        how, who = self._criterion(context), str(self)
        if self.names:
            return set(range(len(blocks))), judged(how, graph, blocks, context, who)
        free = range(self.protect, len(blocks) - self.protect)
        count = self._count(how, len(blocks), free)
        places = [found.index(block) for block in blocks]
        breaks = frozenset(at for at in range(1, len(blocks)) if places[at] != places[at - 1] + 1)
        if how == "last" and self.criterion == "auto":
            context.note("no calibration data: the deepest blocks go")
        order, scores = choose(how, Question(graph, blocks, free, count, self.samples, breaks), context, self.name)
        return set(order), scores

    def _count(self, how: Criterion, blocks: int, free: range) -> int:
        share = SHARE if self.ratio is None else self.ratio
        count = self.count if self.count is not None else math.floor(blocks * share + 1e-9)
        if how == "fixed" and self.count is None and self.ratio is None:
            count = sum(index in free for index in pattern(blocks))
        if count > len(free) or count == 0:
            stay = f", and protect={self.protect} keeps {blocks - len(free)} of them" if self.protect else ""
            asked = f"{count} blocks were asked for" if count else f"a share of {share:g} is less than one block"
            raise RefusedError(
                f"{asked}, but there are {blocks} to choose from{stay}",
                hint="ask for another count, protect fewer, or name the blocks",
            )
        return count

    def _criterion(self, context: Context) -> Criterion:
        if self.criterion == "auto":
            return "influence" if context.source is not None and not self.names else "last"
        return self.criterion

    def _compensation(self, context: Context) -> Literal["none", "bias", "linear"]:
        if self.compensate == "auto":
            return "bias" if context.source is not None and context.runner is not None else "none"
        return self.compensate


_UNFILLED: Mapping[str, object] = {
    "compensation": None,
    "error_before": None,
    "error_after": None,
    "output_error": None,
}
