"""A sample of the rows that a layer reads and should give, for what moments cannot tell: nonlinear repairs."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

AnyArray: TypeAlias = NDArray[Any]


class Rows:
    """Up to `limit` rows out of any number, each as likely as another: those with the smallest random keys.

    Vitter 1985, "Random sampling with a reservoir"; with keys, batches may be of any size. Equal seeds and batches give
    equal samples.
    """

    def __init__(self, limit: int, seed: tuple[int, ...]) -> None:
        self.limit = limit
        self._random = np.random.default_rng(seed)
        self._keys = np.empty(0)
        self._x: AnyArray | None = None
        self._y: AnyArray | None = None

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def x(self) -> AnyArray:
        """[n, columns] what the layer reads."""
        assert self._x is not None, "no rows came in"
        return self._x

    @property
    def y(self) -> AnyArray:
        """[n, outputs] what it should give, of the same rows."""
        assert self._y is not None, "no rows came in"
        return self._y

    def update(self, x: AnyArray, y: AnyArray) -> None:
        """Offers rows [n, columns] and [n, outputs]."""
        if not self.limit:
            return
        keys = np.concatenate([self._keys, self._random.random(len(x))])
        stays = np.sort(np.argsort(keys, kind="stable")[: self.limit])
        self._keys = keys[stays]
        self._x = _taken(self._x, x, stays)
        self._y = _taken(self._y, y, stays)


def _taken(before: AnyArray | None, after: AnyArray, stays: NDArray[np.intp]) -> AnyArray:
    if before is None:
        return after[stays]
    old = stays < len(before)
    return np.concatenate([before[stays[old]], after[stays[~old] - len(before)]])
