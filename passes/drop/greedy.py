"""Which blocks to take out, one after another, by what the model's outputs lose."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from secateur.calib.output_error import Answers
from secateur.ir.errors import RefusedError
from secateur.ir.graph import Graph
from secateur.ir.removable import Removable
from secateur.passes.drop.bypass import bypass


@dataclass(frozen=True)
class Greedy:
    """What was found.

    Attributes:
        order: the blocks that go, by their indices, in the order in which they were chosen.
        errors: of the outputs, after each of them went.
        alone: for each block that could go the error without it alone; None for the others.
    """

    order: list[int]
    errors: list[float]
    alone: list[float | None]


def greedy(
    graph: Graph,
    blocks: Sequence[Removable],
    free: Sequence[int],
    count: int,
    answers: Answers,
    progress: Callable[[str, int, int], None],
) -> Greedy:
    """Takes out the block without which the outputs are off least, and again, until `count` are gone.

    So do Song et al. 2024, "SLEB: Streamlining LLMs through Redundancy Verification and Elimination of Transformer
    Blocks", section 3.3, with perplexity; here outputs are compared with those of the dense model, so that no labels
    are needed. Each step runs the model once for each block that is left; of equals the last one goes.

    Args:
        graph: with all blocks; it is not changed.
        blocks: of the graph.
        free: indices of those that may go.
        count: how many.
        answers: what the dense model answers.
        progress: is told of every model that was run.
    """
    left, gone = list(free), list[int]()
    errors, alone = list[float](), list[float | None]([None] * len(blocks))
    total, done = sum(len(free) - step for step in range(count)), 0
    for _ in range(count):
        found = {}
        for index in left:
            found[index] = _error(graph, [blocks[at] for at in sorted([*gone, index])], answers)
            done += 1
            progress("running the model without a block", done, total)
        if not gone:
            for index in left:
                alone[index] = found[index]
        best = min(left, key=lambda index: (found[index], -index))
        left.remove(best)
        gone.append(best)
        errors.append(found[best])
    return Greedy(gone, errors, alone)


def without(graph: Graph, blocks: Sequence[Removable]) -> Graph:
    """A copy of a graph without some of its blocks; what nothing needs any more stays as dead code.

    Raises:
        RefusedError: an output would be nothing but an input.
    """
    copy = graph.clone()
    outermost = [block for block in blocks if not any(other.holds(block) for other in blocks)]
    bypass(copy, [_in(copy, block) for block in outermost])
    return copy


def _in(graph: Graph, block: Removable) -> Removable:
    """The same block of a copy of its graph, as far as `bypass` looks at it."""
    terms = tuple(graph[term.name] for term in block.terms)
    return replace(block, entry=graph[block.entry.name], exit=graph[block.exit.name], terms=terms)


def _error(graph: Graph, blocks: Sequence[Removable], answers: Answers) -> float:
    try:
        found = answers.error(without(graph, blocks))
    except RefusedError:
        return math.inf
    return math.inf if math.isnan(found) else found
