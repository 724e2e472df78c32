"""Where the indices of a dimension lie side by side in what N:M masks look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateur.ir.dims.algebra import owners
from secateur.ir.dims.analysis import Dimensions
from secateur.ir.dims.axes import Use
from secateur.ir.dims.groups import Group
from secateur.passes.sparsify.spots import Spot


@dataclass(frozen=True)
class Window:
    """A weight that masks will be cut from, and where on its input channels the whole dimension lies, in order.

    Attributes:
        starts: the channels at which it begins; more than one where it is repeated, as the width of a head is.
    """

    spot: Spot
    starts: tuple[int, ...]
    size: int

    def cut(self, saliency: NDArray[np.floating]) -> NDArray[np.floating]:
        """[rows, size] of the saliency [outputs, columns] of one matrix, columns with input channels fastest."""
        rows = saliency.reshape(-1, self.spot.channels)
        return np.concatenate([rows[:, start : start + self.size] for start in self.starts])


def windows_of(dimensions: Dimensions, group: Group, spots: Sequence[Spot], neighbours: int) -> list[Window]:
    """The weights whose masks depend on the order of a group. Its size is a multiple of `neighbours`."""
    found = []
    for spot in spots:
        use = spot.use
        layouts = dimensions.layouts.get(Use(use.op, use.port))
        if layouts is None or use.groups > 1 or len(layouts) <= use.contracted:
            continue
        owner = owners(layouts[use.contracted], group.dim)
        starts = _starts(owner, group.size, neighbours)
        if starts:
            found.append(Window(spot, starts, group.size))
    return found


def _starts(owner: NDArray[np.int64], size: int, neighbours: int) -> tuple[int, ...]:
    """Where 0, 1, ..., size - 1 follow each other; nothing where they also lie otherwise, or across masks' groups."""
    starts = np.flatnonzero(owner == 0)
    if (starts % neighbours).any() or np.count_nonzero(owner >= 0) != size * len(starts):
        return ()
    ordered = all(np.array_equal(owner[start : start + size], np.arange(size)) for start in starts)
    return tuple(int(start) for start in starts) if ordered else ()
