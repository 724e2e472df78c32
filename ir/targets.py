"""Accelerators as a few figures: how fast they multiply in each number format, how fast memory is, what 2:4 adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

SPARSE_SINCE = (8, 0)
"""The compute capability that sparse tensor cores came with (NVIDIA A100 whitepaper, 2020)."""


class Format(StrEnum):
    """Number formats that matrix products come in."""

    FP32 = "fp32"
    TF32 = "tf32"
    FP16 = "fp16"
    BF16 = "bf16"
    FP8 = "fp8"
    INT8 = "int8"

    @property
    def bits(self) -> int:
        """Bits of one number in memory."""
        return {"fp32": 32, "tf32": 32, "fp16": 16, "bf16": 16}.get(self.value, 8)


@dataclass(frozen=True)
class Target:
    """What a roofline needs to know of a device.

    Raises:
        ValueError: a figure is not positive, or a factor belongs to a format without a peak; says which.
    """

    name: str
    capability: tuple[int, int]
    """CUDA compute capability, (8, 9) for 8.9."""
    peak: Mapping[Format, float]
    """Dense operations a second at most, a multiply-accumulate counted as two. Formats that are not here cannot run."""
    bandwidth: float
    """Bytes a second between memory and the chip, at most."""
    sparse: Mapping[Format, float] = field(default_factory=dict)
    """How many times as fast 2:4 products are at most, for the formats that the hardware has them in."""
    cache: int | None = None
    """Bytes of the last cache before memory; None where that is not known."""
    source: str = "figures given by the user"
    """Where the figures come from."""

    def __post_init__(self) -> None:
        figures = {**{f"peak of {one}": rate for one, rate in self.peak.items()}, "bandwidth": self.bandwidth}
        for what, figure in figures.items():
            if not 0 < figure < float("inf"):
                raise ValueError(f"{self.name}: expected a positive {what}, found {figure:g}")
        for one, factor in self.sparse.items():
            if one not in self.peak:
                raise ValueError(f"{self.name}: {one} has a sparse factor, but no peak")
            if not 1 <= factor <= 2:
                raise ValueError(f"{self.name}: expected a sparse factor of {one} from 1 to 2, found {factor:g}")
        if self.cache is not None and self.cache < 0:
            raise ValueError(f"{self.name}: expected a cache of 0 bytes or more, found {self.cache}")
        object.__setattr__(self, "peak", MappingProxyType(dict(self.peak)))
        object.__setattr__(self, "sparse", MappingProxyType(dict(self.sparse)))

    @property
    def title(self) -> str:
        """Name and compute capability."""
        return f"{self.name} ({self.capability[0]}.{self.capability[1]})"
