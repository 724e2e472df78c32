"""Which units a layer can best do without, one after another: exact greedy OBS in about the time of one inversion.

The error of removing unit S now (see `obs`) is tr(P_SS^-1 K_SS), with P = H^-1 and K = W^T W as they are by then. So
the choice needs no weights, only P and K [d, d], however many outputs there are. Removing S changes both by a few
outer products of columns: with L L^T = P_SS and u = P_:S L^-T

    P <- P - u u^T        K <- K - a u^T - u a^T        a = K_:S L^-T - u (L^-1 K_SS L^-T) / 2

These are kept back in a panel and applied many at a time, as blocked factorisations do (LAPACK's `dpstrf`); only the
columns that are about to go, and the diagonal blocks that the costs are made of, are brought up to date at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_triangular
from scipy.linalg.blas import dgemm, dsyr2k, dsyrk

from secateur.calib.solvers.least_squares import Indices

Array: TypeAlias = npt.NDArray[np.float64]

#: Columns that a panel keeps back before it is applied.
_PANEL = 64
#: Removed columns are dropped from the matrices once this share of them is left.
_DENSE = 0.8


class Surgeon:
    """One layer in the course of its units' removal: what each of those that are left would cost.

    Attributes:
        share: what an error in this layer counts, where several layers lose the same units.
        live: [u] which units are still there.
    """

    def __init__(
        self,
        weight: Array,
        inverse: Array,
        units: Sequence[npt.ArrayLike],
        share: float = 1.0,
        pull: Array | None = None,
    ) -> None:
        """Starts with all units there.

        Args:
            weight: [n, d] weights.
            inverse: [d, d] H^-1, see `obs.damped_inverse`.
            units: for each unit its columns; any number of them, none too. Columns in no unit stay and compensate.
            share: see above.
            pull: [n, d] correlation of the outputs with the inputs, W H; only `alignment` needs it.
        """
        members = [np.asarray(unit, dtype=np.intp).reshape(-1) for unit in units]
        self.share = share
        self.live = np.ones(len(members), dtype=bool)
        self._count = np.array([len(unit) for unit in members], dtype=np.intp)
        width, longest = len(inverse), int(self._count.max(initial=1))
        # Short units are filled up with a column that is not there, the last one of each panel.
        self._at = np.full((len(members), longest), width)
        for row, unit in zip(self._at, members, strict=True):
            row[: len(unit)] = unit
        self._present = np.ones(width, dtype=bool)
        # Of these two only the lower triangle is kept, column-major, so that BLAS adds to it in place.
        self._inverse: Array = np.array(inverse.T, dtype=np.float64, order="F")
        self._energy: Array = dsyrk(1.0, weight.T, lower=1)
        self._pull: Array | None = None if pull is None else np.asfortranarray(pull.T @ weight)
        self._blocks = self._gather(self._inverse, fill=1.0)
        self._energies = self._gather(self._energy, fill=0.0)
        self._aligned = np.zeros((len(members), longest))
        if self._pull is not None:
            self._aligned = np.append(self._pull.diagonal(), 0.0)[self._at]
        self._clear(max(_PANEL, longest))

    def _gather(self, matrix: Array, fill: float) -> Array:
        """[u, s, s] the diagonal blocks, from the lower triangle; `fill` on the diagonal of columns not there."""
        width = len(matrix)
        inside = self._at < width
        at = np.where(inside, self._at, 0)
        rows, columns = at[:, :, None], at[:, None, :]
        blocks = matrix[np.maximum(rows, columns), np.minimum(rows, columns)]
        blocks *= inside[:, :, None] & inside[:, None, :]
        np.einsum("uss->us", blocks)[~inside] = fill
        return blocks

    def _clear(self, capacity: int) -> None:
        # The last row stays zero: it belongs to the column that is not there.
        rows = len(self._inverse) + 1
        self._u, self._a, self._y = (np.zeros((rows, capacity), order="F") for _ in range(3))
        self._kept_back = 0

    def costs(self) -> Array:
        """[u] the least error that removing each unit now brings, times `share`; of those gone, infinity."""
        if self._at.shape[1] == 1:
            found = self._energies[:, 0, 0] / self._blocks[:, 0, 0]
        else:
            found = np.full(len(self.live), np.inf)
            solved = np.linalg.solve(self._blocks[self.live], self._energies[self.live])
            found[self.live] = np.einsum("uss->u", solved)
        return self._masked(np.maximum(found, 0.0))

    def costs_by_column(self) -> Array:
        """[u] the sum over each unit's columns of ||w||^2 / L_ii^2 with L L^T = P_SS, times `share`.

        As `costs` where units are single columns; else blind to how the columns of a unit make up for each other.
        """
        pivots = np.ones(self._at.shape)
        pivots[self.live] = np.einsum("uss->us", np.linalg.cholesky(self._blocks[self.live])) ** 2
        return self._masked(np.sum(np.einsum("uss->us", self._energies) / pivots, axis=1))

    def alignment(self) -> Array:
        """[u] the inner product of what each unit contributes now with all the layer gave at first, times `share`."""
        return np.where(self.live, self.share * self._aligned.sum(axis=1), np.inf)

    def _masked(self, found: Array) -> Array:
        return np.where(self.live, self.share * found, np.inf)

    def remove(self, unit: int) -> float:
        """Removes a unit; gives the error that this brings, times `share`."""
        columns = self._at[unit, : self._count[unit]]
        self.live[unit] = False
        if not len(columns):
            return 0.0
        start, end = self._kept_back, self._kept_back + len(columns)
        if end > self._u.shape[1]:
            self._apply()
            columns = self._at[unit, : self._count[unit]]
            start, end = 0, len(columns)
        done = slice(0, start)
        past, past_a = self._u[columns, done].T, self._a[columns, done].T
        inverse = _symmetric(self._inverse, columns) - self._u[:-1, done] @ past
        energy = _symmetric(self._energy, columns) - self._a[:-1, done] @ past - self._u[:-1, done] @ past_a
        factor = _factor(inverse[columns])
        u, a = _whitened(factor, inverse), _whitened(factor, energy)
        inner = _evened(_whitened(factor, a[columns].T))
        a -= u @ inner / 2
        self._present[columns] = False
        self._keep_back(slice(start, end), u, a)
        if self._pull is not None:
            pull = self._pull[:, columns] - self._y[:-1, done] @ past
            self._y[:-1, start:end] = _whitened(factor, pull)
            self._aligned -= np.einsum("usk,usk->us", self._y[:, start:end][self._at], self._u[:, start:end][self._at])
        return self.share * max(0.0, float(np.trace(inner)))

    def _keep_back(self, new: slice, u: Array, a: Array) -> None:
        self._u[:-1, new] = u * self._present[:, None]
        self._a[:-1, new] = a * self._present[:, None]
        self._kept_back = new.stop
        u_blocks, a_blocks = self._u[:, new][self._at], self._a[:, new][self._at]
        if self._at.shape[1] == 1:
            self._blocks[:, 0, 0] -= np.einsum("usk,usk->u", u_blocks, u_blocks)
            self._energies[:, 0, 0] -= 2 * np.einsum("usk,usk->u", a_blocks, u_blocks)
            return
        self._blocks -= u_blocks @ np.moveaxis(u_blocks, 1, 2)
        crossed = a_blocks @ np.moveaxis(u_blocks, 1, 2)
        self._energies -= crossed + np.moveaxis(crossed, 1, 2)

    def _apply(self) -> None:
        """Brings the matrices up to date, and drops removed columns once they are many."""
        used = slice(0, self._kept_back)
        u, a = np.asfortranarray(self._u[:-1, used]), np.asfortranarray(self._a[:-1, used])
        self._inverse = dsyrk(-1.0, u, beta=1.0, c=self._inverse, lower=1, overwrite_c=1)
        self._energy = dsyr2k(-1.0, a, u, beta=1.0, c=self._energy, lower=1, overwrite_c=1)
        if self._pull is not None:
            y = np.asfortranarray(self._y[:-1, used])
            self._pull = dgemm(-1.0, y, u, trans_b=1, beta=1.0, c=self._pull, overwrite_c=1)
        present = np.flatnonzero(self._present)
        if len(present) < _DENSE * len(self._inverse):
            self._drop(present)
        self._clear(self._u.shape[1])

    def _drop(self, present: Indices) -> None:
        place = np.full(len(self._inverse) + 1, len(present))
        place[present] = np.arange(len(present))
        self._at = place[self._at]
        self._inverse, self._energy = _square(self._inverse, present), _square(self._energy, present)
        if self._pull is not None:
            self._pull = _square(self._pull, present)
        self._present = np.ones(len(present), dtype=bool)


Score: TypeAlias = Callable[[Surgeon], Array]
"""[u] what speaks for keeping each unit of one layer, times the layer's share; infinity for those gone."""


