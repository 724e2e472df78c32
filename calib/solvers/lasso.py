"""Which input channels a layer can do without: LASSO on Gram matrices, solved for the number of channels wanted.

He, Zhang and Sun 2017, "Channel Pruning for Accelerating Very Deep Neural Networks", section 3.1: give each input
channel i of a layer a gate beta_i on its contribution Z_i = X_i W_i^T to the output, and let an L1 penalty close gates,

    minimise (1 / 2M) ||Y - sum_i beta_i Z_i||^2 + alpha |beta|_1        M = rows * outputs, as in scikit-learn

The data enters only through A_ij = <Z_i, Z_j> and a_i = <Z_i, Y>, and those only through the Gram matrix of the layer's
inputs: the cost does not grow with the samples, and sums over several layers are those of solving them jointly.

The paper searches for an alpha that leaves the right number of gates open. Here the path of all solutions is followed
from the alpha where none is (Osborne, Presnell and Turlach 2000, "A new approach to variable selection in least squares
problems"; Efron et al. 2004, "Least Angle Regression", section 3). On it gates open and close one at a time, so that
any number is met exactly, and a whole path costs about as much as one run of coordinate descent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.linalg.blas import dsymv, dsyr

from secateur.calib.solvers.least_squares import Indices, solve_positive

Array: TypeAlias = npt.NDArray[np.float64]

#: A channel may not open if the open ones explain all but this share of its contribution.
_COLLINEAR = 1e-10
#: Bytes of products of weights that `lasso_terms` holds at a time.
_CHUNK_BYTES = 1 << 25


@dataclass(frozen=True)
class LassoTerms:
    """What the LASSO over c gates b needs to know: it minimises (b^T A b - 2 a^T b + energy) / 2M + alpha |b|_1.

    Attributes:
        quadratic: A [c, c], inner products of the contributions.
        linear: a [c], inner products of contributions and target.
        energy: ||Y||^2.
        scale: M.
    """

    quadratic: Array
    linear: Array
    energy: float
    scale: float

    @property
    def alpha_max(self) -> float:
        """The smallest alpha for which all gates are closed."""
        return float(np.max(np.abs(self.linear), initial=0.0)) / self.scale

    def tied(self, unit: npt.ArrayLike) -> LassoTerms:
        """The terms of gates that several channels share: channel i has gate `unit[i]`, gates numbered from 0."""
        gates = np.asarray(unit, dtype=np.intp)
        if gates.shape != self.linear.shape:
            raise ValueError(f"units of shape {gates.shape} for {len(self.linear)} channels")
        if np.array_equal(gates, np.arange(len(gates))):
            return self
        membership = np.zeros((len(gates), int(gates.max()) + 1))
        membership[np.arange(len(gates)), gates] = 1.0
        quadratic = membership.T @ self.quadratic @ membership
        return LassoTerms(quadratic, membership.T @ self.linear, self.energy, self.scale)


def lasso_terms(xx: Array, xy: Array, yy: Array, count: float, weight: Array) -> LassoTerms:
    """The terms of one layer, one gate for each of its c input channels of t kernel taps.

    Args:
        xx: [c * t, c * t] Gram of the layer's inputs; centred, so that the layer's bias adapts.
        xy: [c * t, n] inputs with targets, centred likewise.
        yy: [n] sums of squares of the targets.
        count: how many rows the sums are of.
        weight: [n, c, *kernel] ONNX weight of the layer (of one group of it).

    Raises:
        ValueError: the shapes do not fit.
    """
    outputs, channels = weight.shape[:2]
    flat = weight.reshape(outputs, -1).astype(np.float64)
    width = flat.shape[1]
    if xx.shape != (width, width) or xy.shape != (width, outputs) or yy.shape != (outputs,):
        raise ValueError(f"sums of shapes {xx.shape}, {xy.shape}, {yy.shape} do not fit a weight of {weight.shape}")
    taps = width // channels
    quadratic = np.empty((channels, channels))
    step = max(1, _CHUNK_BYTES // (8 * taps * width))
    for start in range(0, channels, step):
        rows = slice(start * taps, (start + step) * taps)
        products = (flat[:, rows].T @ flat) * xx[rows]
        quadratic[start : start + step] = products.reshape(-1, taps, channels, taps).sum(axis=(1, 3))
    linear = np.einsum("dn,nd->d", xy, flat).reshape(channels, taps).sum(axis=1)
    return LassoTerms(quadratic, linear, float(np.sum(yy)), float(count) * outputs)


def joined(terms: Sequence[LassoTerms]) -> LassoTerms:
    """The terms of several layers that read the same channels, each as important as its target is large."""
    if any(term.energy <= 0 for term in terms):
        raise ValueError("a layer's target is zero everywhere: it has no say in which channels to keep")
    quadratic = np.sum([term.quadratic / term.energy for term in terms], axis=0)
    linear = np.sum([term.linear / term.energy for term in terms], axis=0)
    return LassoTerms(quadratic, linear, float(len(terms)), float(len(terms)))


@dataclass(frozen=True)
class LassoSelection:
    """The channels that stay, in rising order; the gates [c], zero for the others; and the alpha that gives them."""

    kept: Indices
    beta: Array
    alpha: float


def lasso_channels(terms: LassoTerms, keep: int) -> LassoSelection:
    """The `keep` channels that the LASSO opens first as alpha falls; alpha is amid those that open just them, or 0.

    Where the open channels already give the target, so that the LASSO never opens `keep` of them, those that
    contribute most by themselves are added, with gates of zero.

    Raises:
        ValueError: `keep` is not within 1..c.
    """
    channels = len(terms.linear)
    if not 1 <= keep <= channels:
        raise ValueError(f"keep must be within 1..{channels}, got {keep}")
    segment = _first(_path(terms), lambda segment: len(segment.support) == keep)
    by_size = np.argsort(-terms.quadratic.diagonal(), kind="stable")
    if segment is None:
        return LassoSelection(np.sort(by_size[:keep]), np.zeros(channels), terms.alpha_max)
    added = by_size[~np.isin(by_size, segment.support)][: keep - len(segment.support)]
    kept = np.sort(np.concatenate([segment.support, added]))
    # At the lower end, unless it is zero, another gate opens or one of these closes.
    amid = len(segment.support) == keep and segment.low > 0
    penalty = (segment.high + segment.low) / 2 if amid else segment.low
    return LassoSelection(kept, segment.solution(terms, penalty), penalty / terms.scale)


def lasso(terms: LassoTerms, alpha: float) -> Array:
    """The gates [c] that minimise the objective for a given alpha >= 0."""
    if alpha < 0:
        raise ValueError(f"alpha must be >= 0, got {alpha}")
    penalty = alpha * terms.scale
    segment = None if alpha >= terms.alpha_max else _first(_path(terms), lambda segment: segment.low <= penalty)
    return np.zeros(len(terms.linear)) if segment is None else segment.solution(terms, max(penalty, segment.low))


@dataclass(frozen=True)
class _Segment:
    """A piece of the path, for low <= penalty <= high, on which the same gates are open with the same signs."""

    support: Indices
    signs: Array
    high: float
    low: float

    def solution(self, terms: LassoTerms, penalty: float) -> Array:
        """[c] the gates, solved anew: no rounding of the walk so far is in them."""
        gates = np.zeros(len(terms.linear))
        gram = terms.quadratic[np.ix_(self.support, self.support)]
        open_gates = solve_positive(gram, (terms.linear[self.support] - penalty * self.signs)[:, None])[:, 0]
        # A gate of the other sign is one at zero, rounded.
        gates[self.support] = np.where(open_gates * self.signs > 0, open_gates, 0.0)
        return gates


def _first(path: Iterator[_Segment], wanted: Callable[[_Segment], bool]) -> _Segment | None:
    """The first segment that is wanted, or the last one if none is; None if the path has none."""
    segment = None
    for segment in path:
        if wanted(segment):
            break
    return segment


def _path(terms: LassoTerms) -> Iterator[_Segment]:
    """The solutions for penalty = alpha * scale from where all gates are closed down to zero.

    On a segment with open gates S and signs s, the gates are u - penalty * v with u = A_SS^-1 a_S, v = A_SS^-1 s, and
    gate j stays closed while its correlation with what is left of the target, r_j + penalty * g_j, is below the
    penalty, where r = a - A_S u and g = A_S v.
    """
    tableau = _Tableau(terms)
    largest = np.abs(terms.linear)
    if not largest.any():
        return
    penalty = float(largest.max())
    signs = np.zeros(len(largest))
    entering = int(largest.argmax())
    tableau.sweep(entering)
    signs[entering] = np.sign(terms.linear[entering])
    left: tuple[int, float] | None = None
    for _ in range(16 * len(largest)):
        is_open = signs != 0
        value, slope = tableau.column(), tableau.times(signs)
        # Below these penalties a gate would open with sign + or -, or an open one would change its sign.
        events = np.zeros((3, len(signs)))
        may_open = ~is_open & tableau.independent()
        for row, sign in enumerate((1.0, -1.0)):
            towards = may_open & (sign * value > 0) & (1 - sign * slope > 0)
            # The gate that has just closed is at this bound, and would open again by rounding.
            if left is not None and left[1] == sign:
                towards[left[0]] = False
            events[row, towards] = sign * value[towards] / (1 - sign * slope[towards])
        shrinking = is_open & (signs * slope > 0) & (signs * value < 0)
        events[2, shrinking] = -value[shrinking] / slope[shrinking]
        kind, index = np.unravel_index(int(events.argmax()), events.shape)
        low = min(float(events[kind, index]), penalty)
        yield _Segment(np.flatnonzero(is_open), signs[is_open], penalty, low)
        if low <= 0:
            return
        penalty = low
        left = (int(index), float(signs[index])) if kind == 2 else None
        signs[index] = 0.0 if kind == 2 else (1.0, -1.0)[kind]
        tableau.sweep(int(index))


class _Tableau:
    """[[A, a], [a^T, energy]] swept on the open gates S: regression on them is read off.

    Goodnight 1979, "A tutorial on the SWEEP operator". With N the closed gates, the blocks hold

        SS: -A_SS^-1       SN: A_SS^-1 A_SN              last column, S: u = A_SS^-1 a_S
                           NN: A_NN - A_NS A_SS^-1 A_SN  last column, N: a_N - A_NS u

    A sweep on an open gate closes it. Only the lower triangle is kept.
    """

    def __init__(self, terms: LassoTerms) -> None:
        size = len(terms.linear)
        self._table: Array = np.zeros((size + 1, size + 1), order="F")
        self._table[:size, :size] = np.tril(terms.quadratic)
        self._table[size, :size] = terms.linear
        self._table[size, size] = terms.energy
        self._diagonal = terms.quadratic.diagonal().copy()
        self._open = np.zeros(size, dtype=bool)

    def sweep(self, index: int) -> None:
        """Opens gate `index`, or closes it if it is open."""
        table = self._table
        column = np.concatenate([table[index, :index], table[index:, index]])
        pivot = float(column[index])
        self._table = table = dsyr(-1.0 / pivot, column, lower=1, a=table, overwrite_a=1)
        column /= -pivot if self._open[index] else pivot
        column[index] = -1.0 / pivot
        table[index, :index], table[index:, index] = column[:index], column[index:]
        self._open[index] = not self._open[index]

    def column(self) -> Array:
        """[c] the unpenalised gate u where open, the correlation r with what is left of the target where closed."""
        return self._table[-1, :-1].copy()

    def times(self, signs: Array) -> Array:
        """[c] the tableau times signs (zero for closed gates): -v where open, g where closed."""
        product: Array = dsymv(1.0, self._table, np.append(signs, 0.0), lower=1)
        return product[:-1]

    def independent(self) -> npt.NDArray[np.bool_]:
        """[c] which gates contribute something that the open ones do not."""
        left = self._table.diagonal()[:-1]
        flags: npt.NDArray[np.bool_] = left > _COLLINEAR * self._diagonal
        return flags
