"""Calibration data in two: samples to fit on, and samples that judge the fit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from secateur.calib.batches import Batch, Source
from secateur.ir.graph import Graph
from secateur.ir.types import TensorType
from secateur.passes.layers.evidence import HELD_OUT


class Split:
    """A source whose batches hold either samples to fit on, `samples` at most, or samples that are held out.

    Each fifth sample is held out; where batches cannot be divided, each fifth batch.
    """

    def __init__(self, source: Source, samples: int, *, divisible: bool) -> None:
        self.name = source.name
        self._source, self._samples, self._divisible = source, samples, divisible

    def __iter__(self) -> Iterator[Batch]:
        for batch, _ in self.walk():
            yield batch

    def walk(self) -> Iterator[tuple[Batch, bool]]:
        """The batches that count (weight above 0), and whether they are held out."""
        seen = 0
        for batch in self._source:
            if batch.weight <= 0:
                continue
            if not self._divisible or batch.samples is None:
                seen += 1
                yield batch, seen % HELD_OUT == 0
                continue
            held_out = np.arange(seen + 1, seen + 1 + batch.samples) % HELD_OUT == 0
            seen += batch.samples
            fit = np.flatnonzero(~held_out)
            for start in range(0, len(fit), self._samples):
                yield _of(batch, fit[start : start + self._samples]), False
            if held_out.any():
                yield _of(batch, np.flatnonzero(held_out)), True


def _of(batch: Batch, rows: NDArray[np.int64]) -> Batch:
    feeds = {name: array[rows] if array.ndim else array for name, array in batch.feeds.items()}
    return Batch(feeds, batch.weight)


def is_divisible(graph: Graph) -> bool:
    """Whether the model says of none of its inputs how many samples make a batch."""
    types = [value.type for value in graph.inputs if value.const is None]
    return not any(isinstance(one, TensorType) and one.shape and isinstance(one.shape[0], int) for one in types)
