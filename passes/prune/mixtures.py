"""What mends a mixture that lost experts: those that are left, fitted to what all of them gave together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.calib.gram import Gram
from secateur.ir.graph import Graph
from secateur.ir.node import Value
from secateur.ir.rules.known import Known
from secateur.ir.rules.weights import WeightUse, weight_use
from secateur.passes.context import Context
from secateur.passes.layers.evidence import HELD_OUT, Evidence, Streams
from secateur.passes.layers.matrix import matrix_of, write_layer
from secateur.passes.layers.stages import walk
from secateur.passes.prune.experts import Mixture, Share
from secateur.passes.prune.problem import Layer, Problem
from secateur.passes.prune.repair.least_squares import refit

Array: TypeAlias = NDArray[np.float64]

_KEEPS_ROWS = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
"""What leaves rows in their order."""


@dataclass(frozen=True)
class Thinned:
    """A mixture that lost experts: where the shares of all were to be seen, by name, and which experts stay."""

    name: str
    dense: tuple[str, ...]
    left: tuple[Share, ...]

    @classmethod
    def of(cls, name: str, mixture: Mixture, kept: Sequence[int]) -> Thinned:
        """From the mixture of a group as it was."""
        return cls(
            name, tuple(one.weighted.name for one in mixture.apart), tuple(mixture.apart[index] for index in kept)
        )


@dataclass(frozen=True)
class _Expert:
    """The last layer of an expert, what it reads, and the share that its output is multiplied with."""

    use: WeightUse
    share: Value


def refit_experts(graph: Graph, dense: Graph, thinned: Sequence[Thinned], context: Context, damping: float) -> int:
    """Gives the last layers of experts that are left new weights; how many mixtures have them.

    The router sends tokens of the experts that went to those that stay, with shares that are made to sum to 1 anew. The
    sum of what experts give is linear in their last layers all the same: of `share * input`, side by side for all
    experts, least squares gives the weights by which the mixture comes nearest to what the whole one gave. As
    `least_squares.refit`, it pulls to the old weights as strongly as held-out samples allow.

    Left alone are mixtures whose experts see tokens of their own only, and those that end in anything but a layer
    without a bias.
    """
    known = Known(graph)
    wanted = [(one, experts) for one in thinned if (experts := _experts(known, one)) is not None]
    done: list[int] = []

    def look(which: int, streams: Streams) -> None:
        one, experts = wanted[which]
        evidence = _gathered(streams, one, experts, context)
        if evidence is None:
            return
        matrices = [matrix_of(expert.use) for expert in experts]
        layer = Layer(np.concatenate(matrices, axis=1), None, np.full(evidence.fit.width, -1), evidence)
        problem = Problem(1, (layer,), (), (), context.random(one.name), damping)
        repaired = refit(problem, layer, np.zeros(1, np.int64))
        bounds = np.cumsum([matrix.shape[1] for matrix in matrices])[:-1]
        for expert, matrix in zip(experts, np.split(repaired.matrix, bounds, axis=1), strict=True):
            write_layer(graph, expert.use, matrix, None)
        done.append(which)
        context.row(
            group=one.name,
            kept=len(experts),
            reader=experts[0].use.weight.name,
            error=repaired.error,
            unrepaired=repaired.unrepaired,
        )

    if wanted:
        jobs = [[expert.use.op for expert in experts] for _, experts in wanted]
        walk(graph, dense, jobs, context, look)
    return len(done)


def _experts(known: Known, one: Thinned) -> list[_Expert] | None:
    graph, found = known.graph, []
    for share in one.left:
        maker, product = graph.producer(share.plain), graph.producer(share.weighted)
        use = None if maker is None else weight_use(known, maker)
        if use is None or product is None or use.groups > 1 or use.bias is not None:
            return None
        if len(use.tensor.shape) != 2 or use.output_axis != use.data_axis:
            return None
        others = [value for value in product.inputs if value is not None and value is not share.plain]
        if len(others) != 1:
            return None
        found.append(_Expert(use, others[0]))
    return found


def _gathered(streams: Streams, one: Thinned, experts: Sequence[_Expert], context: Context) -> Evidence | None:
    """Moments of the inputs times shares, and of what is to come of them; None where rows differ.

    That is what all experts gave together, or, where it is added to a shortcut, what makes up for its drift, too.
    """
    factory, present, dense = context.needed_runner("refitting experts"), streams.present, streams.dense
    total, shortcut = _sum(present.graph, one, dense.graph)
    reads = [value.name for expert in experts for value in (expert.use.data, expert.share)]
    evidence: Evidence | None = None
    seen = 0
    with (
        factory(present.graph, inputs=present.inputs, outputs=list(dict.fromkeys([*reads, *shortcut]))) as now,
        factory(dense.graph, inputs=dense.inputs, outputs=total) as then,
    ):
        for (_, batch), (_, other) in zip(present.walk(), dense.walk(), strict=True):
            given, wanted = now.run(batch.feeds), then.run(other.feeds)
            targets = [*(_rows(wanted[name]) for name in total), *(-_rows(given[name]) for name in shortcut)]
            parts = [_rows(given[expert.use.data.name]) for expert in experts]
            shares = [given[expert.share.name].reshape(-1, 1) for expert in experts]
            if len({len(array) for array in (*parts, *shares, *targets)}) > 1:
                return None
            x = np.concatenate([part * share for part, share in zip(parts, shares, strict=True)], axis=1)
            if evidence is None:
                widths = x.shape[1], targets[0].shape[1]
                evidence = Evidence(Gram(*widths), Gram(*widths))
            samples = batch.samples or 1
            is_held_out = (seen + np.arange(len(x)) * samples // len(x)) % HELD_OUT == HELD_OUT - 1
            for gram, chosen in ((evidence.fit, ~is_held_out), (evidence.held_out, is_held_out)):
                if chosen.any():
                    gram.update(x[chosen], np.sum(targets, axis=0)[chosen], batch.weight)
            seen += samples
    return evidence


def _sum(graph: Graph, one: Thinned, dense: Graph) -> tuple[list[str], list[str]]:
    """What to add up of the dense model, and what of the present one to take off, for the target of all experts."""
    inside = {share.weighted for share in one.left}
    waiting, ends = list(inside), dict[Value, Value]()
    while waiting:
        for op, port in graph.uses(waiting.pop()):
            other = op.inputs[1 - port] if op.op_type == "Add" else None
            if op.op_type in _KEEPS_ROWS or other in inside:
                ends.pop(op.output, None)
                if op.output not in inside:
                    inside.add(op.output)
                    waiting.append(op.output)
            elif other is not None:
                ends[op.output] = other
    ends = {made: other for made, other in ends.items() if made not in inside}
    if len(ends) == 1:
        ((total, shortcut),) = ends.items()
        if graph.constant(shortcut) is None and dense.get(total.name) is not None:
            return [total.name], [shortcut.name]
    return list(one.dense), []


def _rows(array: NDArray[Any]) -> Array:
    return array.astype(np.float64).reshape(-1, array.shape[-1])
