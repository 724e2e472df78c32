"""What a model answers after a change in one place, for many places: all followed through it in one go."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.calib.batches import Batch
from secateur.calib.capture import Part
from secateur.calib.finite import count_bad
from secateur.calib.output_error import OutputError
from secateur.ir.errors import DataError
from secateur.ir.extract import extract
from secateur.ir.graph import Graph
from secateur.ir.runner import Meaning, Runner, RunnerFactory

_Arrays: TypeAlias = Mapping[str, NDArray[Any]]
_Walk: TypeAlias = Sequence[_Arrays]

_MODERATE = 1 << 26
"""Bytes of answers, after which no more are kept."""


@dataclass(frozen=True)
class _Leg:
    """A way through a graph: the values that are held where it begins, and those where it ends."""

    graph: Graph
    held: tuple[str, ...]
    wanted: tuple[str, ...]

    def run(self, factory: RunnerFactory, batches: Sequence[Batch], walks: Iterable[_Walk]) -> Generator[_Arrays]:
        """For each walk, batch by batch, what is wanted; all by one runner, which lives as long as it is asked."""
        own = [value.name for value in self.graph.inputs]
        here = dict.fromkeys([*own, *self.held])
        missing = [name for name in self.wanted if name not in here]
        part = extract(self.graph, list(here), missing)
        inputs = [value.name for value in part.inputs if part.is_used(value)]
        with ExitStack() as stack:
            runner = stack.enter_context(factory(self.graph, inputs=inputs, outputs=missing)) if missing else None
            for walk in walks:
                for batch, values in zip(batches, walk, strict=True):
                    # No name for what is made: beliefs of language models are large, and go before the next are made.
                    yield self._made(runner, inputs, {**batch.feeds, **values})

    def _made(self, runner: Runner | None, inputs: Sequence[str], known: _Arrays) -> _Arrays:
        made = {} if runner is None else runner.run({name: known[name] for name in inputs if name in known})
        return {name: made[name] if name in made else known[name] for name in self.wanted}


class Perturbations:
    """Changed copies of a model, each in one place, and how far each one's answers are from the dense model's.

    A copy differs from the dense model up to the next place where everything goes through one cut only. From there on
    its values go through the dense model, block by block with those of all copies before it: each block is prepared
    once, and no block is run for copies that are changed behind it. In memory are the values at one cut for each copy.
    """

    def __init__(self, dense: Part, outputs: Mapping[str, Meaning], factory: RunnerFactory) -> None:
        """Reads the data, and keeps it; nothing is run.

        Args:
            dense: a whole model, and a little data.
            outputs: those that are its answers, and what they mean.
            factory: what runs it, and its copies.

        Raises:
            DataError: a batch does not fit.
        """
        self._graph, self._meanings, self._factory = dense.graph, dict(outputs), factory
        self._batches = [batch for _, batch in dense.walk()]
        self._ends = tuple(self._meanings)
        self._nothing: list[_Arrays] = [{} for _ in self._batches]
        self._answers: list[_Arrays] = []
        self._cut: tuple[str, ...] = ()
        self._dense = self._nothing
        self._carried: dict[int, list[_Arrays]] = {}
        self._fresh: dict[int, Graph] = {}

    def add(self, key: int, changed: Graph, cut: Sequence[str] | None) -> float | None:
        """Takes a copy of the model.

        Args:
            key: what to call it.
            changed: the same values by the same names.
            cut: values that, with the inputs of the model, give all that comes after, and that lie before the change;
                those of later copies lie behind all that this one changed, or are the same. None where there is no
                such cut: the copy runs as a whole, at once.

        Returns:
            The error where the copy was run as a whole; None where that is for `errors` to say.

        Raises:
            DataError: an answer of the dense model is NaN or infinite.
        """
        if cut is None:
            return self._judge((), self._nothing, [(_Leg(changed, (), self._ends), [self._nothing])])[0]
        if tuple(cut) != self._cut:
            self._advance(tuple(cut))
        self._fresh[key] = changed
        return None

    def errors(self) -> dict[int, float]:
        """By key the error, as `secateur.calib.output_error` has it, of what was not told by `add`.

        Raises:
            DataError: an answer of the dense model is NaN or infinite.
        """
        legs = [(_Leg(changed, self._cut, self._ends), [self._dense]) for changed in self._fresh.values()]
        if self._carried:
            legs.append((_Leg(self._graph, self._cut, self._ends), list(self._carried.values())))
        errors = self._judge(self._cut, self._dense, legs) if legs else []
        return dict(zip([*self._fresh, *self._carried], errors, strict=True))

    def _advance(self, cut: tuple[str, ...]) -> None:
        """Takes everything to the next cut."""
        moved = {key: self._moved(changed, cut, [self._dense])[0] for key, changed in self._fresh.items()}
        self._dense, *others = self._moved(self._graph, cut, [self._dense, *self._carried.values()])
        self._carried = dict(zip(self._carried, others, strict=True)) | moved
        self._cut, self._fresh = cut, {}

    def _moved(self, graph: Graph, cut: tuple[str, ...], walks: Sequence[_Walk]) -> list[list[_Arrays]]:
        found = list(_Leg(graph, self._cut, cut).run(self._factory, self._batches, walks))
        count = len(self._batches)
        return [found[start : start + count] for start in range(0, len(found), count)]

    def _judge(self, held: tuple[str, ...], dense: _Walk, legs: Sequence[tuple[_Leg, Sequence[_Walk]]]) -> list[float]:
        """The error of each walk of each leg; infinite where it ends in NaN or infinity.

        Answers of the dense model, found from what is held, are kept for as many batches as have a moderate size.
        """
        found = [[_Judged(self._meanings) for _ in walks] for _, walks in legs]
        start = 0
        while start < len(self._batches):
            wanted = self._wanted(held, dense, start)
            part = slice(start, start + len(wanted))
            for (leg, walks), judged in zip(legs, found, strict=True):
                given = leg.run(self._factory, self._batches[part], [walk[part] for walk in walks])
                pairs = list(zip(self._batches[part], wanted, strict=True))
                for one, (batch, right) in product(judged, pairs):
                    one.update(right, next(given), batch.weight)
                given.close()
            start = part.stop
        return [one.value for judged in found for one in judged]

    def _wanted(self, held: tuple[str, ...], values: _Walk, start: int) -> list[_Arrays]:
        """What the dense model answers to some batches from `start` on."""
        if not held and self._answers:
            return self._answers
        leg, kept, size = _Leg(self._graph, held, self._ends), list[_Arrays](), 0
        with closing(leg.run(self._factory, self._batches[start:], [values[start:]])) as answers:
            for answer in answers:
                for name, array in answer.items():
                    if bad := count_bad(array):
                        what = f"output {name!r} has {bad} of {array.size} elements that are NaN or infinite"
                        where = f"in batch {start + len(kept)}"
                        raise DataError(f"{what} {where}", hint="find out what the model makes of this batch")
                kept.append(answer)
                size += sum(array.nbytes for array in answer.values())
                if size > _MODERATE:
                    break
        if not held and len(kept) == len(self._batches):
            self._answers = kept
        return kept


class _Judged:
    """The error of one copy so far."""

    def __init__(self, meanings: Mapping[str, Meaning]) -> None:
        self._errors = {name: OutputError(meaning) for name, meaning in meanings.items()}
        self._is_finite = True

    def update(self, wanted: _Arrays, given: _Arrays, weight: float) -> None:
        """Adds one batch."""
        self._is_finite = self._is_finite and not any(count_bad(array) for array in given.values())
        if self._is_finite:
            for name, one in self._errors.items():
                one.update(wanted[name], given[name], weight)

    @property
    def value(self) -> float:
        """The mean over outputs."""
        return float(np.mean([one.value for one in self._errors.values()])) if self._is_finite else np.inf
