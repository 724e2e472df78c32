"""Block by block through a model: what enters the block whose turn it is, and nothing else, is kept for all batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secateur.calib.batches import Batch, Source
from secateur.calib.capture import (
    DEFAULTS,
    Accumulator,
    CaptureOptions,
    Key,
    PairAccumulator,
    PairedStream,
    Part,
    Progress,
    fold,
)
from secateur.ir import Graph, Op, Value
from secateur.ir.errors import GraphError
from secateur.ir.extract import extract
from secateur.ir.runner import RunnerFactory
from secateur.ir.storage import Storage

if TYPE_CHECKING:
    from secateur.ir.blocks import Block


@dataclass(frozen=True)
class Turn:
    """A block that is visited several times, once for each of these, needs to be run up to each visit once only.

    Attributes:
        block: what is visited.
        ops: those of its ops that may still change, and all that depends on them inside the block.
        known: names of values of the dense model that the visit will want, to be computed on the way if there is room.
    """

    block: Block
    ops: Sequence[Op]
    known: Sequence[str]

    @classmethod
    def whole(cls, block: Block) -> Turn:
        """The only one of its block; what that gives is what most visits ask of the dense model."""
        return cls(block, block.ops, (block.exit.name,))


@dataclass(frozen=True)
class Stage:
    """A block on its turn. Everything may be asked for any number of times, before and after the block is changed.

    Attributes:
        block: as it was at the outset.
        index: which turn it is, from 0; with one turn for each block, which block.
        current: the block in the model as it is now, fed with what the changed blocks before it give.
        dense: the block in the model as it was, fed with what that gives, and what of the block is known beforehand;
            `current` where there is only one model.
    """

    block: Block
    index: int
    current: Part
    dense: Part
    runner_factory: RunnerFactory
    options: CaptureOptions

    def capture(self, watchers: Mapping[str, Sequence[Accumulator]]) -> None:
        """Updates the statistics of values inside the block, of the current model, by name."""
        fold([self.current], {(name,): found for name, found in watchers.items()}, self.runner_factory, self.options)

    def capture_pairs(self, watchers: Mapping[tuple[str, str], Sequence[PairAccumulator]]) -> None:
        """The same of pairs, by (name of a value of the current model, name of a value of the dense model)."""
        pairs: dict[Key, Sequence[Any]] = {(value, target): found for (value, target), found in watchers.items()}
        fold([self.current, self.dense], pairs, self.runner_factory, self.options)

    @property
    def inputs(self) -> Source:
        """What enters the block in the current model: arrays by name, the block's entry and what else it reads."""
        return self.current.source

    @property
    def outputs(self) -> Source:
        """What the block gives now for these inputs; computed anew, batch by batch, for each walk."""
        return _Outputs(self.current, self.block.exit.name, self.runner_factory)

    @property
    def targets(self) -> Source:
        """What the block gives in the dense model; likewise."""
        return _Outputs(self.dense, self.block.exit.name, self.runner_factory)


def capture_blocks(
    graph: Graph | PairedStream,
    source: Source,
    runner_factory: RunnerFactory,
    blocks: Sequence[Block | Turn],
    visit: Callable[[Stage], None],
    options: CaptureOptions = DEFAULTS,
) -> None:
    """Takes the blocks in their order, runs all batches up to each once, and hands it to `visit`.

    `visit` may change what lies inside the block (of the current model): the blocks after it are fed by what it left.
    Only what enters one block, and what later blocks read past it (a mask, say), is in memory, for all batches. With
    two models the dense one is walked beside the current one: inputs from the compressed prefix, targets from the dense
    one, which is the asymmetric reconstruction of Zhang et al. 2016, "Accelerating Very Deep Convolutional Networks for
    Classification and Detection", section 3.3. Make the dense one by `clone` before anything is changed.

    Args:
        graph: a whole model, or two.
        source: what is fed to the model's inputs.
        runner_factory: what runs the blocks.
        blocks: of the (current) model, in topological order, no op in two of them; they need not cover it. Values at
            which a block begins and ends keep their names throughout, and so do those inside a block of several turns,
            which follow each other. Where a turn would have to keep more than `options.ahead` bytes for all batches,
            it is fed where the last one was.
        visit: called once for each.
        options: memory and progress.

    Raises:
        DataError: a batch does not fit the model, or something inside is NaN or infinite for it.
        GraphError: the blocks are not in topological order, or a value that a later block reads is gone.
    """
    paired = graph if isinstance(graph, PairedStream) else PairedStream(graph, graph)
    turns = _turns(blocks)
    plan = _plan(paired.current, turns)
    current = _Stream(paired.current, source, runner_factory)
    dense = current if paired.dense is paired.current else _Stream(paired.dense, source, runner_factory)
    loaded = _storages(paired.dense, paired.dense.ops()) | _storages(paired.current, paired.current.ops())
    count, number, last = len({turn.block for turn in turns}), 0, None
    for index, (turn, (needed, alive)) in enumerate(zip(turns, plan, strict=True)):
        again = last is not None and last.block is turn.block
        number += not again
        going = _Going(f"entering block {number} of {count}", options.progress, options.ahead, is_needed=not again)
        current.advance(needed, alive, (), going)
        if dense is not current:
            dense.advance(needed, alive, turn.known, going)
        visit(Stage(turn.block, index, current.part(), dense.part(), runner_factory, options))
        # Weights that have had their turn need not stay resident: a model may be larger than memory. What was written
        # for the last block was read again on the way into this one.
        for storage in loaded | _storages(paired.current, (*(last or turn).block.ops, *turn.block.ops)):
            storage.unmap()
        last = turn


