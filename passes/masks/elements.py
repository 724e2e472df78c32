"""Masks of single elements: zeros in weights, and the units that nothing reads any more because of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.ir.dims.analysis import Dimensions
from secateur.ir.dims.groups import Group
from secateur.ir.node import Value
from secateur.ir.tensor import Tensor
from secateur.passes.masks.decide import Entry, Rule, combined, foldable
from secateur.passes.masks.file import is_binary
from secateur.passes.masks.fold import readers, stranger

Indices: TypeAlias = NDArray[np.int64]


def mask_weight(value: Value, entry: Entry, rule: Rule, fold: bool) -> tuple[NDArray[np.bool_], bool]:
    """Puts zeros where nothing stays; with `fold`, what stays is multiplied by its gate.

    Returns:
        which elements stay, and whether there are new numbers among them.
    """
    assert value.const is not None
    values = combined(f"the weight {value.name!r}", [entry])
    stays, numbers = rule.stays(values), value.const.numpy()
    multiplies = fold and not is_binary(values)
    zero = np.zeros((), numbers.dtype)
    made = np.where(stays, numbers, zero)
    if multiplies:
        foldable(f"the weight {value.name!r}", values[stays])
        made = np.where(stays, (numbers.astype(np.float64) * values).astype(numbers.dtype), zero)
    value.set_const(Tensor(made, value.const.dtype))
    return stays, multiplies


def unread(found: Dimensions, wanted: Collection[Group], masked: Collection[Value]) -> Iterator[tuple[Group, Indices]]:
    """The units of each group that a masked weight reads, and that no layer reads with anything but zeros."""
    for group in wanted:
        reading = list(readers(found, group))
        if not any(use.weight in masked for use, _ in reading) or stranger(found, group) is not None:
            continue
        used = np.zeros(group.size, np.bool_)
        for use, unit in reading:
            assert use.weight.const is not None
            rest = tuple(axis for axis in range(len(use.tensor.shape)) if axis != use.contracted)
            nonzero = (use.weight.const.numpy() != 0).any(axis=rest)
            used[unit[nonzero & (unit >= 0)]] = True
        if not used.all():
            yield group, np.flatnonzero(~used)
