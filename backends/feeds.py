"""Arrays and the inputs that they are for: names, element types and shapes, checked alike by every runner."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from secateur.ir import DataType, TensorType, Value
from secateur.ir.errors import DataError


def matched(feeds: Mapping[str, NDArray[Any]], inputs: Sequence[Value]) -> Iterator[tuple[NDArray[Any], Value]]:
    """Each array with the input that it is for.

    Raises:
        DataError: one is missing where the input has no default, or is for no input.
    """
    by_name = {value.name: value for value in inputs}
    missing = [name for name, value in by_name.items() if name not in feeds and value.const is None]
    unknown = [name for name in feeds if name not in by_name]
    if missing or unknown:
        parts = [f"lack {', '.join(missing)}"] if missing else []
        parts += [f"have {', '.join(unknown)}, which is no input"] if unknown else []
        raise DataError(
            f"the feeds {' and '.join(parts)}; expected {', '.join(by_name)}",
            hint="name the arrays by the inputs, and give each input one",
        )
    return ((array, by_name[name]) for name, array in feeds.items())


def check(array: NDArray[Any], value: Value) -> None:
    """Nothing where an array fits its input.

    Raises:
        DataError: it has another dtype, rank or size than the input says.
    """
    kind = value.type
    if not isinstance(kind, TensorType):
        return
    found = f"{array.dtype}{list(array.shape)}"
    if array.dtype != kind.dtype.numpy and not (kind.dtype is DataType.STRING and array.dtype.kind in "OUS"):
        raise DataError(
            f"input {value.name!r} takes {kind}, got {found}",
            hint=f"convert it as the model's preprocessing does, then array.astype('{kind.dtype.numpy}')",
        )
    if kind.shape is None:
        return
    fits = array.ndim == len(kind.shape) and all(
        not isinstance(dim, int) or dim == size for dim, size in zip(kind.shape, array.shape, strict=True)
    )
    if not fits:
        raise DataError(f"input {value.name!r} takes {kind}, got {found}", hint="axis 0 is the batch, as a rule")