def remove_greedily(
    surgeons: Sequence[Surgeon],
    count: int,
    score: Score = Surgeon.costs,
    rounds: Iterable[int] | None = None,
) -> tuple[Indices, Array]:
    """Removes the units whose scores, summed over all layers, are lowest: (their numbers in order, errors).

    The errors are those that each removal adds, after those before it and with everything made up for, whatever the
    score was.

    Args:
        surgeons: the layers that lose the units; they are changed.
        count: how many units go.
        score: by what they are judged.
        rounds: how many go before all are judged anew, round by round; None judges after each.

    Raises:
        ValueError: there are not so many units.
    """
    size = len(surgeons[0].live)
    if not 0 <= count <= size:
        raise ValueError(f"count must be within 0..{size}, got {count}")
    order: list[int] = []
    errors: list[float] = []
    sizes = iter(rounds) if rounds is not None else iter(lambda: 1, 0)
    while len(order) < count:
        batch = min(max(1, next(sizes, 1)), count - len(order))
        scores = np.sum([score(surgeon) for surgeon in surgeons], axis=0)
        # The lowest, of equals the later one.
        cheapest = [len(scores) - 1 - int(np.argmin(scores[::-1]))] if batch == 1 else _lowest(scores, batch)
        for unit in cheapest:
            order.append(unit)
            errors.append(sum(surgeon.remove(unit) for surgeon in surgeons))
    return np.array(order, dtype=np.intp), np.array(errors, dtype=np.float64)


