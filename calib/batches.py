"""What calibration data is made of: `Batch`, the `Source` protocol, and how an item of any data set becomes batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from secateur.ir.errors import DataError

AnyArray: TypeAlias = npt.NDArray[Any]

#: The array name that carries sample weights beside the inputs: one number for a batch, or one for each sample.
WEIGHT = "__weight__"
#: Names that stand for the model's only input: ours, and numpy's for an array saved without a name.
PLACEHOLDERS = frozenset({"x", "arr_0"})


@dataclass(frozen=True)
class Batch:
    """Arrays by input name, batch axis first, and the weight that statistics give to each of its samples."""

    feeds: Mapping[str, AnyArray]
    weight: float = 1.0

    @property
    def samples(self) -> int | None:
        """The common length of axis 0; None where arrays disagree on it or all are scalars, so it is no batch axis."""
        lengths = {array.shape[0] for array in self.feeds.values() if array.ndim}
        return lengths.pop() if len(lengths) == 1 else None

    def part(self, start: int, stop: int) -> Batch:
        """The samples `start:stop`, as views; scalars stay."""
        if (start, stop) == (0, self.samples):
            return self
        feeds = {name: array[start:stop] if array.ndim else array for name, array in self.feeds.items()}
        return Batch(feeds, self.weight)

    def joins(self, other: Batch) -> bool:
        """Whether samples of both may share a batch: same inputs, same shapes and types, same weight, same scalars."""

        def alike(a: AnyArray, b: AnyArray) -> bool:
            same = a.ndim == b.ndim and a.dtype == b.dtype and a.shape[1:] == b.shape[1:]
            return same and (a.ndim > 0 or bool(a == b))

        return (
            self.weight == other.weight
            and self.feeds.keys() == other.feeds.keys()
            and all(alike(array, other.feeds[name]) for name, array in self.feeds.items())
        )


def join(batches: list[Batch]) -> Batch:
    """One batch with the samples of several that `joins` each other."""
    first = batches[0]
    if len(batches) == 1:
        return first
    feeds = {
        name: np.concatenate([batch.feeds[name] for batch in batches]) if array.ndim else array
        for name, array in first.feeds.items()
    }
    return Batch(feeds, first.weight)


class Source(Protocol):
    """A stream of batches that can be walked any number of times, with the same batches in the same order."""

    @property
    def name(self) -> str:
        """What error messages call the data: a path, or what kind of object it is."""
        ...

    def __iter__(self) -> Iterator[Batch]:
        """Starts a new walk."""
        ...


def batches_of(item: object, names: tuple[str, ...] | None, where: str) -> list[Batch]:
    """One item of a data set as batches: one, or several if its samples have different weights.

    Args:
        item: a `Batch`, a mapping by input name, a tuple or list in the order of `names`, or an array for the only
            input.
        names: the model's inputs, if they are known.
        where: what error messages call the item.

    Raises:
        DataError: the item is of no known kind, or an array has no name and cannot be placed.
    """
    if isinstance(item, Batch):
        feeds = {name: to_array(value, f"{where}, array {name!r}") for name, value in item.feeds.items()}
        return split_by_weight(feeds, item.weight, where)
    if isinstance(item, Mapping):
        feeds = {str(key): to_array(value, f"{where}, array {key!r}") for key, value in item.items()}
    elif is_array(item):
        feeds = {only_input(names, where): to_array(item, where)}
    elif isinstance(item, tuple | list):
        feeds = _by_position(item, names, where)
    else:
        raise DataError(
            f"{where} is a {type(item).__name__}, expected arrays", hint="give each batch as a mapping by input name"
        )
    weight = feeds.pop(WEIGHT, np.ones(()))
    if not feeds:
        raise DataError(f"{where} has no arrays", hint="give one array for each input of the model")
    return split_by_weight(named(feeds, names), weight, where)


def _by_position(item: tuple[Any, ...] | list[Any], names: tuple[str, ...] | None, where: str) -> dict[str, AnyArray]:
    if names is None or len(item) < len(names):
        expected = "but input_names were not given" if names is None else f"expected {len(names)}: {', '.join(names)}"
        raise DataError(
            f"{where} is a {type(item).__name__} of {len(item)}, {expected}",
            hint="give each batch as a mapping by input name",
        )
    # What follows the inputs is not the model's: data sets for training end each item with the labels.
    return {name: to_array(value, f"{where}, array {name!r}") for name, value in zip(names, item, strict=False)}


def split_by_weight(feeds: Mapping[str, AnyArray], weight: npt.ArrayLike, where: str) -> list[Batch]:
    """Feeds with a scalar weight are one batch; with one weight for each sample, each run of equal weights is one.

    Raises:
        DataError: a weight is negative or not finite, or there is not one for each sample.
    """
    weights = np.asarray(weight)
    if weights.dtype.kind not in "fiub" or not np.all(np.isfinite(weights)) or np.any(weights < 0):
        raise DataError(f"{where}: {WEIGHT} must hold finite numbers >= 0", hint="weigh what to leave out with 0")
    whole = Batch(feeds)
    if weights.size == 1:
        return [Batch(feeds, float(weights.reshape(())))]
    if weights.shape != (whole.samples,):
        raise DataError(
            f"{where}: {WEIGHT} has shape {weights.shape}, expected () or ({whole.samples},)",
            hint="give one weight for the batch, or one for each sample along axis 0",
        )
    edges = [0, *(np.flatnonzero(np.diff(weights)) + 1).tolist(), len(weights)]
    return [Batch(whole.part(start, stop).feeds, float(weights[start])) for start, stop in pairwise(edges)]


def named(arrays: dict[str, Any], names: tuple[str, ...] | None) -> dict[str, Any]:
    """Gives an only array that bears a placeholder for a name to the model's only input."""
    if names is not None and len(names) == 1 and len(arrays) == 1 and arrays.keys() <= PLACEHOLDERS:
        return {names[0]: next(iter(arrays.values()))}
    return arrays


def only_input(names: tuple[str, ...] | None, where: str) -> str:
    """The name that an unnamed array gets.

    Raises:
        DataError: the model has several inputs, or their names were not given.
    """
    if names is not None and len(names) == 1:
        return names[0]
    reason = "input_names were not given" if names is None else f"the model has {len(names)} inputs: {', '.join(names)}"
    raise DataError(f"{where} has no name, and {reason}", hint="name the arrays by the model's inputs")


def to_array(value: object, where: str) -> AnyArray:
    """A numpy array of an array, a tensor (anything with `detach`), a number or nested lists of numbers.

    Raises:
        DataError: it is none of these, or holds Python objects.
    """
    try:
        detach = getattr(value, "detach", None)
        array = np.asarray(detach().cpu().numpy() if callable(detach) else value)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{where}: a {type(value).__name__} is no array of numbers ({error})",
            hint="convert it to a numpy array of float32 or an integer type",
        ) from error
    if array.dtype.hasobject:
        raise DataError(f"{where} holds Python objects, expected numbers", hint="give all rows one shape, numbers only")
    return array


def is_array(value: object) -> bool:
    """Whether a value is an array or a tensor, not a container of them."""
    return isinstance(value, np.ndarray) or callable(getattr(value, "detach", None))


def empty(name: str) -> DataError:
    """The error for a data set without samples."""
    return DataError(f"{name} has no samples", hint="give at least one; a few dozen are usual for calibration")
