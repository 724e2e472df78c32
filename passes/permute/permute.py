"""The `permute` pass: input channels trade places, so that N:M masks keep more, and producers trade along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.calib.solvers.channel_order import Indices, assign, exchange, retained, snake
from secateur.ir.dims.algebra import Dim
from secateur.ir.dims.analysis import Dimensions
from secateur.ir.dims.groups import Group, groups
from secateur.ir.dims.order import fixed
from secateur.ir.dims.reorder import reorder
from secateur.ir.errors import RefusedError
from secateur.ir.graph import Graph
from secateur.passes.base import Pass
from secateur.passes.cleanup.shapes import known as known_fact
from secateur.passes.context import Context
from secateur.passes.facets import Effect, Facet
from secateur.passes.layers.evidence import Streams
from secateur.passes.layers.stages import walk
from secateur.passes.permute.windows import Window, windows_of
from secateur.passes.prune.facts import dims
from secateur.passes.sparsify.allocation import Wishes
from secateur.passes.sparsify.criteria import CRITERIA
from secateur.passes.sparsify.methods import Methods
from secateur.passes.sparsify.patterns import Neighbours, parse_pattern
from secateur.passes.sparsify.spots import Demands, Spot, spots_of
from secateur.passes.sparsify.work import Work

_DAMPING = 0.01
"""What criteria that solve with Gram matrices add to their diagonals, as `sparsify` has it."""

Search: TypeAlias = Literal["snake", "assign", "exchange"]


@dataclass(frozen=True)
class Permute(Pass):
    """Puts the input channels of weights in an order in which N:M masks keep the most; run it before `sparsify`.

    An order is that of a dimension, found by the analysis that finds what can be pruned: whatever makes these channels
    (weights, biases, normalisations, the residual trunk with all its branches) gives them in the new order, whatever
    reads them expects that. So the model computes what it did, no op is added, and running it costs nothing. Layers
    that read one dimension get one order, the best for all of them together.

    Zhang et al. 2024, "Plug-and-Play: An Efficient Post-training Pruning Method for Large Language Models", section
    4.2 (`snake`, then `assign`); Pool and Yu 2021, "Channel Permutations for N:M Sparsity" (`exchange`, on top).
    """

    name: ClassVar[str] = "permute"
    changes: ClassVar[Facet] = Facet.WEIGHTS | Facet.TOPOLOGY
    effect: ClassVar[Effect] = Effect.ROUNDED
    tolerance: ClassVar[float] = 1e-3
    recorded: ClassVar[bool] = True

    pattern: str = "2:4"
    """N:M of the masks to come."""
    criterion: str = "auto"
    """What weights are worth, as for `sparsify`; auto is wanda with data and magnitude without."""
    search: Search = "assign"
    """How long to look: snake deals out, assign gives each place of all groups anew, exchange also swaps pairs."""
    rounds: int = 3
    """How often assign goes through all places, at most; exchange swaps ten times as often, at most."""
    worthwhile: bool = True
    """Only for weights that an N:M kernel speeds up, as for `sparsify`."""
    positions: int = 64
    """Output positions sampled of each image, more where images are few (`reads.ROWS`); 0 takes all."""

    def __post_init__(self) -> None:
        if not isinstance(parse_pattern(self.pattern), Neighbours):
            raise ValueError(f"an order matters to N:M such as 2:4 only, got pattern={self.pattern}")
        if self.criterion != "auto":
            CRITERIA.check(self.criterion)
            if CRITERIA[self.criterion].needs_gradients:
                raise ValueError(f"criterion={self.criterion} needs gradients, which orders are not chosen by")
        if self.rounds < 1 or self.positions < 0:
            raise ValueError("rounds must be 1 at least, and positions must not be negative")

    def run(self, graph: Graph, context: Context) -> int:
        """Reorders every free dimension that weights to be masked read; returns how many."""
        pattern = self._neighbours
        spots = spots_of(context.facts.get(known_fact), Demands(pattern, worthwhile=self.worthwhile), context)
        found = context.facts.get(dims)
        wanted = self._wanted(found, spots, context)
        methods = self._methods(context)
        needs_data = methods.chooser.needs_data
        work = Work(graph, spots, methods, Wishes(pattern), "uniform", context, needs_data)
        orders: dict[Dim, Indices] = {}

        def visit(which: int, streams: Streams | None) -> None:
            context.progress("permute", which, len(wanted))
            group, windows = wanted[which]
            if context.allow("permute", windows[0].spot.use.op):
                order = self._order(group, windows, _saliency(windows, work, streams), context)
                if order is not None:
                    orders[group.dim] = order

        if needs_data:
            walk(
                graph,
                graph,
                [[window.spot.use.op for window in some] for _, some in wanted],
                context,
                visit,
                is_steady=True,
            )
        else:
            for which in range(len(wanted)):
                visit(which, None)
        context.progress("permute", len(wanted), len(wanted))
        for one in reorder(graph, found, orders):
            context.manifest.keep(one.weight, one.axis, one.kept)
        return len(orders)

    @property
    def _neighbours(self) -> Neighbours:
        pattern = parse_pattern(self.pattern)
        assert isinstance(pattern, Neighbours)
        return pattern

    def _wanted(
        self, found: Dimensions, spots: Sequence[Spot], context: Context
    ) -> list[tuple[Group, Sequence[Window]]]:
        """The groups that masks depend on the order of, and that may be reordered; notes for those that may not."""
        neighbours, held = self._neighbours.group, fixed(found)
        wanted: list[tuple[Group, Sequence[Window]]] = []
        for group in groups(found):
            if group.size % neighbours or group.size == neighbours:
                continue
            windows = windows_of(found, group, spots, neighbours)
            if windows and (reason := held.get(group.dim)):
                context.note(f"{group.name} keeps its order: {reason}")
            elif windows:
                wanted.append((group, windows))
        return wanted

    def _methods(self, context: Context) -> Methods:
        """The criterion, and nothing done with what it says."""
        name = self.criterion
        if name == "auto":
            name = "magnitude" if context.source is None else "wanda"
        if CRITERIA[name].needs_data and context.source is None:
            raise RefusedError(
                f"{self} needs calibration data, but none was given", hint="give --data, or criterion=magnitude"
            )
        return Methods(name, refine="none", repair="none", damping=_DAMPING, positions=self.positions)

    def _order(
        self, group: Group, windows: Sequence[Window], saliency: NDArray[np.float32], context: Context
    ) -> Indices | None:
        """The new order of a group; None where none is better than what there is."""
        keep, neighbours = self._neighbours.keep, self._neighbours.group
        before = retained(saliency, keep, neighbours)
        order = max(
            (np.arange(group.size), snake(saliency, neighbours)),
            key=lambda one: retained(saliency, keep, neighbours, one),
        )
        if self.search != "snake":
            order = assign(saliency, keep, neighbours, order, self.rounds)
        if self.search == "exchange":
            order = exchange(saliency, keep, neighbours, order, 10 * self.rounds)
        after = retained(saliency, keep, neighbours, order)
        better = after > before * (1 + 1e-9)
        share = float(saliency.sum(dtype=np.float64)) or 1.0
        context.row(
            **_columns(group, windows), kept_before=before / share, kept_after=(after if better else before) / share
        )
        return order if better else None


def _saliency(windows: Sequence[Window], work: Work, streams: Streams | None) -> NDArray[np.float32]:
    """[rows, size] of all windows, each layer's in sum 1: none outweighs the others by its scale."""
    step = [work.spots.index(window.spot) for window in windows]
    parts = []
    for window, problems in zip(windows, work.problems_of(step, streams), strict=True):
        judged = [CRITERIA[work.methods.criterion_of(problem)].saliency(problem) for problem in problems]
        cut = np.concatenate([window.cut(saliency) for saliency in judged]).astype(np.float32)
        parts.append(cut / (float(cut.sum(dtype=np.float64)) or 1.0))
    return np.concatenate(parts)


def _columns(group: Group, windows: Sequence[Window]) -> Mapping[str, object]:
    readers = ", ".join(window.spot.weight.name for window in windows)
    return {"group": group.name, "channels": group.size, "readers": readers}