def _lowest(scores: Array, count: int) -> list[int]:
    reverse = np.argsort(scores[::-1], kind="stable")[:count]
    return [int(index) for index in len(scores) - 1 - reverse]


def _symmetric(lower: Array, columns: Indices) -> Array:
    """[d, s] columns of a symmetric matrix whose lower triangle is kept."""
    taken = np.empty((len(lower), len(columns)), order="F")
    for index, column in enumerate(columns):
        taken[:column, index] = lower[column, :column]
        taken[column:, index] = lower[column:, column]
    return taken


def _square(matrix: Array, kept: Indices) -> Array:
    """The rows and columns of a column-major matrix that are kept, column-major."""
    smaller = np.empty((len(kept), len(kept)), order="F")
    for into, column in enumerate(kept):
        np.take(matrix[:, column], kept, out=smaller[:, into], mode="clip")
    return smaller


def _factor(block: Array) -> Array:
    """The lower Cholesky factor."""
    return np.asarray(np.sqrt(block) if len(block) == 1 else np.linalg.cholesky(_evened(block)))


def _whitened(factor: Array, columns: Array) -> Array:
    """[d, s] columns times L^-T for a factor L [s, s]."""
    if len(factor) == 1:
        return np.asarray(columns / factor[0, 0])
    return np.asarray(solve_triangular(factor, columns.T, lower=True, check_finite=False).T)


def _evened(block: Array) -> Array:
    return (block + block.T) / 2
