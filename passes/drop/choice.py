"""Which blocks go, by what data says of them or by where they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import networkx as nx

from secateur.calib.capture import CaptureOptions, Part
from secateur.calib.influence import Passage, Similarity, similarities
from secateur.calib.output_error import meanings
from secateur.ir.errors import RefusedError
from secateur.ir.graph import Graph
from secateur.ir.removable import Removable
from secateur.ir.rules.known import Known
from secateur.passes.cleanup.shapes import known
from secateur.passes.context import Context
from secateur.passes.drop.greedy import greedy
from secateur.passes.layers.answers import answers_of

Criterion: TypeAlias = Literal["influence", "relative", "angle", "greedy", "fixed", "last", "random"]
Scores: TypeAlias = list[float | None]


@dataclass(frozen=True)
class Question:
    """What there is to choose from.

    Attributes:
        graph: the dense model.
        blocks: all of them, in the order of the graph.
        free: the indices of those that may go.
        count: how many go.
        samples: how many samples of the data outputs are compared on.
        breaks: the indices of blocks between which and the one before lies one that has to stay.
    """

    graph: Graph
    blocks: Sequence[Removable]
    free: Sequence[int]
    count: int
    samples: int
    breaks: frozenset[int]


def choose(how: Criterion, question: Question, context: Context, who: str) -> tuple[list[int], Scores]:
    """The indices of the blocks that go, and what each block was judged by; None where it was not.

    Raises:
        BackendError: the criterion runs the model, and there is no runtime.
        DataError: it needs data, and there is none, or none that fits.
        RefusedError: no blocks that many lie in a row.
    """
    free, count, nothing = question.free, question.count, Scores([None] * len(question.blocks))
    if how == "last":
        return list(free[len(free) - count :]), nothing
    if how == "random":
        return context.random(who).permutation(list(free)).tolist()[:count], nothing
    if how == "fixed":
        return _fixed(question), nothing
    if how == "angle":
        return _run(question, context, who)
    if how == "greedy":
        return _greedy(question, context, who)
    scores = judged(how, question.graph, question.blocks, context, who)
    return sorted(free, key=lambda index: (scores[index], -index))[:count], scores


def judged(how: Criterion, graph: Graph, blocks: Sequence[Removable], context: Context, who: str) -> Scores:
    """What each block changes by itself; None where nothing by itself is asked for."""
    if how not in ("influence", "relative", "angle"):
        return [None] * len(blocks)
    passages = [Passage(block.entry.name, block.exit.name, block.axis) for block in blocks]
    found = _similarities(graph, passages, context, who)
    return [getattr(one, how) for one in found]


def pattern(count: int) -> list[int]:
    """The indices that go of `count` blocks: the second of each pair in the first half, then the first of each.

    Kim et al. 2024, "BK-SDM: A Lightweight, Fast, and Cheap Version of Stable Diffusion", section 3.1, keep the first
    of each pair on the way down and the last of each on the way up.
    """
    half = count // 2
    return [*range(1, half, 2), *range(half, count - 1, 2)]


def _fixed(question: Question) -> list[int]:
    """Those of the pattern that are nearest to the middle."""
    middle = (len(question.blocks) - 1) / 2
    found = [index for index in pattern(len(question.blocks)) if index in question.free]
    if question.count > len(found):
        raise RefusedError(
            f"{question.count} blocks were asked for, and the fixed pattern has {len(found)} of {len(question.blocks)}",
            hint="ask for fewer, protect fewer, or choose by another criterion",
        )
    return sorted(found, key=lambda index: (abs(index - middle), -index))[: question.count]


def _run(question: Question, context: Context, who: str) -> tuple[list[int], Scores]:
    """Blocks in a row, between whose two ends the angle is smallest; each start is judged by that angle."""
    facts, blocks, count = context.facts.get(known), question.blocks, question.count
    ends = {first: first + count - 1 for first in question.free if first + count - 1 in question.free}
    starts = [first for first, last in ends.items() if _is_run(facts, question, first, last)]
    if not starts:
        raise RefusedError(
            f"no {count} blocks that may go lie in a row", hint="ask for fewer, or choose by criterion=influence"
        )
    passages = [Passage(blocks[at].entry.name, blocks[ends[at]].exit.name, blocks[at].axis) for at in starts]
    found = _similarities(question.graph, passages, context, who)
    scores = Scores([None] * len(blocks))
    for first, one in zip(starts, found, strict=True):
        scores[first] = one.angle
    best = min(starts, key=lambda first: (scores[first], -first))
    return list(range(best, ends[best] + 1)), scores


def _is_run(facts: Known, question: Question, first: int, last: int) -> bool:
    """True where each block gets what the one before gives, and what leaves the last is shaped like what enters."""
    blocks, graph = question.blocks, question.graph
    if facts.shape(blocks[first].entry) != facts.shape(blocks[last].exit):
        return False
    return all(
        index not in question.breaks and nx.has_path(graph.nx, blocks[index - 1].exit, blocks[index].entry)
        for index in range(first + 1, last + 1)
    )


def _greedy(question: Question, context: Context, who: str) -> tuple[list[int], Scores]:
    answers = answers_of(question.graph, meanings(context.facts.get(known)), question.samples, context, who)
    found = greedy(question.graph, question.blocks, question.free, question.count, answers, context.progress)
    steps = zip(found.order, found.errors, strict=True)
    told = ", then ".join(f"{question.blocks[index].name} ({error:.3g})" for index, error in steps)
    context.note(f"in the order in which they went, with the error of the outputs: {told}")
    return found.order, found.alone


def _similarities(graph: Graph, passages: Sequence[Passage], context: Context, who: str) -> list[Similarity]:
    runner, source = context.needed_runner(who), context.needed_source(who)
    return similarities(Part(graph, source), passages, runner, CaptureOptions(progress=context.progress))