def _turns(blocks: Sequence[Block | Turn]) -> list[Turn]:
    """Each block as one turn, unless it comes as turns."""
    turns: list[Turn] = []
    apart: list[Block] = []
    for one in blocks:
        turn = one if isinstance(one, Turn) else Turn.whole(one)
        # Turns of one block follow each other; a block that comes as itself is another each time.
        if turn is not one or not turns or turns[-1].block is not turn.block:
            apart.append(turn.block)
        turns.append(turn)
    if len({op for block in apart for op in block.ops}) != sum(len(block.ops) for block in apart):
        raise GraphError("an op lies in two blocks", hint="give blocks that do not overlap")
    return turns


def _storages(graph: Graph, ops: Iterable[Op]) -> set[Storage]:
    """Where the weights lie that these ops read, as far as they are in the graph."""
    values = (value for op in ops if op in graph for value in op.inputs)
    tensors = (value.const for value in values if value is not None)
    return {tensor.storage for tensor in tensors if tensor is not None and tensor.storage is not None}


def _plan(graph: Graph, turns: Sequence[Turn]) -> list[tuple[list[str], list[str]]]:
    """For each turn the values that it reads from outside, and those to keep while it lasts, by name.

    Kept is what this turn or a later one reads and what is known by then: what no op that they wait for has a part in.
    """
    varying = _varying(graph)
    last_turn = {op: index for index, turn in enumerate(turns) for op in turn.ops}
    after: dict[Op, int] = {}
    for op in graph.ops():
        read = (graph.producer(value) for value in _reads(graph, op, varying))
        after[op] = max([last_turn.get(op, -1) + 1, *(after[maker] for maker in read if maker is not None)])

    def known_from(value: Value) -> int:
        maker = graph.producer(value)
        return 0 if maker is None else after[maker]

    needed = [_entries(graph, turn, varying) for turn in turns]
    number = {block: index for index, block in enumerate(dict.fromkeys(turn.block for turn in turns))}
    for index, values in enumerate(needed):
        for value in values:
            if known_from(value) > index:
                here, there = (number[turns[at].block] for at in (index, known_from(value) - 1))
                raise GraphError(
                    f"block {here} reads {value.name!r}, which depends on block {there}",
                    hint="give the blocks in topological order",
                )
    last = {value: index for index, values in enumerate(needed) for value in values}
    alive: list[list[str]] = [[] for _ in turns]
    for value, until in last.items():
        for index in range(known_from(value), until + 1):
            alive[index].append(value.name)
    return [([value.name for value in values], kept) for values, kept in zip(needed, alive, strict=True)]


def _varying(graph: Graph) -> set[Value]:
    """The values that depend on what the model is fed; others are computed anew from constants wherever needed."""
    found = {value for value in graph.inputs if value.const is None}
    for op in graph.ops():
        if any(node in found for node in graph.nx.pred[op]):
            found.update(value for value in op.outputs if value is not None)
    return found


