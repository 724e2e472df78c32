"""The roofline: how long a piece of work takes at least, and what 2:4 weights can therefore gain at most.

Williams, Waterman and Patterson 2009, "Roofline: an insightful visual performance model for multicore architectures":
work takes at least as long as its arithmetic at the peak rate, and at least as long as its bytes at the peak bandwidth.
Nothing is measured here, and real kernels are slower than this; a sparse kernel may even be slower than the dense one.
"""

from __future__ import annotations

from dataclasses import dataclass

from secateur.ir.targets import Format, Target

KEPT_BITS = 2
"""A kept value of 2:4 says where it stood among its four neighbours (Mishra et al. 2021, "Accelerating Sparse Deep
Neural Networks", section 3.1)."""


@dataclass(frozen=True, slots=True)
class Work:
    """What an op has to do: `macs` multiply-accumulates, the numbers of a weight to read, and all other `bytes`."""

    macs: float
    weight: int = 0
    bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Time:
    """Seconds that work takes at least, by its arithmetic and by its bytes."""

    compute: float
    memory: float

    @property
    def seconds(self) -> float:
        """Both go on at the same time, so the longer one counts."""
        return max(self.compute, self.memory)

    @property
    def bound(self) -> str:
        """What the time is due to: "compute" or "memory"."""
        return "compute" if self.compute >= self.memory else "memory"


def weight_bytes(numbers: float, form: Format, *, sparse: bool = False) -> float:
    """Bytes of a weight; as 2:4 half of the numbers with two bits each: 9/16 of fp16, 5/8 of int8."""
    return numbers / 2 * (form.bits + KEPT_BITS) / 8 if sparse else numbers * form.bits / 8


def intensity(work: Work, form: Format) -> float:
    """Operations for each byte that is moved, a multiply-accumulate counted as two; 0 where nothing is moved."""
    moved = weight_bytes(work.weight, form) + work.bytes
    return 2 * work.macs / moved if moved else 0.0


def least_time(work: Work, target: Target, form: Format, *, sparse: bool = False) -> Time:
    """Seconds that `work` takes at least with dense weights, or with 2:4 ones.

    Where the target has no sparse products in this format, only the bytes get fewer.

    Raises:
        KeyError: the target has no peak for this format.
    """
    rate = target.peak[form] * (target.sparse.get(form, 1.0) if sparse else 1.0)
    moved = weight_bytes(work.weight, form, sparse=sparse) + work.bytes
    return Time(2 * work.macs / rate, moved / target.bandwidth)


def greatest_gain(work: Work, target: Target, form: Format) -> float:
    """How many times as fast 2:4 weights make `work` at most, in [1, 2]; 1 for work that takes no time."""
    after = least_time(work, target, form, sparse=True).seconds
    return least_time(work, target, form).seconds / after if after else 1.0
