"""How much a block changes what goes through it: cosines between its input and its output."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.calib.capture import DEFAULTS, CaptureOptions, Part, nbytes
from secateur.calib.finite import count_bad
from secateur.ir.errors import DataError
from secateur.ir.extract import grouped
from secateur.ir.runner import RunnerFactory


@dataclass(frozen=True)
class Passage:
    """Where something enters a block and where it leaves, by the names of values, and their axis of channels."""

    entry: str
    exit: str
    axis: int


@dataclass
class Similarity:
    """What `update` has seen so far of one passage.

    `influence` is 1 minus the mean cosine over all positions (Men et al. 2024, "ShortGPT", section 3.2), from 0 for a
    block that changes nothing but lengths to 2; `angle` the mean angle over pi (Gromov et al. 2024, "The Unreasonable
    Ineffectiveness of the Deeper Layers", equation 7), from 0 to 1, of the last position of sequences (rank 3, channels
    last) and of all positions of anything else; `relative` the mean of |y - x| / |x|, which sees lengths, too.
    """

    cosines: float = 0.0
    angles: float = 0.0
    positions: float = 0.0
    ends: float = 0.0
    changes: float = 0.0
    starts: float = 0.0

    @property
    def influence(self) -> float:
        """1 minus the mean cosine; 0 where nothing was seen."""
        return 1.0 - self.cosines / self.positions if self.positions else 0.0

    @property
    def angle(self) -> float:
        """The mean angle, divided by pi; 0 where nothing was seen."""
        return self.angles / self.ends if self.ends else 0.0

    @property
    def relative(self) -> float:
        """The mean length of what is added, over that of what it is added to; 0 where nothing was seen."""
        return self.changes / self.starts if self.starts else 0.0

    def update(self, entry: NDArray[Any], end: NDArray[Any], axis: int, weight: float) -> None:
        """Adds one batch. Positions where one of the two vectors is zero have no angle, and do not count;
        those that start from zero have no relative change either.

        Raises:
            ValueError: the shapes differ.
        """
        if entry.shape != end.shape:
            raise ValueError(f"{entry.shape} and {end.shape} are not the same shape")
        x, y = (np.moveaxis(array, axis, -1).astype(np.float64) for array in (entry, end))
        lengths = np.sqrt(np.einsum("...c,...c->...", x, x) * np.einsum("...c,...c->...", y, y))
        products = np.einsum("...c,...c->...", x, y)
        found = lengths > 0
        cosines = np.clip(np.divide(products, lengths, out=np.zeros_like(products), where=found), -1.0, 1.0)
        self.cosines += weight * float(cosines[found].sum())
        self.positions += weight * int(found.sum())
        start, change = (np.linalg.norm(one, axis=-1) for one in (x, y - x))
        self.changes += weight * float((change[start > 0] / start[start > 0]).sum())
        self.starts += weight * int((start > 0).sum())
        if x.ndim == 3 and axis in (2, -1):
            cosines, found = cosines[:, -1:], found[:, -1:]
        self.angles += weight * float(np.arccos(cosines[found]).sum()) / np.pi
        self.ends += weight * int(found.sum())


def similarities(
    part: Part, passages: Sequence[Passage], runner_factory: RunnerFactory, options: CaptureOptions = DEFAULTS
) -> list[Similarity]:
    """The similarity of each passage over all batches; all values come from one run of each batch.

    Where they take more memory than the options allow, they are split over several walks.

    Raises:
        DataError: a batch does not fit the model, or a value is NaN or infinite for it, or leaves in another shape.
        GraphError: a name is unknown.
    """
    found = [Similarity() for _ in passages]
    indices = range(len(passages))
    groups: list[list[int]] = [list(indices)] if passages else []
    if options.memory_limit is not None and len(passages) > 1:
        sizes = nbytes(part, _names(passages), runner_factory)
        taken = {index: sizes[passages[index].entry] + sizes[passages[index].exit] for index in indices}
        groups = grouped(taken, options.memory_limit)
    for group in groups:
        names = _names(passages[index] for index in group)
        with ExitStack() as stack:
            runner = stack.enter_context(runner_factory(part.graph, inputs=part.inputs, outputs=names))
            for number, batch in part.walk():
                fetched = runner.run(batch.feeds)
                for name in names:
                    _check(fetched[name], name, number)
                for index in group:
                    _update(found[index], passages[index], fetched, batch.weight)
                if options.progress:
                    options.progress("comparing what enters and leaves blocks", number + 1, 0)
    return found


def _names(passages: Iterable[Passage]) -> list[str]:
    return list(dict.fromkeys(name for one in passages for name in (one.entry, one.exit)))


def _update(similarity: Similarity, passage: Passage, fetched: dict[str, NDArray[Any]], weight: float) -> None:
    entry, end = fetched[passage.entry], fetched[passage.exit]
    if entry.shape != end.shape:
        raise DataError(
            f"{passage.entry!r} is {entry.shape} and {passage.exit!r} is {end.shape}: they cannot be compared",
            hint="choose blocks by criterion=last",
        )
    similarity.update(entry, end, passage.axis, weight)


def _check(array: NDArray[Any], name: str, number: int) -> None:
    if bad := count_bad(array):
        raise DataError(
            f"value {name!r} has {bad} of {array.size} elements that are NaN or infinite in batch {number}",
            hint="find out what the model makes of this batch: one such value spoils every statistic",
        )
