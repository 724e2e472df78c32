"""The symmetric integer grid: scales and codes, zero point 0, so that zeros stay exactly zero."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray


def symmetric_scale(amax: ArrayLike, dtype: np.dtype[Any], largest: int = 127) -> NDArray[Any]:
    """The step of a grid on which `amax` is the code `largest`, as a number of type `dtype`; 1 for amax 0.

    A step that would be subnormal is raised to the smallest normal number: runtimes flush it to zero otherwise.
    """
    wanted = np.asarray(amax, np.float64)
    scale = np.maximum(wanted / largest, float(ml_dtypes.finfo(dtype).tiny))
    return np.where(wanted > 0, scale, 1.0).astype(dtype)


def quantize_weight(weight: NDArray[Any], axis: int) -> tuple[NDArray[np.int8], NDArray[Any]]:
    """A weight to codes in [-127, 127], one scale for each index of `axis`, by its largest magnitude.

    Rounds half to even after a division in float32, as onnxruntime's QuantizeLinear does.

    Returns:
        codes shaped like `weight`, and scales [size of axis] in the weight's own type.
    """
    others = tuple(other for other in range(weight.ndim) if other != axis)
    scale = symmetric_scale(np.abs(weight.astype(np.float64)).max(axis=others), weight.dtype)
    codes = np.rint(weight.astype(np.float32) / along(scale.astype(np.float32), axis, weight.ndim))
    return np.clip(codes, -127, 127).astype(np.int8), scale


def along(scale: NDArray[Any], axis: int, rank: int) -> NDArray[Any]:
    """Scales [n] shaped so that they broadcast along `axis` of an array of `rank` axes."""
    shape = [1] * rank
    shape[axis] = -1
    return scale.reshape(shape)