def _entries(graph: Graph, turn: Turn, varying: set[Value]) -> list[Value]:
    """The entry of a block, if all of it is still to come, and what else is read that is neither made nor constant."""
    inside, block = set(turn.ops), turn.block
    found = {block.entry: None} if block.entry in varying and inside >= set(block.ops) else {}
    for op in turn.ops:
        found.update((value, None) for value in _reads(graph, op, varying) if graph.producer(value) not in inside)
    return list(found)


def _reads(graph: Graph, op: Op, varying: set[Value]) -> Iterator[Value]:
    return (node for node in graph.nx.pred[op] if isinstance(node, Value) and node in varying)


@dataclass(frozen=True)
class _Going:
    """On the way to a turn: how to say so, the bytes that may be kept for all batches, and whether it must be taken."""

    doing: str
    progress: Progress | None
    limit: int
    is_needed: bool

    def is_too_much(self, needed: int, extra: int) -> bool:
        """Whether these bytes are not to be kept; what is needed, and as much again besides, is where it must be."""
        return needed + extra > (max(self.limit, 2 * needed) if self.is_needed else self.limit)


class _Stream:
    """The values that are alive at one place in one model, for every batch."""

    def __init__(self, graph: Graph, source: Source, runner_factory: RunnerFactory) -> None:
        self.graph = graph
        self.name = source.name
        self.batches: list[Batch] = []
        self.count = 0
        self._reads: Sequence[str] = ()
        self._given = Part(graph, source)
        self._runner_factory = runner_factory

    def part(self) -> Part:
        """The model from here on."""
        return Part(self.graph, _Kept(self, self._reads), tuple(self._reads))

    def advance(self, reads: Sequence[str], names: Sequence[str], extra: Sequence[str], going: _Going) -> None:
        """Replaces what is kept by the values `names`, computed from it and from the model's inputs, batch by batch.

        `reads` are those that the part from there on is fed with. `extra` ones are kept, too, and fed, if there is
        room. Where there is none for the others either, and they need not be, nothing changes.
        """
        if extra and self._replaced(names, extra, going):
            self._reads = [*reads, *extra]
        elif self._replaced(names, (), going):
            self._reads = reads

    def _replaced(self, names: Sequence[str], extra: Sequence[str], going: _Going) -> bool:
        """Whether that is done: the first batch says what all of them take."""
        held = set(self.batches[0].feeds) if self.batches else set()
        given = {value.name for value in self.graph.inputs}
        missing = [name for name in dict.fromkeys([*names, *extra]) if name not in held | given]
        inputs = self._needed(held | given, missing)
        with self._runner_factory(self.graph, inputs=inputs, outputs=missing) if missing else nullcontext() as runner:
            for at, (_, batch) in enumerate(self._given.walk()):
                feeds = {**batch.feeds, **(self.batches[at].feeds if at < len(self.batches) else {})}
                if runner is not None:
                    feeds.update(runner.run({name: feeds[name] for name in inputs if name in feeds}))
                if at == 0:
                    needed, more = (self.count * sum(feeds[name].nbytes for name in some) for some in (names, extra))
                    if going.is_too_much(needed, more):
                        return False
                self.batches[at : at + 1] = [Batch({name: feeds[name] for name in [*names, *extra]}, batch.weight)]
                if going.progress:
                    going.progress(going.doing, at + 1, self.count)
        self.count = len(self.batches)
        return True

    def _needed(self, available: Iterable[str], outputs: Sequence[str]) -> list[str]:
        part = extract(self.graph, sorted(available), outputs)
        return [value.name for value in part.inputs if part.is_used(value)]


class _Kept:
    """Some of the values that a stream keeps, as a source."""

    def __init__(self, stream: _Stream, names: Sequence[str]) -> None:
        self.name = stream.name
        self._batches = stream.batches
        self._names = names

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            yield Batch({name: batch.feeds[name] for name in self._names}, batch.weight)


class _Outputs:
    """What a part gives for each of its batches, as a source."""

    def __init__(self, part: Part, name: str, runner_factory: RunnerFactory) -> None:
        self.name = part.source.name
        self._part = part
        self._value = name
        self._runner_factory = runner_factory

    def __iter__(self) -> Iterator[Batch]:
        part = self._part
        with self._runner_factory(part.graph, inputs=part.inputs, outputs=[self._value]) as runner:
            for _, batch in part.walk():
                yield Batch(runner.run(batch.feeds), batch.weight)
