"""The `prune` pass: criterion, allocation and repair brought to bear on the groups of a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from secateur.ir.dims.analysis import Dimensions
from secateur.ir.dims.axes import Use
from secateur.ir.dims.groups import Group, groups
from secateur.ir.dims.kinds import Roles
from secateur.ir.dims.shrink import shrink
from secateur.ir.errors import RefusedError
from secateur.ir.graph import Graph
from secateur.passes.base import Pass
from secateur.passes.context import Context
from secateur.passes.facets import Effect, Facet
from secateur.passes.layers.evidence import Evidence, Streams, gather
from secateur.passes.layers.matrix import write_layer
from secateur.passes.layers.stages import walk
from secateur.passes.prune import allocation, criteria, repair
from secateur.passes.prune.alignment import remark
from secateur.passes.prune.budget import Budget
from secateur.passes.prune.facts import dims
from secateur.passes.prune.plan import Plan, Wishes, plan
from secateur.passes.prune.problem import Problem, problem_of
from secateur.passes.prune.ranking import Ranking
from secateur.passes.prune.selection import Given, Kinds, chosen, named, read_units
from secateur.passes.prune.units import Units, units_of

Place = tuple[Use, int, int]
Kept = NDArray[np.int64]


@dataclass(frozen=True)
class Prune(Pass):
    """Removes a share of the units of groups; the layers that read them are refitted to what the dense model gave.

    Group by group from the input on, as He, Zhang and Sun (2017), "Channel Pruning for Accelerating Very Deep Neural
    Networks", ICCV, do with channels: LASSO chooses, least squares repairs the readers, and the next group sees the
    model as it is pruned so far while its target stays that of the dense one. Without data: by magnitude, unrepaired.

    Groups are found by the analysis of dimensions, not by op types or names: channels (through depthwise convolutions,
    residual trunks and concatenations), heads, head widths, neurons. What is pinned stays, and the report says why.
    """

    name: ClassVar[str] = "prune"
    changes: ClassVar[Facet] = Facet.TOPOLOGY | Facet.WEIGHTS | Facet.SHAPE | Facet.SCHEME | Facet.ATTRIBUTES
    effect: ClassVar[Effect] = Effect.LOSSY

    ratio: float = 0.5
    """The share of units that goes, in [0, 1); a budget takes its place."""
    budget: str = ""
    """What the model may cost afterwards: `macs:0.5`, `params:60M`, `bytes:0.4`. The share that meets it is found."""
    units: str = ""
    """A JSON file of group names with the number of units that stay, or a list of them; nothing else is touched."""
    dims: Kinds = "inner"
    """Which kinds of group; inner is all but the trunks that blocks add to."""
    exact: bool = True
    """Only groups whose removal is nothing but masking; false takes those that a norm or a mean runs over, too."""
    criterion: str = "auto"
    """What decides which units go; auto is lasso with data and magnitude without."""
    allocation: str = "uniform"
    """How the share is spread over groups: uniform, incremental with depth, or global by loss for what is saved."""
    repair: str = "auto"
    """What mends the readers; auto is least squares with data and none without."""
    least: float = 0.0
    """The share of each group that stays whatever the allocation says, in [0, 1]."""
    align: int = 0
    """Axes are kept at multiples of this; 0 takes the widest of 64, 32, 16 and 8 that costs hardly any pruning."""
    damping: float = 0.01
    """Pull of a refit towards the old weights, relative to the mean square of the inputs."""
    positions: int = 64
    """Output positions sampled of each image; 0 takes all."""

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise ValueError(f"ratio must be in [0, 1), got {self.ratio}")
        if not 0 <= self.least <= 1:
            raise ValueError(f"least must be in [0, 1], got {self.least}")
        if self.align < 0 or self.positions < 0 or self.damping < 0:
            raise ValueError("align, damping and positions must not be negative")
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
        """Decides group by group on masked weights, then removes everything at once; returns the groups that shrank."""
        self._check_data(context)
        given = read_units(self.units) if self.units else None
        dense = graph.clone() if context.source is not None else graph
        found = context.facts.get(dims)
        all_groups = groups(found)
        if given is None:
            wanted = chosen(all_groups, Roles(found), self.dims, self.exact, context)
        else:
            wanted = named(all_groups, given, self.exact)
        plans = self._plan(graph, found, [units_of(found, group) for group in wanted], given, context)
        kept: dict[Place, Kept] = {}

        def decide(which: int, evidence: Sequence[Evidence] | None) -> None:
            one = plans[which]
            context.progress("prune", which, len(plans))
            if context.allow("prune", one.units.group.weights[0].use.op):
                problem = self._problem(found, one.units, evidence, context)
                kept[_place(one.units.group)] = self._decide(graph, one, problem, context)

        self._visit(graph, dense, [one.units for one in plans], context, decide)
        context.progress("prune", len(plans), len(plans))
        if kept:
            self._remove(graph, kept, context)
        return len(kept)

    def _check_data(self, context: Context) -> None:
        if context.source is not None:
            return
        needs_data = self.criterion not in {"auto", *criteria.DATA_FREE} or self.repair not in {
            "auto",
            *repair.DATA_FREE,
        }
        if needs_data:
            raise RefusedError(
                f"{self} needs calibration data, but none was given",
                hint="give --data, or prune{criterion=magnitude, repair=none}",
            )
        how = "at random" if self.criterion == "random" else "by magnitude"
        context.note(f"no calibration data: units are chosen {how}, and nothing is repaired")

    def _plan(
        self, graph: Graph, found: Dimensions, wanted: list[Units], given: Given | None, context: Context
    ) -> list[Plan]:
        """How many units each group keeps; groups that keep all of them are left out, with a note that says why."""
        losses: dict[int, Ranking] = {}
        if given is None and self.allocation in allocation.BY_LOSS:

            def score(which: int, evidence: Sequence[Evidence] | None) -> None:
                context.progress("score", which, len(wanted))
                problem = self._problem(found, wanted[which], evidence, context)
                losses[which] = criteria.CRITERIA[self._criterion(context)](problem, problem.size - 1)

            self._visit(graph, graph, wanted, context, score)
        plans = []
        wishes = Wishes(self.ratio, self.budget, self.allocation, self.least, self.align)
        for one in plan(found, wanted, [losses.get(which) for which in range(len(wanted))], wishes, given):
            if one.keep < one.units.group.size:
                plans.append(one)
            else:
                context.note(f"{one.units.group.name} keeps its {one.keep}: {one.why}")
        return plans

    def _visit(
        self,
        graph: Graph,
        dense: Graph,
        wanted: Sequence[Units],
        context: Context,
        visit: Callable[[int, Sequence[Evidence] | None], None],
    ) -> None:
        """Calls `visit` with each group and what the data says of its readers, in an order fit for repairing."""
        if context.source is None:
            for which in range(len(wanted)):
                visit(which, None)
            return

        def look(which: int, streams: Streams) -> None:
            uses = [reader.use for reader in wanted[which].readers]
            visit(which, gather(streams, uses, context, self.positions) if uses else None)

        jobs = [[reader.use.op for reader in one.readers] or one.group.ops for one in wanted]
        walk(graph, dense, jobs, context, look)

    def _problem(
        self, found: Dimensions, units: Units, evidence: Sequence[Evidence] | None, context: Context
    ) -> Problem:
        return problem_of(found.known, units, evidence, context.random(units.group.name), self.damping)

    def _decide(self, graph: Graph, one: Plan, problem: Problem, context: Context) -> Kept:
        """Chooses what to keep of one group, and gives its readers their new numbers."""
        has_evidence = all(layer.evidence is not None for layer in problem.layers) and bool(problem.layers)
        name = self._criterion(context) if has_evidence else self._blind()
        kept = one.kept
        if kept is None:
            kept = criteria.CRITERIA[name](problem, problem.size - one.keep).kept(problem.size, one.keep)
        columns = {"group": one.units.group.name, "size": problem.size, "kept": one.keep, "multiple": one.step}
        if one.kept is None and (words := remark(one.units, one.keep, self.align)):
            context.note(f"{one.units.group.name}: {words}")
        if not has_evidence:
            context.row(**columns)
            return kept
        way = self._repair()
        for reader, layer in zip(one.units.readers, problem.layers, strict=True):
            repaired = repair.REPAIRS[way](layer, kept, self.damping)
            # What others read too would become two weights; without new numbers, they may go on sharing one.
            if way != "none" or graph.consumers(reader.use.weight) == [reader.use.op]:
                write_layer(graph, reader.use, repaired.matrix, repaired.bias if way != "none" else None)
            context.row(**columns, reader=reader.use.weight.name, error=repaired.error, unrepaired=repaired.unrepaired)
            context.manifest.exact &= way == "none"
        return kept

    def _remove(self, graph: Graph, kept: Mapping[Place, Kept], context: Context) -> None:
        """Shrinks all groups at once. The analysis is made anew: repairs may have added biases."""
        context.facts.drop(self.changes)
        found = context.facts.get(dims)
        now = {_place(group): group.dim for group in groups(found)}
        slices = shrink(graph, found, {now[place]: some for place, some in kept.items()})
        for one in slices:
            context.manifest.keep(one.weight, one.axis, one.kept)

    def _criterion(self, context: Context) -> str:
        if self.criterion != "auto":
            return self.criterion
        return "magnitude" if context.source is None else "lasso"

    def _blind(self) -> str:
        """What decides where the data shows nothing of a group."""
        return self.criterion if self.criterion in criteria.DATA_FREE else "magnitude"

    def _repair(self) -> str:
        return self.repair if self.repair != "auto" else "least-squares"


def _place(group: Group) -> Place:
    """What a group can be found by after its weights have changed."""
    first = group.weights[0]
    return first.use, first.axis, first.stride
