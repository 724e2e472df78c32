"""Who computes in which type, so that the fewest Casts are needed: a minimum cut.

Operators that must stay in float32 lie on one side, those that gain from 16 bits on the other, and all that work in
either go where they save Casts: one for each value that is made on one side and read on the other, however many read
it. Ford and Fulkerson 1956, "Maximal Flow through a Network", theorem 1: the least such number is the largest flow.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

FLOAT32, LOWER = 0, 1
"""The two sides."""
_ALWAYS = 1 << 20
"""More than there are values."""


@dataclass
class Cut:
    """Nodes are added with the values between them; `float32` then says which lie on the side of float32.

    Of several cuts with the fewest Casts it is the one with the fewest nodes there.
    """

    numbers: dict[Hashable, int] = field(default_factory=dict)
    edges: list[tuple[int, int, int]] = field(default_factory=list)
    count: int = 2

    def node(self, key: Hashable, side: int | None) -> int:
        """The number of a node; `side` where it is fixed to one."""
        if side is not None:
            return side
        if key not in self.numbers:
            self.numbers[key] = self._next()
        return self.numbers[key]

    def value(self, maker: int, readers: Iterable[int]) -> None:
        """A value from one node to others: a Cast is needed if any of them lies on the other side."""
        others = sorted({reader for reader in readers if reader != maker})
        if not others:
            return
        up, down = self._next(), self._next()
        self.edges += [(maker, up, 1), (down, maker, 1)]
        self.edges += [(up, reader, _ALWAYS) for reader in others] + [(reader, down, _ALWAYS) for reader in others]

    def _next(self) -> int:
        self.count += 1
        return self.count - 1

    def float32(self, keys: Sequence[Hashable]) -> set[Hashable]:
        """Which of the nodes without a fixed side are on that of float32."""
        if not self.edges:
            return set()
        sources, targets, capacities = (np.array(column, np.int32) for column in zip(*self.edges, strict=True))
        capacity: Any = csr_matrix((capacities, (sources, targets)), shape=(self.count, self.count))
        flow = maximum_flow(capacity, FLOAT32, LOWER).flow
        left = capacity - flow
        left.data = np.where(left.data > 0, left.data, 0)
        left.eliminate_zeros()
        reached = set(breadth_first_order(left, FLOAT32, return_predecessors=False).tolist())
        return {key for key in keys if self.numbers.get(key) in reached}
