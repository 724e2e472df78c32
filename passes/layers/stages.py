"""Layer by layer through a model with calibration data, in time that grows with its depth, not with its square.

The model is cut into blocks at the values that everything goes through. Only what enters one block is kept, for all
batches, in two streams: from the model as it is by then, and from the dense one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeAlias

from secateur.calib.block_stream import Stage, Turn, capture_blocks
from secateur.calib.capture import PairedStream
from secateur.ir.blocks import Block, blocks
from secateur.ir.graph import Graph
from secateur.ir.node import Op, Value
from secateur.ir.rules.known import Known
from secateur.ir.spill import Spool
from secateur.passes.context import Context
from secateur.passes.layers.evidence import Streams

_UNPACKING = frozenset({"Cast", "DequantizeLinear", "Reshape", "Transpose"})
"""Ops between a constant and the layer that reads it."""

Visit: TypeAlias = Callable[[int, Streams], None]


def walk(
    present: Graph,
    dense: Graph,
    jobs: Sequence[Sequence[Op]],
    context: Context,
    visit: Visit,
    *,
    is_steady: bool = False,
) -> None:
    """Visits each job with streams that feed all its ops, in the order of the blocks that these lie in.

    A visit may give ops of its job new weights: later jobs are fed by what it left, and it waits in files when it gets
    large.

    Args:
        present: the model that changes.
        dense: the model as it was; `present` itself where there is one stream only.
        jobs: for each the ops that it wants to see at work. Where they lie in several blocks, these count as one.
        context: data and runner.
        visit: called with the number of a job, each once.
        is_steady: visits change nothing but weights and biases of the ops of their jobs, and no shapes. Then a block is
            run once, from job to job, and not from its beginning for each; streams begin right before the job.
    """
    source = context.needed_source("calibrating")
    whole = Streams.whole(present, dense, source)
    found = trunk_blocks(present)
    turn = {op: index for index, block in enumerate(found) for op in block.ops}
    inside = {job: {turn[op] for op in ops} for job, ops in enumerate(jobs) if all(op in turn for op in ops)}
    order = {op: index for index, op in enumerate(present.ops())}
    begin = min((order[op] for op in turn), default=0)
    early: list[int] = []
    late: list[int] = []
    for job, ops in enumerate(jobs):
        if job not in inside:
            (early if min(order[op] for op in ops) < begin else late).append(job)
    runs = _runs(found, inside)
    spool = Spool()

    def visit_whole(job: int) -> None:
        visit(job, whole)
        spool.add(value for op in jobs[job] for value in op.inputs)

    for job in early:
        visit_whole(job)

    turns = [turn for block, members in runs for turn in _turns(present, block, members, jobs, is_steady)]

    def visit_stage(stage: Stage) -> None:
        streams = Streams(stage.current, stage.current if dense is present else stage.dense)
        turn, members = turns[stage.index]
        for job in members:
            visit(job, streams)
        if stage.index + 1 == len(turns) or turns[stage.index + 1][0].block is not turn.block:
            spool.add(value for op in turn.block.ops for value in op.inputs)

    if turns:
        model = present if dense is present else PairedStream(dense, present)
        factory = context.needed_runner("calibrating")
        capture_blocks(model, source, factory, [turn for turn, _ in turns], visit_stage)
    for job in late:
        visit_whole(job)


def _turns(
    graph: Graph, block: Block, members: Sequence[int], jobs: Sequence[Sequence[Op]], is_steady: bool
) -> Sequence[tuple[Turn, Sequence[int]]]:
    """The visits to a block with their jobs: one for all, or one for each."""
    if not is_steady:
        return [(Turn.whole(block), members)]
    inside, found = set(block.ops), []
    for at, job in enumerate(members):
        waiting = {op for later in members[at:] for op in jobs[later]}
        to_come: dict[Op | Value | str, None] = {}
        for op in block.ops:
            if op in waiting or any(node in to_come for node in graph.nx.pred[op]):
                to_come.update((node, None) for node in (op, *op.outputs) if node is not None)
        ops = tuple(node for node in to_come if isinstance(node, Op))
        known = (_target_of(graph, op, inside).name for op in jobs[job])
        found.append((Turn(block, ops, tuple(dict.fromkeys(known))), [job]))
    return found


def _target_of(graph: Graph, op: Op, inside: Collection[Op]) -> Value:
    """What a layer's output ends in, as far as these ops go: a sum with a bias or a shortcut, if it is part of one."""
    found = op.output
    while len(readers := graph.uses(found)) == 1 and readers[0][0].key == ("", "Add") and readers[0][0] in inside:
        found = readers[0][0].output
    return found


def trunk_blocks(graph: Graph) -> list[Block]:
    """The blocks between the values that all that layers compute goes through.

    What no layer has had a part in (masks, positions, rotary tables) is known beforehand and is no path.
    """
    known = Known(graph)
    layered: set[Value] = set()
    fed: set[Value] = set()
    for op in graph.ops():
        read = {node for node in graph.nx.pred[op] if isinstance(node, Value) and known.constant(node) is None}
        weighs = any(_is_table(known, value) for value in op.inputs)
        if weighs:
            fed |= read
        if weighs or read & layered:
            layered.update(value for value in op.outputs if value is not None)
    # What the first layers read leads to them from an input, and that is a path.
    for op in reversed(list(graph.ops())):
        if any(value in fed and value not in layered for value in op.outputs):
            fed.update(node for node in graph.nx.pred[op] if isinstance(node, Value))
    first = {value for value in fed if value not in layered}
    side = [value for value in graph.values() if value not in layered and value not in first]
    return blocks(graph, side=[value for value in side if value.const is None])


def _is_table(known: Known, value: Value | None) -> bool:
    """True for what only layers read: a constant of numbers with two axes or more, or its codes dequantized."""
    is_coded = False
    while (op := None if value is None else known.graph.producer(value)) is not None and op.op_type in _UNPACKING:
        is_coded |= op.op_type == "DequantizeLinear"
        value = op.input(0)
    tensor = known.constant(value)
    return tensor is not None and (tensor.dtype.is_float or is_coded) and sum(size > 1 for size in tensor.shape) > 1


def _runs(found: Sequence[Block], wanted: Mapping[int, Collection[int]]) -> list[tuple[Block, list[int]]]:
    """Blocks with their jobs, in order; neighbours are joined where a job wants both. `wanted`: job -> its blocks."""
    runs: list[tuple[range, list[int]]] = []
    for job, places in sorted(wanted.items(), key=lambda item: (min(item[1]), item[0])):
        first, last = min(places), max(places)
        if runs and first < runs[-1][0].stop:
            span, members = runs[-1]
            runs[-1] = range(span.start, max(span.stop, last + 1)), [*members, job]
        else:
            runs.append((range(first, last + 1), [job]))
    return [(_joined([found[at] for at in span]), sorted(members)) for span, members in runs]


def _joined(found: Sequence[Block]) -> Block:
    if len(found) == 1:
        return found[0]
    return Block(found[0].entry, found[-1].exit, tuple(op for block in found for op in block.ops))
