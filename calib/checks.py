"""Does a batch fit the model's inputs? A misfit is one `DataError`: source, array, expected, found, remedy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from secateur.calib.batches import AnyArray, Batch, Source
from secateur.calib.finite import count_bad
from secateur.ir.errors import DataError

#: The model's inputs: dtype, and each dimension as a number, a symbol that has one value in a batch, or None for any.
Signature: TypeAlias = Mapping[str, tuple[np.dtype[Any], Sequence[int | str | None]]]


def fixed_batch_size(signature: Signature) -> int | None:
    """What every input of rank >= 1 fixes axis 0, the batch, to; None where it is free or the inputs disagree."""
    sizes = {dims[0] for _, dims in signature.values() if len(dims)}
    size = sizes.pop() if len(sizes) == 1 else None
    return size if isinstance(size, int) else None


def check_batch(batch: Batch, signature: Signature, source_name: str, index: int | None = None) -> Batch:
    """The batch with its arrays in the order and the dtypes of `signature`.

    Floating types are cast to each other, integers only to wider ones, so that no value changes its meaning.

    Args:
        batch: what the source gave.
        signature: the model's inputs.
        source_name: what error messages call the data.
        index: which batch it is, for error messages.

    Raises:
        DataError: an array is missing, unknown, empty, of the wrong rank, size or dtype, or holds NaN or infinity.
    """
    where = source_name if index is None else f"{source_name}, batch {index}"
    missing = [name for name in signature if name not in batch.feeds]
    unknown = [name for name in batch.feeds if name not in signature]
    if missing or unknown:
        parts = [f"lacks {', '.join(missing)}"] if missing else []
        parts += [f"has {', '.join(unknown)}, which is no input"] if unknown else []
        raise DataError(
            f"{where} {' and '.join(parts)}; expected {', '.join(signature)}",
            hint="name the arrays by the model's inputs, and give each input one",
        )
    symbols: dict[str, tuple[int, str]] = {}
    feeds: dict[str, AnyArray] = {}
    for name, (dtype, dims) in signature.items():
        array, place = batch.feeds[name], f"{where}: array {name!r}"
        _check_shape(array, dims, symbols, place)
        feeds[name] = _cast(array, np.dtype(dtype), place)
    return Batch(feeds, batch.weight)


def checked(source: Source, signature: Signature) -> Source:
    """The same source with `check_batch` applied to each batch as it comes."""
    return _Checked(source, signature)


class _Checked:
    def __init__(self, source: Source, signature: Signature) -> None:
        self.name = source.name
        self._source = source
        self._signature = signature

    def __iter__(self) -> Iterator[Batch]:
        for index, batch in enumerate(self._source):
            yield check_batch(batch, self._signature, self.name, index)


def _check_shape(
    array: AnyArray, dims: Sequence[int | str | None], symbols: dict[str, tuple[int, str]], place: str
) -> None:
    expected = "[" + ", ".join("?" if dim is None else str(dim) for dim in dims) + "]"
    if array.ndim != len(dims):
        raise DataError(
            f"{place} has shape {list(array.shape)}, expected rank {len(dims)} as in {expected}",
            hint="axis 0 is the batch: add it to a single sample with array[None]",
        )
    if array.size == 0:
        raise DataError(f"{place} is empty: shape {list(array.shape)}", hint="give at least one sample in each batch")
    for axis, (size, dim) in enumerate(zip(array.shape, dims, strict=True)):
        if isinstance(dim, int) and size != dim:
            options = f"batch_size={dim}" + (", drop_last=True" if dim > 1 else "")
            batch = f"the model's batch is fixed: cut the data to it ({options})"
            raise DataError(
                f"{place} has size {size} on axis {axis}, expected {dim}: {list(array.shape)} for {expected}",
                hint=batch if axis == 0 else "resize or pad the data as the model's preprocessing does",
            )
        if isinstance(dim, str):
            known, other = symbols.setdefault(dim, (size, f"axis {axis} of {place}"))
            if size != known:
                raise DataError(
                    f"{place} has size {size} on axis {axis}, but dimension {dim!r} is {known} by {other}",
                    hint=f"give all arrays of a batch the same {dim!r}",
                )


def _cast(array: AnyArray, dtype: np.dtype[Any], place: str) -> AnyArray:
    floating = _is_floating(array.dtype)
    if floating and (bad := count_bad(array)):
        raise DataError(
            f"{place} has {bad} of {array.size} values that are NaN or infinite",
            hint="remove or repair these samples: one such value spoils every statistic",
        )
    if array.dtype == dtype:
        return array
    widening = array.dtype.kind in "iu" and dtype.kind in "iu" and np.can_cast(array.dtype, dtype, "safe")
    if not widening and not (floating and _is_floating(dtype)):
        raise DataError(
            f"{place} is {array.dtype}, expected {dtype}",
            hint=f"convert it as the model's preprocessing does, then array.astype('{dtype}')",
        )
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    if floating and count_bad(cast):
        raise DataError(
            f"{place} has values beyond the range of {dtype}, up to {np.abs(array).max():g}",
            hint="scale the data as the model's preprocessing does",
        )
    return cast


def _is_floating(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype.name == "bfloat16"
