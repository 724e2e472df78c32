"""Second moments of what a layer reads, and of that with what it should give: all that linear repair needs of the data.

One `Gram` of width d replaces any number of samples by d x d numbers. It is built up batch by batch, and two of them,
from different shards of the data, merge into the one of both.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.linalg.blas import dsymm

from secateur.calib.product_sums import ProductSum
from secateur.calib.row_sums import Sums, sums_of
from secateur.ir.errors import DataError

Array: TypeAlias = npt.NDArray[np.float64]
_T = TypeVar("_T")

#: Columns that are mirrored at once, so that they stay in the cache.
_STRIP = 128
#: Bytes of rows that one rank-k update converts at a time.
_CHUNK_BYTES = 1 << 25

#: From this width and so many rows on, products of inputs that are not float64 are made in float32.
_SINGLE_WIDTH, _SINGLE_ROWS = 512, 256


@dataclass(frozen=True)
class Moments:
    """Sums over all rows, each times its weight, of products of inputs x[d] and targets y[m].

    About zero (`Gram.raw`), or about the means (`Gram.centered`), which is what a solution with an intercept needs.
    """

    #: Sum of the weights.
    count: float
    #: [d, d] sum of x x^T.
    xx: Array
    #: [d, m] sum of x y^T.
    xy: Array
    #: [m] sum of y^2.
    yy: Array


class Gram:
    """Streaming second moments of rows x[d], and of rows y[m] that belong to them.

    Sums are kept in float64 about the running means (Chan, Golub and LeVeque 1983, "Algorithms for computing the sample
    variance", section 2), so that inputs far from zero lose no digits when they are centred. Batches in any order and
    of any size, and any tree of merges, give the same moments up to rounding: that of float64, but for many wide rows
    of a lesser type. Their deviations are multiplied in float32 and summed in it for some thousand rows
    (`secateur.calib.product_sums`), which is faster and leaves errors of about 1e-7 of sqrt(xx_ii xx_jj), a few times
    that at worst, as float32 inputs have themselves.

    Args:
        exact: multiply in float64 whatever comes.

    Attributes:
        width: d, the columns of x.
        target_width: m, the columns of y; 0 without targets.
        rows: how many rows came in.
        count: the sum of their weights.
        mean: [d] weighted mean of x.
        target_mean: [m] weighted mean of y.
        absmax: [d] largest |x| of each column, whatever its weight.
        absmean: [d] weighted mean of |x|.
    """

    def __init__(self, width: int, target_width: int = 0, *, exact: bool = False) -> None:
        if width < 1 or target_width < 0:
            raise ValueError(f"a Gram needs width >= 1 and target_width >= 0, got {width} and {target_width}")
        self.width = width
        self.target_width = target_width
        self.exact = exact
        self.rows = 0
        self.count = 0.0
        self.mean: Array = np.zeros(width)
        self.target_mean: Array = np.zeros(target_width)
        self.absmax: Array = np.zeros(width)
        self.absmean: Array = np.zeros(width)
        # What readers of the same inputs derive from these; None while nobody shares them.
        self._derived: dict[Hashable, Any] | None = None
        # About the means. Of X^T X only the lower triangle is kept.
        self._squares = ProductSum(width)
        self._products = ProductSum(width, target_width)
        self._yy: Array = np.zeros(target_width)

    def update(self, x: npt.ArrayLike, y: npt.ArrayLike | None = None, weight: float | Array = 1.0) -> None:
        """Adds rows.

        Args:
            x: [n, d] inputs, any real dtype.
            y: [n, m] targets of the same rows; None if and only if `target_width` is 0.
            weight: what each of the rows counts, >= 0; one number, or [n] of them.

        Raises:
            DataError: x or y holds NaN or infinity; nothing is added then.
            ValueError: the shapes do not fit.
        """
        inputs = _rows(x, self.width, "x")
        targets = np.zeros((len(inputs), 0)) if y is None else _rows(y, self.target_width, "y")
        if targets.shape != (len(inputs), self.target_width):
            raise ValueError(f"y has shape {targets.shape}, expected {(len(inputs), self.target_width)}")
        weights = np.broadcast_to(np.asarray(weight, np.float64), len(inputs))
        if not np.all(np.isfinite(weights) & (weights >= 0)):
            raise DataError(f"a batch has weight {weight}, expected finite numbers >= 0")
        single = self._is_single(inputs, targets)
        step = max(1, _CHUNK_BYTES // ((4 if single else 8) * (self.width + self.target_width)))
        parts = [slice(start, start + step) for start in range(0, len(inputs), step)]
        # All are looked at before the first is added: a NaN leaves things as they were.
        sums = [
            (
                sums_of(inputs[part], weights[part], "x", single=single),
                sums_of(targets[part], weights[part], "y", single=single),
            )
            for part in parts
        ]
        for part, (of_inputs, of_targets) in zip(parts, sums, strict=True):
            self._add(inputs[part], targets[part], weights[part], of_inputs, of_targets, single)

    def _is_single(self, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> bool:
        """Whether float32 products are exact enough, and enough to be worth adding them up apart."""
        coarse = all(one.dtype.itemsize <= 4 or not one.size for one in (x, y))
        return coarse and not self.exact and self.width >= _SINGLE_WIDTH and len(x) >= _SINGLE_ROWS

    def _add(
        self, x: npt.NDArray[Any], y: npt.NDArray[Any], weights: Array, of_x: Sums, of_y: Sums, single: bool
    ) -> None:
        np.maximum(self.absmax, of_x.absmax, out=self.absmax)
        self.rows += len(x)
        count = float(weights.sum())
        if not count:
            return
        dtype = np.float32 if single else np.float64
        self.absmean += count / (self.count + count) * (of_x.absolute / count - self.absmean)
        mean, target_mean = of_x.plain / count, of_y.plain / count
        deviation, pull = self._join_mean(count, mean, target_mean)
        # The shift between the old mean and that of these rows is one more row of deviations.
        rows = np.empty((len(x) + 1, self.width), dtype)
        np.subtract(x, mean.astype(dtype), out=rows[:-1], casting="same_kind")
        target_rows = np.empty((len(x) + 1, self.target_width), dtype)
        np.subtract(y, target_mean.astype(dtype), out=target_rows[:-1], casting="same_kind")
        if not np.all(weights == 1):
            roots = np.sqrt(weights, dtype=dtype)[:, None]
            rows[:-1] *= roots
            target_rows[:-1] *= roots
        rows[-1], target_rows[-1] = deviation, pull
        self._squares.add(rows)
        self._products.add(rows, target_rows)
        self._yy += np.einsum("nm,nm->m", target_rows, target_rows, dtype=np.float64)

    def _join_mean(self, count: float, mean: Array, target_mean: Array) -> tuple[Array, Array]:
        """Moves the means to include `count` more rows; gives the row of deviations [d], [m] that the sums gain."""
        shift, target_shift = mean - self.mean, target_mean - self.target_mean
        before, self.count = self.count, self.count + count
        share = count / self.count
        self.mean = self.mean + share * shift
        self.target_mean = self.target_mean + share * target_shift
        scale = np.sqrt(before * share)
        return scale * shift, scale * target_shift

    def merge(self, other: Gram) -> None:
        """Adds the rows of another Gram, of other data and the same widths.

        Raises:
            ValueError: the widths differ.
        """
        if (self.width, self.target_width) != (other.width, other.target_width):
            ours, theirs = (self.width, self.target_width), (other.width, other.target_width)
            raise ValueError(f"cannot merge Grams of widths {ours} and {theirs}")
        np.maximum(self.absmax, other.absmax, out=self.absmax)
        self.rows += other.rows
        if other.count == 0:
            return
        self.absmean += other.count / (self.count + other.count) * (other.absmean - self.absmean)
        deviation, pull = self._join_mean(other.count, other.mean, other.target_mean)
        self._squares.merge(other._squares)
        self._squares.add(deviation[None])
        self._products.merge(other._products)
        self._products.add(deviation[None], pull[None])
        self._yy += other._yy + pull**2

    def with_targets_scaled(self, factors: Array) -> Gram:
        """The Gram of the same rows with each target y_i times `factors[i]`."""
        scaled = Gram(self.width, self.target_width)
        scaled.rows, scaled.count, scaled.mean, scaled.absmax = self.rows, self.count, self.mean, self.absmax
        scaled._squares.merge(self._squares)
        scaled.target_mean, scaled._products = self.target_mean * factors, ProductSum.of(self._xy * factors)
        scaled._yy = self._yy * factors**2
        return scaled

    def with_targets_of(self, columns: slice) -> Gram:
        """The Gram of the same rows with some of their targets.

        It shares the moments of the inputs with this one, so neither may be added to any more, and what is `derived`
        from them.
        """
        if self._derived is None:
            self._derived = {}
        part = Gram.__new__(Gram)
        part.__dict__.update(self.__dict__)
        part.target_mean, part._yy = self.target_mean[columns], self._yy[columns]
        part._products = ProductSum.of(self._xy[:, columns])
        part.target_width = len(part.target_mean)
        return part

    def derived(self, name: Hashable, make: Callable[[], _T]) -> _T:
        """What `make` gives, from moments of the inputs alone: once for all `with_targets_of` one Gram."""
        if self._derived is None:
            return make()
        if name not in self._derived:
            self._derived[name] = make()
        found: _T = self._derived[name]
        return found

    @property
    def _xx(self) -> Array:
        return self._squares.total

    @property
    def _xy(self) -> Array:
        return self._products.total

    @property
    def xx(self) -> Array:
        """[d, d] sum of x x^T, a new array."""
        return self._square(self.count)

    @property
    def xy(self) -> Array:
        """[d, m] sum of x y^T."""
        return self._xy + self.count * np.outer(self.mean, self.target_mean)

    @property
    def yy(self) -> Array:
        """[m] sum of y^2."""
        return self._yy + self.count * self.target_mean**2

    @property
    def diagonal(self) -> Array:
        """[d] sum of x^2: the diagonal of `xx` without the rest."""
        return self._xx.diagonal() + self.count * self.mean**2

    @property
    def variance(self) -> Array:
        """[d] weighted variance of x, 0 without rows."""
        return self._xx.diagonal() / (self.count or 1.0)

    @property
    def target_variance(self) -> Array:
        """[m] weighted variance of y, 0 without rows."""
        return self._yy / (self.count or 1.0)

    def raw(self) -> Moments:
        """The moments about zero; `xx` may be shared, and is not to be written to then."""
        return Moments(self.count, self._shared(self.count), self.xy, self.yy)

    def centered(self) -> Moments:
        """The moments about the means: sums of (x - mean)(x - mean)^T, and so on; `xx` as in `raw`."""
        return Moments(self.count, self._shared(0.0), self._xy.copy(), self._yy.copy())

    def spread_of(self, rows: Array) -> Array:
        """[n] r S r^T of each of `rows` [n, d], S being `xx` about the means; far cheaper than S for a few rows."""
        # Row-major rows are a column-major transpose; only the lower triangle of S is there.
        found: Array = np.einsum("nd,dn->n", rows, dsymm(1.0, self._xx, rows.T, side=0, lower=1))
        return found

    def _shared(self, mean_weight: float) -> Array:
        def made() -> Array:
            found = self._square(mean_weight)
            found.flags.writeable = self._derived is None
            return found

        return self.derived(("xx", mean_weight), made)

    def _square(self, mean_weight: float) -> Array:
        """The symmetric matrix whose lower triangle is kept (the upper one is zero), plus the share of the means."""
        full = np.empty_like(self._xx)
        scaled = mean_weight * self.mean
        for start in range(0, self.width, _STRIP):
            strip, below = slice(start, start + _STRIP), slice(start + _STRIP, None)
            corner = self._xx[strip, strip]
            full[strip, strip] = corner + np.tril(corner, -1).T
            full[below, strip] = self._xx[below, strip]
            if mean_weight:
                full[start:, strip] += np.outer(scaled[start:], self.mean[strip])
            full[strip, below] = full[below, strip].T
        return full

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Everything, as arrays that can be saved; `from_state` takes them back."""
        return {
            "rows": np.asarray(self.rows),
            "count": np.asarray(self.count),
            "mean": self.mean.copy(),
            "target_mean": self.target_mean.copy(),
            "absmax": self.absmax.copy(),
            "absmean": self.absmean.copy(),
            "xx": self._square(0.0),
            "xy": self._xy.copy(),
            "yy": self._yy.copy(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray[Any]]) -> Gram:
        """The Gram that gave this `state`.

        Raises:
            DataError: an array is missing or has not the shape it should have.
        """
        try:
            mean, target_mean = np.asarray(state["mean"]), np.asarray(state["target_mean"])
            gram = cls(mean.size, target_mean.size)
            gram.rows, gram.count = int(state["rows"]), float(state["count"])
            gram.mean[:], gram.target_mean[:] = mean, target_mean
            gram.absmax[:], gram.absmean[:] = state["absmax"], state["absmean"]
            gram._xx[:], gram._xy[:], gram._yy[:] = np.tril(state["xx"]), state["xy"], state["yy"]
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(f"these are not the arrays of a Gram: {error}", hint="capture it again") from error
        return gram


def _rows(values: npt.ArrayLike, width: int, name: str) -> npt.NDArray[Any]:
    """The values as rows [n, width] of a real dtype."""
    rows = np.asarray(values)
    if rows.ndim != 2 or rows.shape[1] != width:
        raise ValueError(f"{name} has shape {rows.shape}, expected (n, {width})")
    return rows
