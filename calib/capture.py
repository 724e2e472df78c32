"""Runs a model over calibration data and folds what flows through it into statistics, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.calib.batches import Batch, Source
from secateur.calib.checks import check_batch
from secateur.calib.finite import count_bad
from secateur.ir import DataType, Graph, TensorType
from secateur.ir.errors import DataError, GraphError
from secateur.ir.extract import extract_shapes, find_values, grouped
from secateur.ir.runner import RunnerFactory

AnyArray: TypeAlias = NDArray[Any]
Key: TypeAlias = tuple[str, ...]

Progress: TypeAlias = Callable[[str, int, int], None]
"""Is told what is being done, how many batches are done, and of how many, 0 while nobody knows."""


class Accumulator(Protocol):
    """A statistic of one value."""

    def update(self, array: AnyArray, weight: float) -> None:
        """Adds what the value is for one batch, batch axis first, in the model's dtype; each sample counts `weight`."""
        ...


class PairAccumulator(Protocol):
    """A statistic of two values that belong to the same samples."""

    def update(self, array: AnyArray, target: AnyArray, weight: float) -> None:
        """Adds a value of the current model, and the one of the dense model that goes with it, for one batch."""
        ...


@dataclass(frozen=True)
class CaptureOptions:
    """How to walk over the data.

    `memory_limit` bounds the bytes that are fetched for one batch: where the watched values take more (by the shapes of
    the first batch), they are split over several walks. None never splits. `ahead` bounds the bytes that are kept of
    all batches inside a block that is visited several times, so that it need not be run from its beginning each time.
    """

    memory_limit: int | None = 1 << 30
    progress: Progress | None = None
    ahead: int = 1 << 27


DEFAULTS = CaptureOptions()


@dataclass(frozen=True)
class Part:
    """A graph and the data fed to it: at its own inputs, or where it is cut, at the values `inputs`."""

    graph: Graph
    source: Source
    inputs: tuple[str, ...] | None = None

    def walk(self) -> Iterator[tuple[int, Batch]]:
        """The batches that count (weight above 0) with their numbers, cast to what the graph takes.

        Raises:
            DataError: a batch does not fit the inputs, or no batch counts.
        """
        used = 0
        for index, batch in enumerate(self.source):
            if batch.weight > 0:
                used += 1
                fits = self.inputs is not None
                yield index, batch if fits else fitted(batch, self.graph, self.source.name, index)
        if not used:
            raise DataError(f"{self.source.name} has no batch of weight above 0", hint="give some samples that count")


@dataclass(frozen=True)
class PairedStream:
    """The model as it was, which says what should come out, and as it is now, with what has been done to it so far."""

    dense: Graph
    current: Graph


def capture(
    graph: Graph,
    source: Source,
    runner_factory: RunnerFactory,
    watchers: Mapping[str, Sequence[Accumulator]],
    options: CaptureOptions = DEFAULTS,
) -> None:
    """Runs all batches once, with the watched values as extra outputs, and folds them in as they come.

    The accumulators see the batches in the order of the source, whatever else is watched.

    Args:
        graph: a whole model.
        source: what is fed to its inputs.
        runner_factory: what runs it.
        watchers: the statistics to update, by the name of a value.
        options: memory and progress.

    Raises:
        DataError: a batch does not fit the model, or a watched value is NaN or infinite for it.
        GraphError: a name is unknown.
    """
    fold([Part(graph, source)], {(name,): found for name, found in watchers.items()}, runner_factory, options)


def capture_pairs(
    paired: PairedStream,
    source: Source,
    runner_factory: RunnerFactory,
    watchers: Mapping[tuple[str, str], Sequence[PairAccumulator]],
    options: CaptureOptions = DEFAULTS,
) -> None:
    """Runs the current and the dense model side by side on the same batches.

    Args:
        paired: both models.
        source: what is fed to the inputs of both.
        runner_factory: what runs them.
        watchers: by (name of a value of the current model, name of a value of the dense model).
        options: memory and progress.

    Raises:
        DataError: as `capture`.
        GraphError: as `capture`.
    """
    pairs: dict[Key, Sequence[Any]] = {(value, target): found for (value, target), found in watchers.items()}
    fold([Part(paired.current, source), Part(paired.dense, source)], pairs, runner_factory, options)


