"""Which scales are equal and which stay one: equations between numbered scales, solved all at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from secateur.ir.dims.carrying import NO_SCALE, Numbers, Stuck


class Scales:
    """Numbers of scales, and what has been said of them."""

    def __init__(self) -> None:
        self.count = NO_SCALE + 1
        self._pairs: list[tuple[Numbers, Numbers]] = []

    def fresh(self, shape: tuple[int, ...]) -> Numbers:
        """Numbers that nothing has been said of yet."""
        made = np.arange(self.count, self.count + int(np.prod(shape, dtype=np.int64)), dtype=np.int64).reshape(shape)
        self.count += made.size
        return made

    def equal(self, one: Numbers, other: Numbers) -> None:
        """The scales of two arrays are the same, entry by entry; an axis of size one stands for any size.

        Raises:
            Stuck: the shapes do not go together.
        """
        rank = max(one.ndim, other.ndim)
        pair = (array.reshape((1,) * (rank - array.ndim) + array.shape) for array in (one, other))
        try:
            left, right = np.broadcast_arrays(*pair)
        except ValueError:
            raise Stuck("its channels do not line up") from None
        self._pairs.append((left.reshape(-1), right.reshape(-1)))

    def stay_one(self, numbers: Numbers) -> None:
        """These scales are one."""
        self.equal(numbers, np.full((1,) * numbers.ndim, NO_SCALE, np.int64))

    def classes(self) -> NDArray[np.int64]:
        """For each number that of its class; NO_SCALE for those that stay one."""
        if not self._pairs:
            return np.arange(self.count)
        rows, columns = (np.concatenate([pair[side] for pair in self._pairs]) for side in (0, 1))
        graph = coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(self.count, self.count))
        found = connected_components(graph, directed=False)[1].astype(np.int64)
        # The class of what stays one is to have its number.
        fixed = found[NO_SCALE]
        return np.where(found == fixed, NO_SCALE, np.where(found < fixed, found + 1, found))
