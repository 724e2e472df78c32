"""A few samples of a source, spread evenly over it: data often comes sorted, by length or by class."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from secateur.calib.batches import Batch, Source, empty


class Spread:
    """At most `samples` samples of another source, evenly spaced; a batch without a common axis 0 counts as one.

    They are kept. Two walks over the source find them; batches of weight 0 do not count.
    """

    def __init__(self, source: Source, samples: int, *, whole: bool = False) -> None:
        """Takes the samples.

        Args:
            source: where they come from.
            samples: how many.
            whole: takes whole batches only, as many as hold that many samples together, one at least: for a model
                that takes no others.

        Raises:
            DataError: the source has none.
            ValueError: `samples` is below 1.
        """
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        self.name = source.name
        sizes = [_size(batch) for batch in source]
        total = sum(sizes)
        if not total:
            raise empty(source.name)
        # Every sample lies in one of `taken` equal stretches, and the middle one of each stretch is taken.
        taken = min(samples, total)
        if whole:
            taken = max(1, taken * len([size for size in sizes if size]) // total)
        chosen = (2 * np.arange(taken) + 1) * total // (2 * taken)
        starts = np.cumsum([0, *sizes])
        self._batches = []
        for batch, start, stop in zip(source, starts[:-1], starts[1:], strict=True):
            inside = chosen[(chosen >= start) & (chosen < stop)] - start
            if len(inside) and (whole or len(inside) == stop - start):
                self._batches.append(batch)
            elif len(inside):
                feeds = {name: array[inside] if array.ndim else array for name, array in batch.feeds.items()}
                self._batches.append(Batch(feeds, batch.weight))

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)


def _size(batch: Batch) -> int:
    if batch.weight <= 0:
        return 0
    return 1 if batch.samples is None else batch.samples
