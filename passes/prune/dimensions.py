"""The `prune` pass: criterion, allocation and repair brought to bear on the groups of a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from secateur.ir.dims.groups import groups
from secateur.ir.dims.kinds import Roles
from secateur.ir.errors import RefusedError
from secateur.ir.graph import Graph
from secateur.passes.base import Pass
from secateur.passes.context import Context
from secateur.passes.facets import EVERYTHING, Effect, Facet
from secateur.passes.layers.variations import varied
from secateur.passes.prune import allocation, criteria, repair
from secateur.passes.prune.budget import Budget
from secateur.passes.prune.facts import dims
from secateur.passes.prune.fills import untie
from secateur.passes.prune.plan import Wishes
from secateur.passes.prune.selection import Kinds, chosen, named, read_units
from secateur.passes.prune.units import units_of
from secateur.passes.prune.work import Methods, Work


@dataclass(frozen=True)
class Prune(Pass):
    """Removes a share of the units of groups; the layers that read them are refitted to what the dense model gave.

    Group by group from the input on, as He, Zhang and Sun (2017), "Channel Pruning for Accelerating Very Deep Neural
    Networks", ICCV, do with channels: a criterion chooses, least squares repairs the readers, and the next group sees
    the model as it is pruned so far while its target stays that of the dense one. What chooses is exact OBS where they
    take LASSO. Without data: by magnitude, unrepaired.

    Groups are found by the analysis of dimensions, not by op types or names: channels (through depthwise convolutions,
    residual trunks and concatenations), heads, head widths, neurons, experts. What is pinned stays, and the report
    says why.
    """

    name: ClassVar[str] = "prune"
    changes: ClassVar[Facet] = Facet.TOPOLOGY | Facet.WEIGHTS | Facet.SHAPE | Facet.SCHEME | Facet.ATTRIBUTES
    effect: ClassVar[Effect] = Effect.LOSSY

    ratio: float = 0.5
    """The share of units that goes, in [0, 1); a budget takes its place."""
    budget: str = ""
    """What it may cost afterwards: `macs:0.5`, `params:60M`, `bytes:0.4`, `latency:0.7`. The share for it is found."""
    units: str = ""
    """A JSON file of group names with the number of units that stay, or a list of them; nothing else is touched."""
    dims: Kinds = "inner"
    """Which kinds of group; inner is all but the trunks that blocks add to."""
    exact: bool = True
    """Only groups whose removal is nothing but masking; false takes those that a norm or a mean runs over, too."""
    criterion: str = "auto"
    """What decides which units go; auto is obs with data and magnitude without."""
    allocation: str = "uniform"
    """How the share is spread over groups: uniform, incremental with depth, global by loss for what is saved, or by
    sensitivity: the less, the more the model's answers lose by a share of that group alone."""
    weighting: Literal["none", "fisher"] = "none"
    """What errors of layers count: their share of what the layer gives, or what they do to the model's answers."""
    repair: str = "auto"
    """What mends the readers; auto is least squares with data and none without."""
    least: float = 0.0
    """The share of each group that stays whatever the allocation says, in [0, 1]."""
    align: int = 0
    """Axes are kept at multiples of this; 0 takes the widest of 64, 32, 16 and 8 that costs hardly any pruning."""
    damping: float = 0.01
    """Pull of a refit towards the old weights, relative to the mean square of the inputs."""
    positions: int = 64
    """Output positions sampled of each image, more where images are few (`reads.ROWS`); 0 takes all."""
    augment: int | None = None
    """Variations of each batch to fit on as well (`secateur.calib.augment`): narrow data repairs narrowly. None is one
    for models that read tokens, where criterion and repair are auto, too: what is named gets the data as it is."""

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise ValueError(f"ratio must be in [0, 1), got {self.ratio}")
        if not 0 <= self.least <= 1:
            raise ValueError(f"least must be in [0, 1], got {self.least}")
        if min(self.align, self.positions, self.damping, self.augment or 0) < 0:
            raise ValueError("align, damping, positions and augment must not be negative")
        if self.budget:
            Budget.parse(self.budget)
        for choices, name in (
            (criteria.CRITERIA, self.criterion),
            (allocation.ALLOCATIONS, self.allocation),
            (repair.REPAIRS, self.repair),
        ):
            if name != "auto":
                choices.check(name)

    def run(self, graph: Graph, context: Context) -> int:
        """Decides group by group on masked weights, then removes everything at once; returns the groups that shrank
        and the blank tensors that no longer tie them."""
        self._check_data(context)
        given = read_units(self.units) if self.units else None
        if untied := untie(graph):
            context.facts.drop(EVERYTHING)
        found = context.facts.get(dims)
        every = groups(found)
        if given is None:
            wanted = chosen(every, Roles(found), self.dims, self.exact, context)
        else:
            wanted = named(every, given, self.exact)
        fed = varied(context, graph, self.augment, self.criterion, self.repair)
        work = Work(graph, found, self._methods(context), fed)
        wishes = Wishes(self.ratio, self.budget, self.allocation, self.least, self.align)
        return untied + work.prune([units_of(found, group) for group in wanted], wishes, given)

    def _check_data(self, context: Context) -> None:
        if context.source is not None:
            return
        criterion = "magnitude" if self.criterion == "auto" else self.criterion
        needs_data = not criteria.is_data_free(criterion) or self.repair not in {"auto", *repair.DATA_FREE}
        if needs_data or self.weighting != "none" or self.allocation in allocation.BY_HARM:
            raise RefusedError(
                f"{self} needs calibration data, but none was given",
                hint="give --data, or prune{criterion=magnitude, repair=none}",
            )
        how = "at random" if criterion == "random" else f"by {criterion}"
        mended = "repaired from weights alone" if self.repair in repair.FROM_MAKERS else "nothing is repaired"
        context.note(f"no calibration data: units are chosen {how}, and {mended}")

    def _methods(self, context: Context) -> Methods:
        """The options with what `auto` means here."""
        has_data = context.source is not None
        criterion = self.criterion if self.criterion != "auto" else "obs" if has_data else "magnitude"
        mend = self.repair if self.repair != "auto" else "least-squares" if has_data else "none"
        return Methods(criterion, mend, self.weighting == "fisher", self.damping, self.positions)
