"""The `apply-masks` pass: what was learned elsewhere comes in as masks and leaves as surgery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.ir.dims.axes import Use
from secateur.ir.dims.groups import Group
from secateur.ir.errors import RefusedError
from secateur.ir.graph import Graph
from secateur.ir.node import Op
from secateur.ir.removable import Removable
from secateur.passes.base import Pass
from secateur.passes.cleanup.shapes import known
from secateur.passes.context import Context
from secateur.passes.drop.blocks import DropBlocks
from secateur.passes.facets import EVERYTHING, Effect, Facet
from secateur.passes.masks.decide import Rule, combined, foldable
from secateur.passes.masks.elements import mask_weight, unread
from secateur.passes.masks.file import Values, is_binary, read_masks
from secateur.passes.masks.fold import fold_gate, fold_gates
from secateur.passes.masks.targets import Names, Targets
from secateur.passes.prune import repair
from secateur.passes.prune.facts import dims
from secateur.passes.prune.plan import Wishes
from secateur.passes.prune.units import units_of
from secateur.passes.prune.work import Methods, Work
from secateur.passes.report import Entry

Indices: TypeAlias = NDArray[np.int64]
Place: TypeAlias = tuple[Use, int, int]


@dataclass(frozen=True)
class ApplyMasks(Pass):
    """Does what masks say that were learned by training: by gates, by movement, by any loop that this library has not.

    A file (`secateur.passes.masks.file`) names things and says what stays of them. By the name of a weight, an array
    of its shape: elements, which become zeros. By the name of a group (`secateur groups`), or `weight:axis`, a vector:
    units, which go with everything that belongs to them, as `prune` does it. By the name of a block, a number: the
    block, which goes as `drop-blocks` does it.

    Truth values, or numbers that are all 0 or 1, say it outright; masks of what is tied must agree. Other numbers are
    gates, of which the largest counts where several are tied. A gate stands where layers read its unit, behind norm
    and activation, as hard-concrete gates do (Louizos et al. 2018, "Learning Sparse Neural Networks through L0
    Regularization", section 2.2; Xia et al. 2022, "Structured Pruning Learns Compact and Accurate Models", section
    3.2); one that stays, and that of a block, is multiplied into weights, so that the small model computes what the
    gated one did.
    """

    name: ClassVar[str] = "apply-masks"
    changes: ClassVar[Facet] = (
        Facet.TOPOLOGY | Facet.SHAPE | Facet.DTYPE | Facet.WEIGHTS | Facet.ATTRIBUTES | Facet.SCHEME
    )
    effect: ClassVar[Effect] = Effect.LOSSY

    file: str = ""
    """The masks: `.npz`, `.safetensors` or `.json`."""
    threshold: float = 0.5
    """Gates above this stay."""
    ratio: float | None = None
    """The share of the gates of each weight and group, and of all gated blocks together, that goes, the lowest, in
    [0, 1); it takes the place of the threshold."""
    fold: bool = True
    """Multiply what gates that stay, in [0, 1], into weights; false takes numbers for scores, which only choose."""
    remove: bool = False
    """Take out units, too, that nothing reads because masks of elements left only zeros there."""
    exact: bool = True
    """Only groups whose removal is nothing but masking; false takes those that a norm or a mean runs over, too."""
    repair: str = "none"
    """What mends the readers of what went (as in `prune`), towards the model as it is without masks, and with what is
    multiplied in. None, as what trained with masks does without what they hide."""
    damping: float = 0.01
    """Pull of a refit towards the old weights, relative to the mean square of the inputs."""
    positions: int = 64
    """Output positions sampled of each image, more where images are few (`reads.ROWS`); 0 takes all."""

    def __post_init__(self) -> None:
        if self.ratio is not None and not 0 <= self.ratio < 1:
            raise ValueError(f"ratio must be in [0, 1), got {self.ratio}")
        if not np.isfinite(self.threshold):
            raise ValueError(f"threshold must be a finite number, got {self.threshold}")
        if min(self.positions, self.damping) < 0:
            raise ValueError("positions and damping must not be negative")
        repair.REPAIRS.check(self.repair)

    def run(self, graph: Graph, context: Context) -> int:
        """Zeros first, then gates into weights, then all units at once, then blocks; returns how many things changed.

        Raises:
            DataError: the file cannot be read, or an entry of it is NaN or infinite.
            RefusedError: a name is not known, a shape does not fit, masks disagree, or nothing of a group would stay.
        """
        if not self.file:
            raise RefusedError(f"{self} needs a file of masks", hint="apply-masks{file=masks.npz}")
        if self.repair not in repair.DATA_FREE and context.source is None:
            raise RefusedError(f"{self} needs calibration data, but none was given", hint="give --data, or repair=none")
        return _Run(self, graph, context, Rule(self.threshold, self.ratio)).done(read_masks(self.file))


@dataclass(frozen=True)
class _Run:
    """One run of the pass."""

    options: ApplyMasks
    graph: Graph
    context: Context
    rule: Rule

    def done(self, masks: dict[str, Values]) -> int:
        names = Names(self.graph, self.context.facts.get(dims))
        targets = names.targets(masks)
        going, folded = self._blocks(names, targets)
        gone = {op for block in going for op in block.ops}
        wanted = {
            names.groups[name]: values
            for name, values in self._units(names, targets).items()
            if not self._goes_anyway(names.groups[name], gone)
        }
        count = self._elements(names, targets) + self._fold_blocks(folded)
        kept = {_place(group): np.flatnonzero(self._stays(group, values)) for group, values in wanted.items()}
        dead = self._unread(names, targets, gone)
        count += sum(self._fold_group(names, group, values) for group, values in wanted.items())
        for place, units in dead.items():
            before = kept.get(place, np.arange(_size(names, place)))
            left = np.setdiff1d(before, units)
            kept[place] = left if len(left) else before[:1]
        return count + self._prune(kept) + self._drop([block.name for block in going])

    # Deciding

    def _blocks(self, names: Names, targets: Targets) -> tuple[list[Removable], list[tuple[Removable, float]]]:
        """The blocks that go, and those that stay with a gate to be multiplied in."""
        said = {name: combined(f"the block {name!r}", some) for name, some in targets.blocks.items()}
        gated = {name: value for name, value in said.items() if not is_binary(value)}
        stays = {name: bool(value) for name, value in said.items() if is_binary(value)}
        if gated:
            judged = self.rule.stays(np.array([float(value) for value in gated.values()]))
            stays |= dict(zip(gated, judged.tolist(), strict=True))
        folded = []
        for name, value in gated.items() if self.options.fold else ():
            if stays[name]:
                foldable(f"the block {name!r}", value)
                folded.append((names.blocks[name], float(value)))
        return [names.blocks[name] for name in said if not stays[name]], folded

    def _units(self, names: Names, targets: Targets) -> dict[str, Values]:
        """What is said of each group, in the order of their ops."""
        found: dict[str, Values] = {}
        for name in names.groups:
            if not (entries := targets.groups.get(name)):
                continue
            found[name] = combined(f"the group {name!r}", entries)
            if not is_binary(found[name]) and any((one.values != entries[0].values).any() for one in entries):
                said = ", ".join(entry.name for entry in entries)
                self.context.note(f"{name}: the largest of the gates of {said} counts, which differ")
        return found

    def _goes_anyway(self, group: Group, gone: set[Op]) -> bool:
        goes = gone.issuperset(group.ops)
        if goes:
            self.context.note(f"{group.name} goes with its block, whatever its mask says")
        return goes

    def _stays(self, group: Group, values: Values) -> NDArray[np.bool_]:
        """Which units stay.

        Raises:
            RefusedError: none would, or one would go of a group that may not shrink.
        """
        stays = self.rule.stays(values)
        if not stays.any():
            raise RefusedError(
                f"the group {group.name!r} has {group.size} units, and its mask leaves none",
                hint="one must stay; a residual block goes whole by its own name",
            )
        reason = group.pin or (group.inexact if self.options.exact else None)
        if reason and not stays.all():
            hint = "leave it out" if group.pin else "exact=false allows it"
            raise RefusedError(f"the group {group.name!r} cannot be pruned: {reason}", hint=hint)
        return stays

    # Doing

    def _elements(self, names: Names, targets: Targets) -> int:
        count = 0
        for name, entries in targets.weights.items():
            value, (entry,) = names.weights[name], entries
            ops = self.graph.consumers(value)
            if not ops or not self.context.allow("mask", ops[0]):
                continue
            assert value.const is not None
            before = value.const.numpy()
            stays, is_new = mask_weight(value, entry, self.rule, self.options.fold)
            self.context.manifest.mask(name, stays)
            self.context.manifest.exact &= not is_new
            self.context.row(weight=name, size=stays.size, kept=int(np.count_nonzero(stays)))
            count += not np.array_equal(before, value.const.numpy())
        return count

    def _fold_blocks(self, folded: Sequence[tuple[Removable, float]]) -> int:
        context, count = self.context, 0
        for block, gate in folded:
            if context.allow("fold", block.branches[0].total):
                fold_gate(self.graph, context.facts.get(known), block, gate)
                context.manifest.exact = False
                context.note(f"{block.name}: its gate of {gate:g} is multiplied into the layer that it ends with")
                context.row(block=block.name, size=1, kept=1)
                count += 1
        return count

    def _fold_group(self, names: Names, group: Group, values: Values) -> int:
        """Multiplies the gates of a group into its readers; those that go count too, for what a repair aims at."""
        if is_binary(values) or not self.options.fold or not self.context.allow("fold", group.ops[0]):
            return 0
        stays = self.rule.stays(values)
        foldable(f"the group {group.name!r}", values[stays])
        layers = fold_gates(self.graph, names.found, group, values.astype(np.float64))
        self.context.manifest.exact = False
        self.context.note(f"{group.name}: gates are multiplied into what reads its units, {layers} in all")
        if stays.all():
            self.context.row(group=group.name, size=group.size, kept=group.size)
        return 1

    def _unread(self, names: Names, targets: Targets, gone: set[Op]) -> dict[Place, Indices]:
        """The units to remove because masks of elements left them unread."""
        if not targets.weights:
            return {}
        masked = [names.weights[name] for name in targets.weights]
        free = [
            group
            for group in names.groups.values()
            if group.pin is None and not (self.options.exact and group.inexact) and not gone.issuperset(group.ops)
        ]
        found = dict(unread(names.found, free, masked))
        if self.options.remove:
            return {_place(group): units for group, units in found.items()}
        for group, units in found.items():
            self.context.note(f"{group.name}: nothing reads {len(units)} of {group.size}; remove=true takes them out")
        return {}

    def _prune(self, kept: dict[Place, Indices]) -> int:
        """Removes units, as `prune` does."""
        if not kept:
            return 0
        options, context = self.options, self.context
        context.facts.drop(EVERYTHING)
        found = context.facts.get(dims)
        groups = {_place(group): group for group in Names(self.graph, found).groups.values()}
        wanted = [units_of(found, group) for place, group in groups.items() if place in kept]
        given = {groups[place].name: units for place, units in kept.items()}
        mends = context if options.repair != "none" else replace(context, source=None)
        methods = Methods("magnitude", options.repair, False, options.damping, options.positions)
        return Work(self.graph, found, methods, mends).prune(wanted, Wishes(0.0, "", "uniform", 0.0, 1), given)

    def _drop(self, names: Sequence[str]) -> int:
        if not names:
            return 0
        context = self.context
        context.facts.drop(EVERYTHING)
        way = DropBlocks(names=tuple(names), compensate="none" if self.options.repair == "none" else "auto")
        # What blocks score is of no interest here, and makes wide tables.
        aside = replace(context, report=Entry(context.report.name))
        count = way.run(self.graph, aside)
        for note in aside.report.notes:
            context.note(note)
        for row in aside.report.rows:
            if row["dropped"]:
                context.row(block=row["block"], size=1, kept=0)
        return count


def _place(group: Group) -> Place:
    """What a group can be found by after weights have changed."""
    first = group.weights[0]
    return first.use, first.axis, first.stride


def _size(names: Names, place: Place) -> int:
    return next(group.size for group in names.groups.values() if _place(group) == place)
