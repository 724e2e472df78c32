"""The best layer of low rank: what it should give, from what it reads, through r numbers in between.

For outputs y = B^T x + b the best approximation in r dimensions projects the outputs onto their r principal directions
Q: y' = Q Q^T y. Its error is the sum of the other eigenvalues of the outputs' covariance, exactly. This equals the
whitened singular value decomposition (Wang et al. 2024, "SVD-LLM: Truncation-aware Singular Value Decomposition for
Large Language Model Compression", section 3.1) without an inverse, and with a fitted B it is reduced-rank regression
(Izenman 1975, "Reduced-rank regression for the multivariate linear model"). Zhang et al. 2016, "Accelerating Very Deep
Convolutional Networks for Classification and Detection", section 3.1, do so with convolutions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh, svd

Array: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Spectrum:
    """Principal directions of what a layer gives.

    Attributes:
        directions: [n, n] orthonormal columns, the strongest first.
        energy: [n] what each carries, falling, not negative: the error of leaving it out.
        coefficients: [d, n] B.
    """

    directions: Array
    energy: Array
    coefficients: Array

    def factors(self, rank: int) -> tuple[Array, Array]:
        """(up [n, rank], down [rank, d]): `up @ down` is the layer's matrix through `rank` numbers."""
        up = self.directions[:, :rank]
        return up, up.T @ self.coefficients.T


def spectrum(xx: Array, coefficients: Array) -> Spectrum:
    """Of the outputs of a layer B [d, n] whose inputs have the moments `xx` [d, d]; centred ones where it has a bias.

    With `xx` the identity these are the singular vectors of B: what one has without data.
    """
    covariance = coefficients.T @ xx @ coefficients
    values, vectors = eigh((covariance + covariance.T) / 2)
    return Spectrum(vectors[:, ::-1].copy(), np.maximum(values[::-1], 0.0), coefficients)


def spatial_spectrum(weight: Array) -> Array:
    """[min(c * h, n * w)] the energy that each pair of a column and a row of a kernel [n, c, h, w] carries, falling."""
    values: Array = svd(_spatial_matrix(weight), compute_uv=False)
    return values**2


def spatial_factors(weight: Array, rank: int) -> tuple[Array, Array]:
    """A kernel [n, c, h, w] as a vertical one [rank, c, h, 1] followed by a horizontal one [n, rank, 1, w].

    The best such pair by squared weights: a truncated singular value decomposition of the kernel as a matrix
    [c * h, n * w] (Jaderberg et al. 2014, "Speeding up Convolutional Neural Networks with Low Rank Expansions",
    section 2.1, scheme 2).
    """
    outputs, channels, height, width = weight.shape
    left, values, right = svd(_spatial_matrix(weight), full_matrices=False)
    vertical = left[:, :rank].T.reshape(rank, channels, height, 1)
    horizontal = (values[:rank, None] * right[:rank]).reshape(rank, outputs, 1, width).transpose(1, 0, 2, 3)
    return vertical, horizontal


def _spatial_matrix(weight: Array) -> Array:
    outputs, channels, height, width = weight.shape
    return weight.transpose(1, 2, 0, 3).reshape(channels * height, outputs * width)