def fold(
    parts: Sequence[Part],
    watchers: Mapping[Key, Sequence[Any]],
    runner_factory: RunnerFactory,
    options: CaptureOptions,
) -> None:
    """Runs several parts side by side; a watcher's key names one value of each, all of which its update is given."""
    keys = [key for key, accumulators in watchers.items() if accumulators]
    batches = len(parts[0].source) if isinstance(parts[0].source, Sized) else 0
    groups = _groups(parts, keys, runner_factory, options.memory_limit)
    done = 0
    for index, group in enumerate(groups):
        with ExitStack() as stack:
            walks = [_steps(part, _column(group, at), runner_factory, stack) for at, part in enumerate(parts)]
            for steps in zip(*walks, strict=True):
                for key in group:
                    arrays = [step.finite(name) for step, name in zip(steps, key, strict=True)]
                    for accumulator in watchers[key]:
                        accumulator.update(*arrays, steps[0].weight)
                    arrays.clear()
                # Room for the next batch: `zip` holds on to this one until that is there.
                for step in steps:
                    step.fetched.clear()
                done += 1
                if options.progress:
                    options.progress("calibrating", done, batches * len(groups))
        batches = done // (index + 1)


def _column(keys: Sequence[Key], at: int) -> list[str]:
    return list(dict.fromkeys(key[at] for key in keys))


@dataclass(frozen=True)
class _Step:
    """What was fetched for one batch."""

    number: int
    weight: float
    fetched: dict[str, AnyArray]

    def finite(self, name: str) -> AnyArray:
        array = self.fetched[name]
        bad = count_bad(array) if DataType.of(array.dtype).is_float else 0
        if bad:
            raise DataError(
                f"value {name!r} has {bad} of {array.size} elements that are NaN or infinite in batch {self.number}",
                hint="find out what the model makes of this batch: one such value spoils every statistic",
            )
        return array


def _steps(part: Part, names: Sequence[str], runner_factory: RunnerFactory, stack: ExitStack) -> Iterator[_Step]:
    runner = stack.enter_context(runner_factory(part.graph, inputs=part.inputs, outputs=names))
    return (_Step(number, batch.weight, runner.run(batch.feeds)) for number, batch in part.walk())


def _groups(
    parts: Sequence[Part], keys: list[Key], runner_factory: RunnerFactory, limit: int | None
) -> list[list[Key]]:
    """The keys in groups whose values, for the first batch, take no more than `limit` bytes together."""
    if limit is None or len(keys) < 2:
        return [keys] if keys else []
    known = [nbytes(part, _column(keys, at), runner_factory) for at, part in enumerate(parts)]
    return grouped({key: sum(sizes[name] for sizes, name in zip(known, key, strict=True)) for key in keys}, limit)


def nbytes(part: Part, names: Sequence[str], runner_factory: RunnerFactory) -> dict[str, int]:
    """The bytes of the named tensors for the first batch; only their shapes are fetched.

    Raises:
        DataError: the batch does not fit.
        GraphError: a name is unknown.
    """
    shapes = extract_shapes(part.graph, part.inputs, names)
    with runner_factory(shapes) as runner:
        found = runner.run(next(part.walk())[1].feeds)
    sizes = {}
    for value, shape in zip(find_values(part.graph, names), found.values(), strict=True):
        bits = value.type.dtype.bits if isinstance(value.type, TensorType) else 32
        sizes[value.name] = int(np.prod(shape, dtype=np.int64)) * max(bits, 8) // 8
    return sizes


def fitted(batch: Batch, graph: Graph, source_name: str, index: int) -> Batch:
    """The batch with its arrays cast to what the graph's inputs take; inputs with a default may be missing.

    Raises:
        DataError: it does not fit (`secateur.calib.checks.check_batch`).
        GraphError: an input of the graph is no tensor.
    """
    signature = {}
    for value in graph.inputs:
        if value.const is not None and value.name not in batch.feeds:
            continue
        kind = value.type
        if not isinstance(kind, TensorType):
            raise GraphError(f"input {value.name!r} of {graph.title} is a {kind}, and only tensors can be fed")
        shape = kind.shape
        if shape is None:
            shape = (None,) * (batch.feeds[value.name].ndim if value.name in batch.feeds else 0)
        signature[value.name] = (kind.dtype.numpy, shape)
    return check_batch(batch, signature, source_name, index)
