"""One run of `sparsify`: which patterns, then layer by layer a mask and a repair, each on what the model is by then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from secateur.ir.graph import Graph
from secateur.ir.node import Op
from secateur.ir.sparsity import has_pattern
from secateur.ir.sparsity_scheme import SparsityScheme
from secateur.ir.tensor import Tensor
from secateur.passes.context import Context
from secateur.passes.layers.evidence import Evidence, Streams, gather_slabs, merged
from secateur.passes.layers.matrix import bias_of, matrices_of, write_matrices
from secateur.passes.layers.own_evidence import gather_inputs
from secateur.passes.layers.own_problem import OwnProblem
from secateur.passes.layers.problem import Gradients, Mask, Problem
from secateur.passes.layers.stages import trunk_blocks, walk
from secateur.passes.sparsify.allocation import ALLOCATIONS, Wishes
from secateur.passes.sparsify.allocation.trial import BlockRule, Trial, layer_of
from secateur.passes.sparsify.masks import MagnitudeMasker
from secateur.passes.sparsify.methods import Methods
from secateur.passes.sparsify.patterns import Dense, Neighbours, Pattern
from secateur.passes.sparsify.refine.dsnot import headroom
from secateur.passes.sparsify.spots import Spot, steps_of

Step = Sequence[int]
"""Spots that are decided from one look at the data, by number."""


@dataclass
class Work:
    """What everything here needs: the graph that changes, its weights, what is asked of them and how it is done.

    Attributes:
        sees: whether there is data to look at.
        is_own: whether layers are to give what they give by then, not what they gave in the dense model.
        gradients: by the name of a weight, shaped like it.
        patterns: what each spot gets, as far as that is decided.
        ends: by the first spot of a block, the name of the value that the block ends with.
    """

    graph: Graph
    spots: Sequence[Spot]
    methods: Methods
    wishes: Wishes
    allocation: str
    context: Context
    sees: bool
    is_own: bool = False
    gradients: Mapping[str, Gradients] = field(default_factory=dict)
    patterns: dict[int, Pattern] = field(default_factory=dict)
    maskers: dict[Neighbours, MagnitudeMasker] = field(default_factory=dict)
    ends: dict[int, str] = field(default_factory=dict)

    def run(self) -> int:
        """Decides everything; returns how many weights changed."""
        rule = ALLOCATIONS[self.allocation]
        self.patterns = {which: spot.pattern for which, spot in enumerate(self.spots) if spot.pattern is not None}
        steps = steps_of(self.spots)
        if rule.over == "model":
            self._share_over_model(steps)
        elif rule.over == "weight":
            self._settle([None for _ in self._open(range(len(self.spots)))], range(len(self.spots)))
        jobs = self._by_block(steps) if rule.over == "block" else [[step] for step in steps]
        changed = 0
        done = 0

        def visit(which: int, streams: Streams | None) -> None:
            nonlocal changed, done
            if rule.over == "block":
                self._settle_block(jobs[which], streams)
            for step in jobs[which]:
                self.context.progress("sparsify", done, len(self.spots))
                changed += self._decide(step, streams)
                done += len(step)

        self._walk(jobs, self.graph.clone() if self.sees and not self.is_own else self.graph, visit)
        self.context.progress("sparsify", len(self.spots), len(self.spots))
        return changed

    def _walk(self, jobs: Sequence[Sequence[Step]], dense: Graph, visit: Any) -> None:
        """Calls `visit` with each job and, where there is data, what feeds its layers."""
        if not self.sees:
            for which in range(len(jobs)):
                visit(which, None)
            return
        ops: list[list[Op]] = [
            [use.op for step in job for which in step for use in self.spots[which].uses] for job in jobs
        ]
        walk(self.graph, dense, ops, self.context, visit, is_steady=True)

    def _by_block(self, steps: Sequence[Step]) -> list[list[Step]]:
        """Steps of one block of the model together, or of several; what lies outside of blocks by itself."""
        rule, found = ALLOCATIONS[self.allocation], trunk_blocks(self.graph)
        turn = {op: index for index, block in enumerate(found) for op in block.ops}
        jobs: dict[object, list[Step]] = {}
        places = [turn.get(self.spots[step[0]].use.op) for step in steps]
        taken = sorted({place for place in places if place is not None})
        span = (rule.span or len(taken)) if isinstance(rule, BlockRule) else 1
        self.ends = {}
        for index, (step, place) in enumerate(zip(steps, places, strict=True)):
            key: object = ("outside", index) if place is None else taken.index(place) // span
            jobs.setdefault(key, []).append(step)
            # Behind the last of its blocks, or of its ops, is what counts.
            end = self.spots[step[-1]].use.op.output if place is None else found[place].exit
            self.ends[jobs[key][0][0]] = end.name
        return list(jobs.values())

    def _share_over_model(self, steps: Sequence[Step]) -> None:
        """Measures everything while all is dense, and shares out."""
        found: dict[int, Any] = {}

        def measure(which: int, streams: Streams | None) -> None:
            self.context.progress("measure", which, len(steps))
            for spot, one in zip(self._open(steps[which]), self._measured([steps[which]], streams), strict=True):
                found[spot] = one

        self._walk([[step] for step in steps], self.graph, measure)
        everything = sorted(found)
        self._settle([found[which] for which in everything], everything)

    def problems(self) -> list[Problem]:
        """Each matrix of each weight, with what it reads while all is dense; for those who look only."""
        found: list[Problem] = []
        steps = steps_of(self.spots)

        def visit(which: int, streams: Streams | None) -> None:
            found.extend(one for some in self.problems_of(steps[which], streams) for one in some)

        self._walk([[step] for step in steps], self.graph, visit)
        return found

    def _open(self, members: Step) -> list[int]:
        """Those whose pattern is not settled yet."""
        return [which for which in members if which not in self.patterns]

    def _measured(self, steps: Sequence[Step], streams: Streams | None) -> list[Any]:
        """What the allocation has to know of the open spots of these steps."""
        rule = ALLOCATIONS[self.allocation]
        found: list[Any] = []
        for step in steps:
            members = self._open(step)
            # Of a weight that is several matrices, the first stands for all.
            firsts = [problems[0] for problems in self.problems_of(members, streams)]
            found.extend(rule.measure(problem, self.methods, self.wishes) for problem in firsts)
        return found

    def _settle(self, measured: Sequence[Any], members: Step) -> None:
        """Gives the open ones among these spots their patterns."""
        shared = ALLOCATIONS[self.allocation].share(measured, self.wishes)
        self.patterns.update(zip(self._open(members), shared, strict=True))

    def _settle_block(self, steps: Sequence[Step], streams: Streams | None) -> None:
        """Gives the weights of a block their patterns, by measuring each or by trying all of them together."""
        rule, members = ALLOCATIONS[self.allocation], [which for step in steps for which in step]
        wanted = self._open(members)
        if not isinstance(rule, BlockRule) or streams is None or len(wanted) < 2:
            self._settle(self._measured(steps, streams), members)
            return
        problems = [one for step in steps for one in self.problems_of(self._open(step), streams)]
        pairs = zip(wanted, problems, strict=True)
        layers = [layer_of(self.spots[one], some, self.methods, self.wishes.pattern) for one, some in pairs]
        trial = Trial(tuple(layers), streams, self.ends[steps[0][0]], self.context)
        self.patterns.update(zip(wanted, rule.decide(trial, self.wishes), strict=True))

    def problems_of(self, step: Step, streams: Streams | None) -> list[list[Problem]]:
        """For each spot of a step its matrices."""
        uses = [use for which in step for use in self.spots[which].uses if use.targets is not None]
        seen = None
        if streams is not None and uses:
            positions = self.methods.positions
            if self.is_own:
                gathered = gather_inputs(streams.present, uses, self.context, positions)
            else:
                gathered = gather_slabs(streams, uses, self.context, positions)
            seen = {(use.op, use.port): slabs for use, slabs in zip(uses, gathered, strict=True)}
        return [self._of_spot(self.spots[which], seen) for which in step]

    def _of_spot(self, spot: Spot, seen: Mapping[Any, Sequence[Evidence]] | None) -> list[Problem]:
        use, evidence = spot.use, None
        if seen is not None and all((one.op, one.port) in seen for one in spot.uses):
            evidence = [merged(some) for some in zip(*(seen[one.op, one.port] for one in spot.uses), strict=True)]
        matrices = spot.problem_order(matrices_of(use))
        bias = bias_of(use, self.graph)
        biases = [None] * len(matrices) if bias is None else list(bias.reshape(len(matrices), -1))
        stays = self.methods.leaves_bias
        found = self.gradients.get(spot.weight.name)
        # As the matrix is multiplied by alpha, gradients with respect to it are divided.
        alpha = float(use.op.attribute("alpha", 1.0)) or 1.0
        kind = OwnProblem if self.is_own else Problem
        return [
            kind(
                name=spot.weight.name,
                weight=matrix,
                bias=None if stays else biases[slab],
                order=spot.order,
                evidence=None if evidence is None else evidence[slab],
                channels=spot.channels,
                random=self.context.random(f"{spot.weight.name}/{slab}"),
                damping=self.methods.damping,
                gradients=None if found is None else _slab(spot, found, slab, alpha),
                constant=biases[slab] if stays else None,
            )
            for slab, matrix in enumerate(matrices)
        ]

    def _decide(self, step: Step, streams: Streams | None) -> int:
        """Masks and mends the weights of a step; how many changed."""
        members = [which for which in step if self._wants(self.spots[which], self.patterns[which])]
        if not members:
            return 0
        if streams is None and self.methods.criterion == "magnitude":
            plain = [which for which in members if isinstance(self.patterns[which], Neighbours)]
            for which in plain:
                self._mask(self.spots[which], cast(Neighbours, self.patterns[which]))
            return len(plain) + self._decided([which for which in members if which not in plain], None)
        return self._decided(members, streams)

    def _decided(self, members: Step, streams: Streams | None) -> int:
        for which, problems in zip(members, self.problems_of(members, streams), strict=True):
            self._write(self.spots[which], self.patterns[which], problems)
        return len(members)

    def _mask(self, spot: Spot, pattern: Neighbours) -> None:
        """Zeros by magnitude, a piece of the weight at a time: models larger than memory can be masked."""
        masker = self.maskers.setdefault(pattern, MagnitudeMasker(pattern.keep, pattern.group))
        found = masker.mask(spot.use.tensor, spot.use.contracted)
        self.context.manifest.mask(spot.weight.name, found.stays)
        spot.weight.set_const(found.tensor)
        _mark(spot, pattern, self.context)
        self.context.row(**self._columns(spot, pattern), energy_kept=found.energy)

    def _wants(self, spot: Spot, pattern: Pattern) -> bool:
        """Whether a weight is to change: rows for what is sparse already, notes for what an allocation leaves dense."""
        if isinstance(pattern, Dense):
            said = f"{spot.weight.name} stays dense: allocation={self.allocation} has it so"
            self.context.note(said, asked=self.allocation == "uniform")
            return False
        if self._holds(spot, pattern):
            self.context.row(**self._columns(spot, pattern), energy_kept=1.0)
            return False
        return self.context.allow("sparsify", spot.use.op)

    def _holds(self, spot: Spot, pattern: Pattern) -> bool:
        """Whether a weight is sparse already."""
        if isinstance(pattern, Neighbours):
            return has_pattern(spot.use, pattern.keep, pattern.group)
        return all(pattern.holds(matrix) for matrix in spot.fold(spot.use.tensor.numpy()))

    def _columns(self, spot: Spot, pattern: Pattern) -> dict[str, object]:
        return {"weight": spot.weight.name, "pattern": str(pattern), "axis": spot.use.contracted}

    def _write(self, spot: Spot, pattern: Pattern, problems: Sequence[Problem]) -> None:
        """Gives one weight its zeros and its new numbers."""
        context, weight, columns = self.context, spot.use.tensor.numpy(), self._columns(spot, pattern)
        instead = {self.methods.criterion_of(problem) for problem in problems} - {self.methods.criterion}
        if instead:
            context.note(f"{spot.weight.name}: by {instead.pop()}, for the data shows nothing of what it reads")
        masks = np.stack([self.methods.mask(problem, pattern) for problem in problems])
        mask: Mask = spot.unfold(masks)
        context.manifest.mask(spot.weight.name, mask)
        columns["energy_kept"] = _energy(weight, mask)
        seen = all(problem.evidence is not None for problem in problems)
        if seen and self.methods.refine == "dsnot":
            columns["headroom"] = float(np.mean([headroom(problem) for problem in problems]))
        alone = len(spot.uses) == 1
        if seen and not alone and self.methods.repair != "none":
            context.note(f"{spot.weight.name} is not repaired: {len(spot.uses)} ops read it")
        if seen and alone:
            repaired = [self.methods.repaired(problem, one) for problem, one in zip(problems, masks, strict=True)]
            columns["error"] = float(np.mean([one.error for one in repaired if one.error is not None]))
            columns["unrepaired"] = float(np.mean([one.unrepaired for one in repaired if one.unrepaired is not None]))
        if seen and alone and self.methods.repair != "none":
            biases = [one.bias for one in repaired if one.bias is not None]
            bias = np.concatenate(biases) if len(biases) == len(repaired) else None
            write_matrices(self.graph, spot.use, spot.matrix_order(np.stack([one.matrix for one in repaired])), bias)
            context.manifest.exact = False
        else:
            zeroed = np.where(mask, weight, np.zeros((), weight.dtype))
            spot.weight.set_const(Tensor(zeroed, spot.use.tensor.dtype))
        _mark(spot, pattern, context)
        context.row(**columns)


def _mark(spot: Spot, pattern: Pattern, context: Context) -> None:
    """Notes on the weight what it promises from then on."""
    if isinstance(pattern, Neighbours):
        scheme = SparsityScheme(pattern.keep, pattern.group, spot.use.contracted)
        scheme.mark(spot.weight)
        context.manifest.schemes[spot.weight.name] = str(scheme)


def _slab(spot: Spot, found: Gradients, slab: int, alpha: float) -> Gradients:
    mean, absolute, square = (spot.fold(one)[slab] for one in (found.mean, found.absolute, found.square))
    return Gradients(mean / alpha, absolute / abs(alpha), square / alpha**2)


def _energy(weight: NDArray[Any], mask: Mask) -> float:
    """How much of the sum of squares the mask keeps."""
    squares = np.square(weight, dtype=np.float64) if weight.dtype.kind == "f" else weight.astype(np.float64) ** 2
    total = float(squares.sum())
    return float(squares.sum(where=mask)) / total if total else 1.0
