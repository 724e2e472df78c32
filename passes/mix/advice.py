"""Ways to spend bits, measured on every layer of a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from secateur.calib.solvers.spending import decibels, kurtosis
from secateur.ir.graph import Graph
from secateur.passes.cleanup.shapes import known as known_fact
from secateur.passes.context import Context
from secateur.passes.layers.evidence import Streams
from secateur.passes.layers.problem import Problem
from secateur.passes.layers.stages import walk
from secateur.passes.mix.spending import BITS, TIE, WAYS, Energies, Kind, Layer, Way, spend
from secateur.passes.sparsify.allocation import Wishes
from secateur.passes.sparsify.methods import Methods
from secateur.passes.sparsify.patterns import parse_pattern
from secateur.passes.sparsify.spots import Demands, Spot, spots_of, steps_of
from secateur.passes.sparsify.work import Work

Verdict: TypeAlias = Literal["quantize", "prune", "tie"]

_PLAIN = Methods("magnitude", "none", "sweep", 0.01, 64)


@dataclass(frozen=True)
class Spent:
    """One way on one layer.

    Attributes:
        way: its name; `kind` and nominal `bits` as it has them.
        stored: bits of a weight with scales and masks.
        weight_db: signal to noise of the weights, decibels; None where nothing is lost.
        output_db: of what the layer gives, on data that was held out.
        bound_db: what no choice of codes, or of as many weights, can be better than; None where nothing is known.
    """

    way: str
    kind: Kind
    bits: int
    stored: float
    weight_db: float | None
    output_db: float | None
    bound_db: float | None


@dataclass(frozen=True)
class LayerAdvice:
    """All ways on one layer."""

    weight: str
    op: str
    shape: tuple[int, ...]
    kurtosis: float
    ways: tuple[Spent, ...]

    @property
    def size(self) -> int:
        """How many weights."""
        return math.prod(self.shape)

    def best(self, kind: Kind, bits: int) -> Spent | None:
        """The way of a kind and size that leaves most of the outputs."""
        found = [one for one in self.ways if one.kind == kind and one.bits == bits]
        return max(found, key=_height, default=None)

    @property
    def verdicts(self) -> dict[int, Verdict]:
        """For each size in bits, which is ahead: fewer bits or fewer weights."""
        found: dict[int, Verdict] = {}
        for bits in BITS:
            quantized, pruned = self.best("quantize", bits), self.best("prune", bits)
            if quantized is not None and pruned is not None:
                found[bits] = verdict_of(_height(quantized), _height(pruned))
        return found


def _height(one: Spent) -> float:
    return math.inf if one.output_db is None else one.output_db


def verdict_of(quantized: float, pruned: float) -> Verdict:
    """Which of two ratios in decibels is ahead, by at least `TIE`."""
    if (math.isinf(quantized) and math.isinf(pruned)) or abs(quantized - pruned) < TIE:
        return "tie"
    return "quantize" if quantized > pruned else "prune"


def advise_layers(graph: Graph, context: Context, outputs: int, ways: Sequence[Way] = WAYS) -> list[LayerAdvice]:
    """Measures every layer with a dense weight, in the order of the model, while all others are as they are.

    Args:
        graph: the model, which stays as it is.
        context: data and runner; notes go to its report for layers that are left out.
        outputs: so many rows of each matrix are looked at, at the most, evenly spaced.
        ways: those to measure.

    Raises:
        DataError: there is no data, or none that fits.
        BackendError: there is no runtime.
    """
    context.needed_source("advise")
    known = known_fact(graph)
    spots = spots_of(known, Demands(parse_pattern("50%")), context)
    work = Work(graph, spots, _PLAIN, Wishes(parse_pattern("50%")), "uniform", context, sees=True)
    steps = steps_of(spots)
    found: dict[int, LayerAdvice] = {}

    def visit(which: int, streams: Streams) -> None:
        step = steps[which]
        context.progress("measuring layers", len(found), len(spots))
        for spot, problems in zip(step, work.problems_of(step, streams), strict=True):
            if all(one.evidence is not None and one.energies.any() for one in problems):
                found[spot] = _advice(spots[spot], problems, outputs, ways)
            else:
                context.note(f"{spots[spot].weight.name} is left out: the data shows nothing of what it reads")

    if steps:
        walk(
            graph,
            graph,
            [[use.op for spot in step for use in spots[spot].uses] for step in steps],
            context,
            visit,
            is_steady=True,
        )
    context.progress("measuring layers", len(spots), len(spots))
    return [found[index] for index in sorted(found)]


def _advice(spot: Spot, problems: Sequence[Problem], outputs: int, ways: Sequence[Way]) -> LayerAdvice:
    sums: dict[Way, Energies] = {}
    rows = max(1, outputs // len(problems))
    for problem in problems:
        for way, one in spend(_layer(spot, problem, rows), ways):
            sums[way] = sums[way] + one if way in sums else one
    spent = tuple(_spent(way, one) for way, one in sums.items())
    use = spot.use
    return LayerAdvice(
        use.weight.name, use.op.op_type, use.tensor.shape, kurtosis(use.tensor.numpy().astype(np.float64)), spent
    )


def _layer(spot: Spot, problem: Problem, rows: int) -> Layer:
    chosen = np.unique(np.linspace(0, len(problem.weight) - 1, min(rows, len(problem.weight))).round().astype(int))
    seen = problem.seen
    judge = seen.held_out if seen.held_out.count else seen.fit
    place = np.ix_(problem.order, problem.order)
    product = not spot.use.taps and spot.use.op.op_type in ("Gemm", "MatMul")
    return Layer(problem.weight[chosen], seen.fit.raw().xx[place], judge.raw().xx[place], problem.channels, product)


def _spent(way: Way, one: Energies) -> Spent:
    return Spent(
        way.name,
        way.kind,
        way.bits,
        one.stored,
        _ratio(one.weight_error, one.weight),
        _ratio(one.output_error, one.output),
        _ratio(one.least, one.output),
    )


def _ratio(error: float, signal: float) -> float | None:
    """In decibels; None where there is no error, or nothing that it could be of."""
    return decibels(error / signal) if error > 0 and signal > 0 else None
