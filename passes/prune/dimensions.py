"""The `prune` pass: criterion, allocation and repair brought to bear on one group of a network after another."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from secateur.ir.dims.analysis import Dimensions
from secateur.ir.dims.axes import Use
from secateur.ir.dims.groups import Group, groups
from secateur.ir.dims.kinds import Kind, Roles
from secateur.ir.dims.shrink import shrink
from secateur.ir.errors import RefusedError
from secateur.ir.graph import Graph
from secateur.passes.base import Pass
from secateur.passes.context import Context
from secateur.passes.facets import Effect, Facet
from secateur.passes.layers.evidence import gather
from secateur.passes.layers.matrix import write_layer
from secateur.passes.prune.criteria import CRITERIA
from secateur.passes.prune.facts import dims
from secateur.passes.prune.problem import problem_of
from secateur.passes.prune.repair import REPAIRS
from secateur.passes.prune.units import step_of, units_of

Place = tuple[Use, int, int]

CHOICES: Mapping[str, frozenset[Kind]] = MappingProxyType(
    {
        "all": frozenset(Kind),
        "inner": frozenset(Kind) - {Kind.HIDDEN},
        "channels": frozenset({Kind.CHANNELS}),
        "heads": frozenset({Kind.HEADS}),
        "ffn": frozenset({Kind.NEURONS}),
        "query-key": frozenset({Kind.QUERY_KEY}),
        "value-output": frozenset({Kind.VALUE_OUTPUT}),
        "hidden": frozenset({Kind.HIDDEN}),
        "recurrent": frozenset({Kind.RECURRENT}),
    }
)
"""What `dims` may say, and the kinds that it means."""


@dataclass(frozen=True)
class Prune(Pass):
    """Removes a share of the units of every group; the layers that read them are refitted to what the dense model gave.

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
    """The share of each group's units that goes, in [0, 1)."""
    dims: Literal["inner", "all", "channels", "heads", "ffn", "query-key", "value-output", "hidden", "recurrent"] = (
        "inner"
    )
    """Which kinds of group; inner is all but the trunks that blocks add to."""
    exact: bool = True
    """Only groups whose removal is nothing but masking; false takes those that a norm or a mean runs over, too."""
    criterion: Literal["auto", "lasso", "magnitude", "random"] = "auto"
    """What decides; auto is lasso with data and magnitude without. Random is seeded by the run and the group."""
    repair: Literal["auto", "least-squares", "none"] = "auto"
    """What mends the readers; auto is least squares with data and none without."""
    align: int = 8
    """Axes are kept at multiples of this (8 suits float16 kernels, 32 int8 and 2:4)."""
    damping: float = 0.01
    """Pull of the refit towards the old weights, relative to the mean square of the inputs."""
    positions: int = 64
    """Output positions sampled of each image; 0 takes all."""

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise ValueError(f"ratio must be in [0, 1), got {self.ratio}")
        if self.align < 1 or self.positions < 0 or self.damping < 0:
            raise ValueError("align must be at least 1; damping and positions must not be negative")

    def run(self, graph: Graph, context: Context) -> int:
        """Decides group by group on masked weights, then removes everything at once; returns the groups that shrank."""
        if context.source is None:
            if self.criterion == "lasso" or self.repair == "least-squares":
                raise RefusedError(
                    f"{self} needs calibration data, but none was given",
                    hint="give --data, or prune{criterion=magnitude, repair=none}",
                )
            how = "at random" if self.criterion == "random" else "by magnitude"
            context.note(f"no calibration data: units are chosen {how}, and nothing is repaired")
        dense = graph.clone() if context.source is not None else graph
        found = context.facts.get(dims)
        chosen = self._chosen(found, context)
        kept: dict[Place, NDArray[np.int64]] = {}
        for index, group in enumerate(chosen):
            context.progress("prune", index, len(chosen))
            if context.allow("prune", group.weights[0].use.op):
                some = self._decide(graph, dense, found, group, context)
                if some is not None:
                    kept[_place(group)] = some
        context.progress("prune", len(chosen), len(chosen))
        if kept:
            self._remove(graph, kept, context)
        return len(kept)

    def _chosen(self, found: Dimensions, context: Context) -> list[Group]:
        """The groups that may shrink, in the order of their ops; notes for those that may not."""
        roles, chosen = Roles(found), []
        for group in groups(found):
            kind = roles.kind(group)
            reason = group.pin
            if reason is None and kind not in CHOICES[self.dims]:
                reason = f"it is {kind.value}, and dims={self.dims} was asked for"
            if reason is None and self.exact and group.inexact:
                reason = f"{group.inexact}, and exact=true was asked for"
            if reason is None:
                chosen.append(group)
            elif not _is_kernel(group):
                context.note(f"{group.name} keeps its {group.size}: {reason}")
        return chosen

    def _decide(
        self, graph: Graph, dense: Graph, found: Dimensions, group: Group, context: Context
    ) -> NDArray[np.int64] | None:
        """Chooses what to keep of one group, and gives its readers their new numbers; None where everything stays."""
        units = units_of(found, group)
        step = step_of(units, self.align)
        wanted = max(1, math.ceil(group.size * (1 - self.ratio) - 1e-9))
        keep = min(group.size, math.ceil(wanted / step) * step)
        if keep == group.size:
            little = f"a share of {self.ratio:g} is less than one of its units"
            reason = f"fewer would not be a multiple of {step}" if wanted < group.size else little
            context.note(f"{group.name} keeps its {group.size}: {reason}")
            return None
        evidence = None
        if context.source is not None and units.readers:
            evidence = gather(graph, dense, [reader.use for reader in units.readers], context, self.positions)
        problem = problem_of(found.known, units, evidence, context.random(group.name))
        kept = CRITERIA[self._criterion(evidence is not None)](problem, keep)
        if evidence is None:
            context.row(group=group.name, size=group.size, kept=keep)
            return kept
        repair = self._repair()
        for reader, layer in zip(units.readers, problem.layers, strict=True):
            repaired = REPAIRS[repair](layer, kept, self.damping)
            # What others read too would become two weights; without new numbers, they may go on sharing one.
            if repair != "none" or graph.consumers(reader.use.weight) == [reader.use.op]:
                write_layer(graph, reader.use, repaired.matrix, repaired.bias if repair != "none" else None)
            context.row(
                group=group.name,
                size=group.size,
                kept=keep,
                reader=reader.use.weight.name,
                error=repaired.error,
                unrepaired=repaired.unrepaired,
            )
            context.manifest.exact &= repair == "none"
        return kept

    def _remove(self, graph: Graph, kept: Mapping[Place, NDArray[np.int64]], context: Context) -> None:
        """Shrinks all groups at once. The analysis is made anew: repairs may have added biases."""
        context.facts.drop(self.changes)
        found = context.facts.get(dims)
        now = {_place(group): group.dim for group in groups(found)}
        slices = shrink(graph, found, {now[place]: some for place, some in kept.items()})
        for one in slices:
            context.manifest.keep(one.weight, one.axis, one.kept)

    def _criterion(self, has_evidence: bool) -> str:
        wanted = self.criterion if self.criterion != "auto" else "lasso"
        return wanted if has_evidence or wanted != "lasso" else "magnitude"

    def _repair(self) -> str:
        return self.repair if self.repair != "auto" else "least-squares"


def _place(group: Group) -> Place:
    """What a group can be found by after its weights have changed."""
    first = group.weights[0]
    return first.use, first.axis, first.stride


def _is_kernel(group: Group) -> bool:
    """True for the extent of a kernel in space, which nobody expects to be prunable."""
    return group.pin is not None and group.pin.endswith("has a kernel of this size")
