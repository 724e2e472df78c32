"""Calibration data: one re-iterable stream of batches, whatever shape the user keeps the data in.

Statistics are gathered in several walks over the data (one for each block, or for the dense and the compressed model),
and the walks must see the same samples in the same order. So a `Source` can be walked again and again: a generator that
can be read only once is refused, and so is a stream whose second walk differs from its first, as a shuffling loader's.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from secateur.calib.batches import WEIGHT, Batch, Source, batches_of, empty, is_array, join, only_input, to_array
from secateur.calib.stored import ArrayColumn, ArrayTable, open_path
from secateur.ir.errors import DataError

__all__ = ["WEIGHT", "Batch", "Source", "open_source"]


def open_source(
    data: object,
    batch_size: int | None = None,
    limit: int | None = None,
    input_names: Sequence[str] | None = None,
    drop_last: bool = False,
) -> Source:
    """Makes a `Source` of whatever the user has.

    | `data` | batches |
    |---|---|
    | path of an `.npz` | arrays named by input, axis 0 = samples; streamed from the file, never held as a whole |
    | path of an `.npy`, an array, a tensor | the samples of the only input |
    | folder of `.npy` | `<input>.npy` for each input, if named so; else one batch of the only input in each |
    | folder of `.npz` | one batch in each file, arrays named by input |
    | mapping of arrays | as an `.npz` |
    | iterable (list, DataLoader, another source) | its items, as they come |
    | function without arguments | the items of the iterable that it returns, called anew for each walk |

    Files of a folder are taken in natural order (`2` before `10`). An item is a `Batch`, a mapping by input name, a
    tuple in the order of `input_names` (what follows them, such as labels, is left out), or an array for the only
    input; axis 0 is the batch. Tensors are converted by `detach().cpu().numpy()`. An only array called `x` or `arr_0`
    stands for the only input. `__weight__` beside the inputs weighs the batch, or each sample; samples of different
    weight share no batch.

    Args:
        data: see the table.
        batch_size: samples in each batch, whatever sizes the data comes in. None keeps the batches of an iterable or a
            folder, and slices arrays by a few samples. Give `fixed_batch_size` of the model's inputs where it has one.
        limit: how many samples to use at most, counted from the first.
        input_names: the model's inputs; needed to place arrays that have no name.
        drop_last: leave out a last batch that has fewer than `batch_size` samples (a model whose batch is fixed at more
            than one cannot take it).

    Raises:
        DataError: nothing is there, it is damaged or pickled, it cannot be walked twice, or it cannot be placed.
    """
    for label, number in (("batch_size", batch_size), ("limit", limit)):
        if number is not None and number < 1:
            raise ValueError(f"{label} must be at least 1, got {number}")
    source = _open(data, None if input_names is None else tuple(input_names))
    if limit is not None:
        source = _Limited(source, limit)
    return source if batch_size is None else _Regrouped(source, batch_size, drop_last)


def _open(data: object, names: tuple[str, ...] | None) -> Source:
    label = f"the {type(data).__name__}"
    if isinstance(data, str | os.PathLike):
        return open_path(Path(data), names)
    if isinstance(data, Mapping) or is_array(data):
        arrays = data if isinstance(data, Mapping) else {only_input(names, label): data}
        columns = {str(key): ArrayColumn(to_array(value, f"{label}, array {key!r}")) for key, value in arrays.items()}
        return ArrayTable(label, columns, names)
    if isinstance(data, Iterator):
        raise DataError(
            f"{label} can be read only once, but calibration walks over the data several times",
            hint="pass a list of the batches, or a function that returns a new generator each time",
        )
    if isinstance(data, Iterable):
        given = getattr(data, "name", None)
        return _Items(lambda: data, given if isinstance(given, str) else label, names)
    if callable(data):
        return _Items(data, f"the function {getattr(data, '__name__', type(data).__name__)}", names)
    raise DataError(
        f"{label} is no calibration data",
        hint="pass a path, a mapping of arrays, an iterable of batches, or a function that returns one",
    )


class _Items:
    """The items of an iterable, or of what a function returns, as batches; notices when two walks differ."""

    def __init__(self, items: Callable[[], object], name: str, names: tuple[str, ...] | None) -> None:
        self.name = name
        self._items = items
        self._names = names
        self._checksums: list[int] = []
        self._complete = False

    def __iter__(self) -> Iterator[Batch]:
        items = self._items()
        if not isinstance(items, Iterable):
            raise DataError(
                f"{self.name} gave a {type(items).__name__}, expected an iterable of batches",
                hint="return a list of batches, or write a generator function",
            )
        count = 0
        for item in items:
            batches = batches_of(item, self._names, f"{self.name}, item {count}")
            self._check_item(count, batches)
            count += 1
            yield from batches
        if count == 0 and not self._checksums:
            raise empty(self.name)
        if count < len(self._checksums):
            raise self._changed(f"it ends after {count} items, and had {len(self._checksums)} before")
        self._complete = True

    def _check_item(self, index: int, batches: list[Batch]) -> None:
        checksum = 0
        for batch in batches:
            for name in sorted(batch.feeds):
                checksum = zlib.crc32(np.ascontiguousarray(batch.feeds[name]).tobytes(), checksum)
        if index == len(self._checksums):
            if self._complete:
                raise self._changed(f"it had {index} items before, and now has more")
            self._checksums.append(checksum)
        elif self._checksums[index] != checksum:
            raise self._changed(f"item {index} is another one than before")

    def _changed(self, what: str) -> DataError:
        return DataError(
            f"{self.name} does not repeat itself: {what}",
            hint="switch shuffling and random augmentation off (DataLoader(shuffle=False)), or pass a list of batches",
        )


class _Limited:
    """The first `limit` samples of another source; a batch whose arrays have no common axis 0 counts as one sample."""

    def __init__(self, source: Source, limit: int) -> None:
        self.name = source.name
        self._source = source
        self._limit = limit

    def __iter__(self) -> Iterator[Batch]:
        left = self._limit
        for batch in self._source:
            samples = batch.samples or 1
            yield batch if samples <= left else batch.part(0, left)
            left -= samples
            if left <= 0:
                return


class _Regrouped:
    """The samples of another source in batches of `size`; the last one, and the last of each weight, may be smaller."""

    def __init__(self, source: Source, size: int, drop_last: bool) -> None:
        self.name = source.name
        self._source = source
        self._size = size
        self._drop_last = drop_last

    def __iter__(self) -> Iterator[Batch]:
        given = 0
        for batch in self._regrouped():
            if batch.samples == self._size or not self._drop_last:
                given += 1
                yield batch
        if given == 0:
            raise DataError(
                f"{self.name} has fewer than {self._size} samples, the size of one batch, and drop_last drops them",
                hint="give more samples, or a smaller batch_size",
            )

    def _regrouped(self) -> Iterator[Batch]:
        pending: list[Batch] = []
        missing = self._size
        for batch in self._source:
            if pending and not pending[0].joins(batch):
                yield join(pending)
                pending, missing = [], self._size
            start, samples = 0, self._samples(batch)
            while samples - start >= missing:
                yield join([*pending, batch.part(start, start + missing)])
                start += missing
                pending, missing = [], self._size
            if start < samples:
                pending.append(batch.part(start, samples))
                missing -= samples - start
        if pending:
            yield join(pending)

    def _samples(self, batch: Batch) -> int:
        samples = batch.samples
        if samples is None:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in batch.feeds.items())
            raise DataError(
                f"{self.name} cannot be cut into batches of {self._size}: no common axis 0 in {shapes}",
                hint="leave batch_size out and give the batches as the model takes them",
            )
        return samples
