"""Between which two ops a layer is split: how many numbers break even, what each carries, and the two weights."""

from __future__ import annotations

import math
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.calib.solvers.least_squares import least_squares
from secateur.calib.solvers.low_rank import Spectrum, spatial_factors, spatial_spectrum, spectrum
from secateur.ir.rules.weights import WeightUse
from secateur.passes.factorize.rewrite import Factors
from secateur.passes.layers.evidence import Evidence
from secateur.passes.layers.matrix import bias_of, matrix_of

Array: TypeAlias = NDArray[np.float64]


class Layout(Protocol):
    """One way to split layers."""

    def refusal(self, use: WeightUse) -> str | None:
        """Why a layer cannot be split so; None where it can."""
        ...

    def price(self, use: WeightUse) -> int:
        """Weights for each number between the two."""
        ...

    def energy(self, use: WeightUse, evidence: Evidence | None, damping: float) -> Array:
        """What each of the numbers carries, falling."""
        ...

    def factors(self, use: WeightUse, rank: int, evidence: Evidence | None, damping: float) -> Factors:
        """The two weights for a rank."""
        ...

    def between(self, factors: Factors) -> Array:
        """[channels * taps, columns of the second]: what the second op reads of what the layer does."""
        ...


class Channel:
    """The whole kernel onto `rank` channels, then a product at each position."""

    def refusal(self, use: WeightUse) -> str | None:
        """Every layer can."""
        return None

    def price(self, use: WeightUse) -> int:
        """A column of the one and a row of the other."""
        outputs = use.tensor.shape[use.produced]
        return outputs + math.prod(use.tensor.shape) // outputs

    def energy(self, use: WeightUse, evidence: Evidence | None, damping: float) -> Array:
        """Of the principal directions of the outputs."""
        return self._spectrum(use, evidence, damping).energy

    def factors(self, use: WeightUse, rank: int, evidence: Evidence | None, damping: float) -> Factors:
        """Reduced-rank regression with data, singular vectors without."""
        up, down = self._spectrum(use, evidence, damping).factors(rank)
        kernel = _kernel(use)
        bias = bias_of(use)
        if evidence is not None and bias is not None:
            bias = evidence.bias((up @ down).T)
        channels = use.tensor.shape[use.contracted]
        return Factors(down.reshape(rank, channels, *kernel), up.reshape(*up.shape, *(1 for _ in kernel)), bias)

    def between(self, factors: Factors) -> Array:
        """The channels between."""
        return factors.down.reshape(factors.rank, -1).T

    def _spectrum(self, use: WeightUse, evidence: Evidence | None, damping: float) -> Spectrum:
        matrix = matrix_of(use)
        if evidence is None:
            return spectrum(np.eye(matrix.shape[1]), matrix.T)
        moments = evidence.moments(with_bias=use.bias_port is not None)
        return spectrum(moments.xx, least_squares(moments.xx, moments.xy, damping=damping, prior=matrix.T))


class Spatial:
    """A column of the kernel, then a row of it: Jaderberg et al. 2014; the first of the three cuts of He et al. 2017.

    The column comes from the weights alone; with data the row is fitted to what the dense model gives.
    """

    def refusal(self, use: WeightUse) -> str | None:
        """Only kernels with two axes longer than one, padded by numbers."""
        kernel = _kernel(use)
        if len(kernel) != 2 or min(kernel) < 2:
            return f"its kernel is {' x '.join(map(str, kernel)) or 'a single position'}"
        return "it is padded by a rule" if use.op.attribute("auto_pad", "NOTSET") != "NOTSET" else None

    def price(self, use: WeightUse) -> int:
        """A column for each input and a row for each output."""
        outputs, channels, height, width = _weight(use).shape
        return int(channels * height + outputs * width)

    def energy(self, use: WeightUse, evidence: Evidence | None, damping: float) -> Array:
        """Of the singular vectors of the kernel."""
        return spatial_spectrum(_weight(use))

    def factors(self, use: WeightUse, rank: int, evidence: Evidence | None, damping: float) -> Factors:
        """The best pair by squared weights; with data the second is refitted on what the first gives."""
        down, up = spatial_factors(_weight(use), rank)
        bias = bias_of(use)
        if evidence is not None:
            outputs = up.shape[0]
            taps = self.between(Factors(down, up, bias))
            moments = evidence.moments(with_bias=bias is not None)
            prior = up.reshape(outputs, -1).T
            fitted = least_squares(taps.T @ moments.xx @ taps, taps.T @ moments.xy, damping=damping, prior=prior)
            up = fitted.T.reshape(up.shape)
            bias = None if bias is None else evidence.bias(taps @ fitted)
        return Factors(down, up, bias)

    def between(self, factors: Factors) -> Array:
        """The channels between, for each tap of the row."""
        return _through(factors.down, factors.up.shape[3])


LAYOUTS: dict[str, Layout] = {"channel": Channel(), "spatial": Spatial()}


def _kernel(use: WeightUse) -> tuple[int, ...]:
    return tuple(size for axis, size in enumerate(use.tensor.shape) if axis not in (use.produced, use.contracted))


def _weight(use: WeightUse) -> Array:
    matrix = matrix_of(use)
    return matrix.reshape(len(matrix), use.tensor.shape[use.contracted], *_kernel(use))


def _through(down: Array, width: int) -> Array:
    """[channels * height * width, rank * width]: what a patch becomes behind the first of the two."""
    rank, channels, height, _ = down.shape
    taps: Array = np.einsum("rch,jk->chjrk", down[..., 0], np.eye(width))
    return taps.reshape(channels * height * width, rank * width)
