"""The rounding axis: which code each weight gets, once scales are chosen. One small file for each way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

from numpy.typing import NDArray

from secateur.calib.solvers.grids import Grid
from secateur.passes.layers.problem import Array, Mask
from secateur.passes.prune.choices import Choices


@dataclass(frozen=True)
class Unrounded:
    """What a weight should be, and what errors of it cost: tr((Q - W) H (Q - W)^T).

    Attributes:
        weight: [outputs, columns] W.
        mask: [outputs, columns] True where it may be other than zero; None where all may.
        gram: [columns, columns] H of what the layer reads; None without data.
        damping: what is added to its diagonal, relative to its mean.
        taps: how many neighbouring columns are one kernel, of one input channel.
    """

    weight: Array
    mask: Mask | None = None
    gram: Array | None = None
    damping: float = 0.01
    taps: int = 1

    @property
    def seen(self) -> Array:
        """The Gram matrix, for those who cannot do without."""
        assert self.gram is not None, "what needs data was run without"
        return self.gram


@dataclass(frozen=True)
class Scaled:
    """A grid with its scales.

    Attributes:
        grid: codes.
        scale: [outputs, n] what they are multiplied by.
        block: columns that share a scale; None for all of a row.
    """

    grid: Grid
    scale: NDArray[Any]
    block: int | None = None


Rounding: TypeAlias = Callable[[Unrounded, Scaled], Array]
"""(weight, grid) to the same [outputs, columns] on the grid, zero outside of the mask."""

_TABLE: Mapping[str, str] = MappingProxyType(
    {
        "adaround": "secateur.passes.quantize.rounding.adaround:adaround",
        "descent": "secateur.passes.quantize.rounding.descent:descent",
        "gptq": "secateur.passes.quantize.rounding.gptq:gptq",
        "nearest": "secateur.passes.quantize.rounding.nearest:nearest",
        "obr": "secateur.passes.quantize.rounding.obr:obr",
        "squant": "secateur.passes.quantize.rounding.squant:squant",
    }
)

ROUNDINGS: Choices[Rounding] = Choices("rounding", _TABLE)
"""By name; other packages add theirs under the entry point group `secateur.rounding`."""

DATA_FREE = frozenset({"nearest", "squant"})
"""Those that look at weights only."""
