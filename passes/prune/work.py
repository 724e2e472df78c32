"""One run of `prune`: plans, then group by group a choice and a repair on masked weights, then the surgery."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.ir.dims.analysis import Dimensions
from secateur.ir.dims.axes import Use
from secateur.ir.dims.groups import Group, groups
from secateur.ir.dims.shrink import shrink
from secateur.ir.graph import Graph
from secateur.ir.rules.weights import WeightUse
from secateur.passes.context import Context
from secateur.passes.facets import EVERYTHING
from secateur.passes.layers.evidence import Evidence, Streams, gather
from secateur.passes.layers.matrix import bias_of, matrix_of, write_layer
from secateur.passes.layers.stages import walk
from secateur.passes.prune import allocation, criteria, repair
from secateur.passes.prune.alignment import remark
from secateur.passes.prune.costs import Costs, Resource
from secateur.passes.prune.experts import Routing, mixture_of, watch
from secateur.passes.prune.facts import dims
from secateur.passes.prune.gates import measure as gates
from secateur.passes.prune.latency import latencies
from secateur.passes.prune.losses import held_out
from secateur.passes.prune.mixtures import Thinned, refit_experts
from secateur.passes.prune.pairing import First, Pairing, Path, path_of
from secateur.passes.prune.plan import Measured, Plan, Wishes, plan
from secateur.passes.prune.probe import in_answers, probe_of
from secateur.passes.prune.problem import Problem, problem_of
from secateur.passes.prune.ranking import Ranking
from secateur.passes.prune.selection import Given
from secateur.passes.prune.trials import CRITERION, trials_of, tried
from secateur.passes.prune.units import Units
from secateur.passes.prune.weighting import Sensitivities, measure, weighted

Place: TypeAlias = tuple[Use, int, int]
Kept: TypeAlias = NDArray[np.int64]
Visit: TypeAlias = Callable[[int, "Seen"], None]


@dataclass(frozen=True)
class Seen:
    """What the data says of a group: evidence of each reader, what becomes of experts, and what its makers read; and
    the values at which the part of the model begins that it was seen in, None for all of it."""

    evidence: Sequence[Evidence] | None = None
    routing: Routing | None = None
    pairing: Pairing | None = None
    cut: Sequence[str] | None = None


@dataclass(frozen=True)
class Stakes:
    """What the model's answers depend on, measured before anything goes.

    Attributes:
        weights: outputs of layers; None where errors of layers are not to count by that.
        gates: by the name of a group the gradients at its units, see `secateur.passes.prune.gates`.
    """

    weights: Sensitivities | None = None
    gates: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


@dataclass(frozen=True)
class Methods:
    """How it is done; see the options of `prune`. `criterion` and `repair` are names that there are."""

    criterion: str
    repair: str
    by_sensitivity: bool
    damping: float
    positions: int

    def criterion_of(self, problem: Problem) -> str:
        """What decides: the criterion that was asked for, or one that can say something of these units."""
        if criteria.is_data_free(self.criterion):
            return self.criterion
        if problem.routing is not None:
            return self.criterion if self.criterion in criteria.OF_EXPERTS else "reap"
        if criteria.is_from_gates(self.criterion):
            return self.criterion if problem.gates is not None else "magnitude"
        return self.criterion if _is_informed(problem) else "magnitude"

    @property
    def tells_errors(self) -> bool:
        """True where layers are refitted and what is lost is what that leaves, not what a criterion asks gates for."""
        return self.repair in repair.REFITS and not criteria.is_from_gates(self.criterion)

    @property
    def from_makers(self) -> bool:
        """True where the repair asks for the map that makes the units."""
        return self.repair in repair.FROM_MAKERS


@dataclass(frozen=True)
class Work:
    """What everything here needs: the graph that shrinks, its dimensions at the outset, and how it is done."""

    graph: Graph
    found: Dimensions
    methods: Methods
    context: Context

    def prune(self, wanted: Sequence[Units], wishes: Wishes, given: Given | None) -> int:
        """Decides on masked weights, group by group, then removes everything at once; how many groups shrank.

        Raises:
            RefusedError: a budget cannot be met, or something cannot be removed.
        """
        context = self.context
        dense = self.graph.clone() if context.source is not None else self.graph
        stakes = self._stakes(wanted)
        plans = self._plans(wanted, wishes, given, stakes)
        kept: dict[Place, Kept] = {}

        def decide(which: int, seen: Seen) -> None:
            one = plans[which]
            context.progress("prune", which, len(plans))
            if context.allow("prune", one.units.group.weights[0].use.op):
                kept[_place(one.units.group)] = self._decide(one, seen, stakes)

        self._visit(dense, [one.units for one in plans], decide)
        context.progress("prune", len(plans), len(plans))
        if kept:
            thinned = self._thinned(plans, kept)
            self._remove(kept)
            if thinned and refit_experts(self.graph, dense, thinned, context, self.methods.damping):
                context.manifest.exact = False
        return len(kept)

    def _thinned(self, plans: Sequence[Plan], kept: Mapping[Place, Kept]) -> list[Thinned]:
        """The mixtures that lose experts and are to be mended; those whose experts have ops of their own."""
        if self.context.source is None or self.methods.repair not in repair.REFITS:
            return []
        thinned = []
        for group in (one.units.group for one in plans if one.units.are_experts and _place(one.units.group) in kept):
            mixture = mixture_of(self.found, group)
            if mixture is not None and mixture.apart:
                thinned.append(Thinned.of(group.name, mixture, kept[_place(group)].tolist()))
        return thinned

    def _plans(self, wanted: Sequence[Units], wishes: Wishes, given: Given | None, stakes: Stakes) -> list[Plan]:
        """How many units each group keeps; groups that keep all of them are left out, with a note that says why."""
        name = wishes.allocation if given is None else ""
        measured = self._measured(wanted, name, stakes)
        plans = []
        for one in plan(self._costs, wanted, measured, wishes, given):
            if one.keep < one.units.group.size:
                plans.append(one)
            else:
                self.context.note(f"{one.units.group.name} keeps its {one.keep}: {one.why}")
        return plans

    def _measured(self, wanted: Sequence[Units], name: str, stakes: Stakes) -> list[Measured]:
        """What the allocation of this name asks for, of each group; nothing where there is no such allocation."""
        if name in allocation.BY_LOSS:
            losses = self._losses(wanted, stakes)
            return [Measured(loss=losses[which].loss) for which in range(len(wanted))]
        harms = self._harms(wanted, f"allocation={name}") if name in allocation.BY_HARM else {}
        return [Measured(harm=harms.get(which)) for which in range(len(wanted))]

    def _harms(self, wanted: Sequence[Units], who: str) -> dict[int, float]:
        """What the model's answers lose where a share of each group goes; nothing for groups that no layer reads."""
        trials = trials_of(self.found, self.context, who)
        methods = Methods(CRITERION, "none", False, self.methods.damping, self.methods.positions)
        alone = replace(self, methods=methods, context=replace(self.context, source=trials.source))

        def attempt(which: int, seen: Seen) -> None:
            self.context.progress("try", which, len(wanted))
            units, problem = wanted[which], alone._problem(wanted[which], seen, Stakes())
            removed = tried(problem.size)
            if removed and problem.layers:
                kept = alone._ranking(units, problem, removed, Stakes()).kept(problem.size, problem.size - removed)
                trials.attempt(which, units, problem, kept, seen.cut)

        alone._visit(self.graph, wanted, attempt)
        return trials.harms()

    def _losses(self, wanted: Sequence[Units], stakes: Stakes) -> dict[int, Ranking]:
        """What each unit of each group takes away; where layers are refitted, by errors that were not fitted on."""
        found: dict[int, tuple[Ranking, float | None]] = {}
        probe = probe_of(self.found, self.context) if self.methods.tells_errors and stakes.weights is None else None

        def score(which: int, seen: Seen) -> None:
            self.context.progress("score", which, len(wanted))
            units, problem = wanted[which], self._problem(wanted[which], seen, stakes)
            ranking, worth = self._ranking(units, problem, -1, stakes), None
            if self.methods.tells_errors and problem.routing is None and _is_informed(problem):
                ranking = held_out(self._judged(units, problem, stakes), ranking)
                worth = None if probe is None else probe.worth(units, problem, ranking)
            found[which] = ranking, worth

        self._visit(self.graph, wanted, score)
        return dict(zip(found, in_answers(found.values()), strict=True))

    def _costs(self, resource: Resource) -> Costs:
        measured = latencies(self.found, self.context) if resource == "latency" else ()
        return Costs(self.found, resource, measured)

    def _visit(self, dense: Graph, wanted: Sequence[Units], visit: Visit) -> None:
        """Calls `visit` with each group and what the data says of its readers, in an order fit for repairing."""
        if self.context.source is None:
            for which in range(len(wanted)):
                visit(which, Seen())
            return
        mixtures = [mixture_of(self.found, one.group) if one.are_experts else None for one in wanted]

        of_pairs = self.methods.repair in repair.OF_PAIRS
        paths = [path_of(self.found.known, one) if of_pairs else None for one in wanted]

        def look(which: int, streams: Streams) -> None:
            mixture, path = mixtures[which], paths[which]
            uses = [reader.use for reader in wanted[which].readers]
            evidence, pairing = self._gathered(streams, uses, path)
            routing = None if mixture is None else watch(mixture, streams, self.context)
            visit(which, Seen(evidence, routing, pairing, streams.present.inputs))

        jobs = [
            [use.op for use in (() if path is None else path.makers)]
            + ([reader.use.op for reader in one.readers] or (one.group.ops if mix is None else mix.ops(self.graph)))
            for one, mix, path in zip(wanted, mixtures, paths, strict=True)
        ]
        walk(self.graph, dense, jobs, self.context, look)

    def _gathered(
        self, streams: Streams, uses: Sequence[WeightUse], path: Path | None
    ) -> tuple[Sequence[Evidence] | None, Pairing | None]:
        """The evidence of the readers, and with a path what makers have read for the same rows."""
        rows = repair.ROWS if self.methods.repair in repair.FROM_ROWS else 0
        both = [*uses, *(() if path is None else path.makers)]
        found = gather(streams, both, self.context, self.methods.positions, rows) if uses else []
        if path is None:
            return found or None, None
        first = [
            First(matrix_of(use), bias_of(use, self.graph), evidence)
            for use, evidence in zip(path.makers, found[len(uses) :], strict=True)
        ]
        pairing = Pairing(tuple(first), path, self.context.needed_runner("fitting two layers"))
        return found[: len(uses)], pairing

    def _stakes(self, wanted: Sequence[Units]) -> Stakes:
        """What the answers of the model, as it is now, depend on, as far as the methods ask for it."""
        context, methods = self.context, self.methods
        weights = measure(self.found, wanted, context) if methods.by_sensitivity else None
        if not criteria.is_from_gates(methods.criterion):
            return Stakes(weights)
        found = gates(self.found, wanted, context, f"criterion={methods.criterion}")
        pairs = zip(wanted, found, strict=True)
        return Stakes(weights, {units.group.name: some for units, some in pairs if some is not None})

    def _problem(self, units: Units, seen: Seen, stakes: Stakes) -> Problem:
        random, damping = self.context.random(units.group.name), self.methods.damping
        problem = problem_of(self.found.known, units, seen.evidence, random, damping, self.methods.from_makers)
        return replace(problem, routing=seen.routing, pairing=seen.pairing, gates=stakes.gates.get(units.group.name))

    def _ranking(self, units: Units, problem: Problem, removed: int, stakes: Stakes) -> Ranking:
        """The units in the order in which they go; all but one of them for `removed` -1."""
        name, judged = self.methods.criterion_of(problem), self._judged(units, problem, stakes)
        return criteria.CRITERIA[name](judged, removed if removed >= 0 else problem.size - 1)

    def _judged(self, units: Units, problem: Problem, stakes: Stakes) -> Problem:
        """The problem as criteria see it: errors count by what they do to the answers, where that is asked for."""
        return problem if stakes.weights is None else weighted(problem, units, stakes.weights)

    def _decide(self, one: Plan, seen: Seen, stakes: Stakes) -> Kept:
        """Chooses what to keep of one group, and gives its readers their new numbers."""
        problem, group, context = self._problem(one.units, seen, stakes), one.units.group, self.context
        kept = one.kept
        if kept is None:
            kept = self._ranking(one.units, problem, problem.size - one.keep, stakes).kept(problem.size, one.keep)
            if words := remark(one.units, one.keep, one.align):
                context.note(f"{group.name}: {words}")
        columns: dict[str, object] = {"group": group.name, "size": problem.size, "kept": one.keep, "multiple": one.step}
        if one.harm is not None:
            columns["harm"] = one.harm
        if not problem.layers or not (_is_informed(problem) or self.methods.from_makers):
            context.row(**columns)
            return kept
        way = self.methods.repair
        for reader, layer in zip(one.units.readers, problem.layers, strict=True):
            repaired = repair.REPAIRS[way](problem, layer, kept)
            if repaired.note:
                context.note(f"{reader.use.weight.name}: {repaired.note}")
            # What others read too would become two weights; without new numbers, they may go on sharing one.
            if way != "none" or self.graph.consumers(reader.use.weight) == [reader.use.op]:
                write_layer(self.graph, reader.use, repaired.matrix, repaired.bias if way != "none" else None)
            if problem.pairing is not None:
                for use, (matrix, bias) in zip(problem.pairing.path.makers, repaired.first, strict=False):
                    write_layer(self.graph, use, matrix, bias)
            context.row(**columns, reader=reader.use.weight.name, error=repaired.error, unrepaired=repaired.unrepaired)
            context.manifest.exact &= way == "none"
        return kept

    def _remove(self, kept: Mapping[Place, Kept]) -> None:
        """Shrinks all groups at once. After repairs, which may have added biases, the analysis is made anew."""
        graph, context, found = self.graph, self.context, self.found
        if context.source is not None or self.methods.from_makers:
            context.facts.drop(EVERYTHING)
            found = context.facts.get(dims)
        now = {_place(group): group.dim for group in groups(found)}
        before = {value.name for value in graph.constants()}
        slices = shrink(graph, found, {now[place]: some for place, some in kept.items()})
        context.manifest.forget(before - {value.name for value in graph.constants()})
        for one in slices:
            context.manifest.keep(one.weight, one.axis, one.kept)


def _is_informed(problem: Problem) -> bool:
    """True where the data says something of every layer that reads the units."""
    return bool(problem.layers) and all(layer.evidence is not None for layer in problem.layers)


def _place(group: Group) -> Place:
    """What a group can be found by after its weights have changed."""
    first = group.weights[0]
    return first.use, first.axis, first.stride
