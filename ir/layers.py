"""Whole layers: runs of attention and feed-forward blocks on one trunk. And sums whose shortcut is a projection."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from secateur.ir.node import Op, Value
from secateur.ir.residual import Branch, sum_rules
from secateur.ir.residual_blocks import Blocks, Part, Removable, exit_of, is_composite
from secateur.ir.rules.mixing import mixing_rules

_LONGEST_NORM = 24


@dataclass(frozen=True, eq=False)
class Step:
    """One sum of the trunk: all blocks that end with it, and the ops from the sum before to what they read.

    `norm` is None where they read the sum before as it is, or where there is none before.
    """

    blocks: tuple[Removable, ...]
    before: Step | None
    norm: tuple[Op, ...] | None

    @property
    def parts(self) -> set[Part]:
        """What the blocks are."""
        return {block.part for block in self.blocks}

    @property
    def branch(self) -> Branch:
        """One of the branches."""
        return self.blocks[0].branches[0]


def layers(finder: Blocks, blocks: Sequence[Removable]) -> Iterator[Removable]:
    """Runs that begin with attention, go on with attention or feed-forward, and end before attention begins anew."""
    run: list[Step] = []
    for step in [*_steps(finder, blocks), None]:
        fresh = step is None or not run or step.before is not run[-1] or step.parts - {Part.ATTENTION, Part.FFN}
        again = step is not None and Part.ATTENTION in step.parts and any(Part.FFN in one.parts for one in run)
        if fresh or again:
            if (layer := _layer(finder, run)) is not None:
                yield layer
            run = []
        if step is not None and not step.parts - {Part.ATTENTION, Part.FFN} and (run or Part.ATTENTION in step.parts):
            run.append(step)


def projections(finder: Blocks, known: Collection[Op]) -> Iterator[Removable]:
    """Sums of two linear maps of one value that has another shape, so that it cannot stand in for the sum."""
    for op in finder.sums.order:
        rule = sum_rules.get(op)
        if rule is None or op in known or rule.normalized is not None:
            continue
        terms = [value for _, value in rule.terms(op) if value in finder.sums.dynamic]
        if len(terms) != 2 or (entry := finder.sums.meeting(*terms)) is None or entry in terms:
            continue
        before, after = finder.known.shape(entry), finder.known.shape(op.output)
        if before is None or after is None or before == after or len(before) != len(after):
            continue
        branches = [finder.sums.between(op, term, entry) for term in terms]
        parts = [part for branch in branches if branch is not None and (part := finder.part(branch)) is not None]
        if len(parts) == 2 and None not in branches:
            longest = max((branch for branch in branches if branch is not None), key=lambda one: len(one.inside))
            part = next(one for one in (Part.ATTENTION, Part.CONVOLUTIONS, *parts) if one in parts)
            reason = f"its shortcut is a projection: {list(before)} becomes {list(after)}"
            yield replace(finder.made(part, [longest], (), op.output, longest.inside), pin=reason)


def _steps(finder: Blocks, blocks: Sequence[Removable]) -> list[Step]:
    """The sums in order, each linked to the one before on its trunk. Blocks with others inside take no part."""
    by_total: dict[Op, list[Removable]] = {}
    for block in blocks:
        if block.pin is None and not is_composite(block, blocks):
            by_total.setdefault(block.branches[0].total, []).append(block)
    steps: list[Step] = []
    made: dict[Value, tuple[Step, bool]] = {}
    for some in by_total.values():
        before, norm = _link(finder, some[0].entry, made)
        step = Step(tuple(some), before, norm)
        steps.append(step)
        rule = sum_rules.get(some[0].branches[0].total)
        assert rule is not None
        for port, value in enumerate(some[0].branches[0].total.outputs):
            if value is not None and port in (rule.result, rule.normalized):
                made[value] = step, port == rule.normalized
    return steps


def _link(
    finder: Blocks, entry: Value, made: dict[Value, tuple[Step, bool]]
) -> tuple[Step | None, tuple[Op, ...] | None]:
    """The step whose sum a block reads, as it is or through a norm of these ops."""
    if entry in made:
        step, normalized = made[entry]
        return step, () if normalized else None
    ops: set[Op] = set()
    sources: set[Value] = set()
    waiting = [entry]
    while waiting:
        value = waiting.pop()
        op = finder.graph.producer(value)
        if value in made:
            sources.add(value)
        elif op is None or mixing_rules.get(op) is not None or len(ops) > _LONGEST_NORM:
            return None, None
        elif op not in ops:
            ops.add(op)
            waiting.extend(one for one in op.inputs if one is not None and one in finder.sums.dynamic)
    if len(sources) != 1 or made[next(iter(sources))][1]:
        return None, None
    return made[sources.pop()][0], tuple(sorted(ops, key=finder.sums.order.__getitem__))


def _layer(finder: Blocks, run: Sequence[Step]) -> Removable | None:
    parts = {part for step in run for part in step.parts}
    if not {Part.ATTENTION, Part.FFN} <= parts:
        return None
    blocks = [block for step in run for block in step.blocks]
    branches = [branch for block in blocks for branch in block.branches]
    links = [step.norm for step in run[1:]]
    if all(norm is None for norm in links):
        # The sums are the trunk itself: without their terms, the last one is the first one's entry.
        terms = tuple(branch.term for branch in branches)
        return finder.made(Part.LAYER, branches, terms, exit_of(run[-1].branch), finder.dying(branches))
    if any(norm is None for norm in links) or (end := _after(finder, run)) is None:
        return None
    goes = finder.dying(branches, finder.graph.producer(end))
    return replace(finder.made(Part.LAYER, branches, (), end, goes), pin=finder.escape(branches, goes))


def _after(finder: Blocks, run: Sequence[Step]) -> Value | None:
    """What the last sum of a layer becomes by a norm like the one inside; None where no such norm follows."""
    norm, last = run[1].norm, run[-1].branch.total
    rule = sum_rules.get(last)
    assert rule is not None
    if not norm:
        return None if rule.normalized is None else last.outputs[rule.normalized]
    like: dict[Value, Value] = {exit_of(run[0].branch): exit_of(run[-1].branch)}
    for op in norm:
        first = next(value for value in op.inputs if value in like)
        assert first is not None
        twin = next((one for one in finder.graph.consumers(like[first]) if _alike(op, one, like)), None)
        if twin is None:
            return None
        like.update((a, b) for a, b in zip(op.outputs, twin.outputs, strict=False) if a is not None and b is not None)
    return like.get(run[1].branch.trunk)


def _alike(op: Op, other: Op, like: dict[Value, Value]) -> bool:
    """The other does to what corresponds what the one does."""
    if op.key != other.key or len(op.inputs) != len(other.inputs):
        return False
    return all(like[a] is b for a, b in zip(op.inputs, other.inputs, strict=True) if a is not None and a in like)
