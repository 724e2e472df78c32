"""N:M masks: of every M neighbours along an axis, at most N stay."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def keep_largest(saliency: NDArray[Any], keep: int, group: int, axis: int) -> Mask:
    """Keeps the `keep` largest of every `group` neighbours along `axis`.

    Args:
        saliency: any shape; the size along `axis` is a multiple of `group`.
        keep: N of N:M, how many may stay.
        group: M of N:M.
        axis: the contracted axis of the weight.

    Returns:
        True where an entry stays, shaped like `saliency`. Of equals the earlier one stays, so that the mask is the
        same on every machine.
    """
    grouped = _grouped(saliency, group, axis)
    order = np.argsort(-grouped, axis=-1, kind="stable")
    mask = np.zeros(grouped.shape, dtype=np.bool_)
    np.put_along_axis(mask, order[..., :keep], True, axis=-1)
    return np.moveaxis(mask.reshape(*grouped.shape[:-2], -1), -1, axis)


def satisfies(weight: NDArray[Any], keep: int, group: int, axis: int) -> bool:
    """True where every `group` neighbours along `axis` have at most `keep` non-zeros."""
    if weight.shape[axis] % group:
        return False
    return bool((np.count_nonzero(_grouped(weight, group, axis), axis=-1) <= keep).all())


def _grouped(array: NDArray[Any], group: int, axis: int) -> NDArray[Any]:
    """[..., size along axis / group, group]."""
    last = np.moveaxis(array, axis, -1)
    return last.reshape(*last.shape[:-1], last.shape[-1] // group, group)
