"""The allocation axis: how is what has to go shared out over the groups? One small file for each answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.passes.prune.choices import Choices


@dataclass(frozen=True)
class Candidate:
    """A group as an allocation sees it.

    Attributes:
        size: its units.
        step: kept sizes are multiples of this, or everything.
        least: fewer must not stay.
        cost: what one unit is worth, in whatever is to be saved.
        loss: rise of the loss as units go, in the order in which they go; None where the allocation asks for none.
        harm: what the answers of the model lost in a trial that took a share of this group alone; None where the
            allocation asks for none, or there was nothing to try.
    """

    size: int
    step: int
    least: int
    cost: float
    loss: NDArray[np.float64] | None = None
    harm: float | None = None

    def rounded(self, wanted: float) -> int:
        """The units to keep where about so many are wanted: rounded up to what may be."""
        whole = max(self.least, 1, math.ceil(wanted - 1e-9))
        return min(self.size, math.ceil(whole / self.step) * self.step)


Allocation: TypeAlias = Callable[[Sequence[Candidate], float], list[int]]
"""(groups in the order of the model, the share that goes, in [0, 1)) to how many units each keeps.

The higher the share, the fewer stay.
"""

_TABLE: Mapping[str, str] = MappingProxyType(
    {
        "global": "secateur.passes.prune.allocation.by_loss:by_loss",
        "incremental": "secateur.passes.prune.allocation.incremental:incremental",
        "sensitivity": "secateur.passes.prune.allocation.sensitivity:sensitivity",
        "threshold": "secateur.passes.prune.allocation.threshold:threshold",
        "uniform": "secateur.passes.prune.allocation.uniform:uniform",
    }
)

ALLOCATIONS: Choices[Allocation] = Choices("allocation", _TABLE)
"""By name; other packages add theirs under the entry point group `secateur.allocation`."""

BY_LOSS = frozenset({"global", "threshold"})
"""Those that ask what each unit takes away."""

BY_HARM = frozenset({"sensitivity"})
"""Those that ask for trials; these need data."""
