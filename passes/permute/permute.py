"""The `permute` pass: input channels trade places, so that N:M masks keep more, and producers trade along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.calib.solvers.channel_order import Indices, assign, exchange, retained, snake
from secateur.ir.dims.groups import Group, groups
from secateur.ir.dims.order import fixed
from secateur.ir.dims.reorder import reorder
from secateur.ir.errors import RefusedError
from secateur.ir.graph import Graph
from secateur.passes.base import Pass
from secateur.passes.cleanup.shapes import known as known_fact
from secateur.passes.context import Context
from secateur.passes.facets import Effect, Facet
from secateur.passes.layers.evidence import Evidence, Streams, gather_slabs
from secateur.passes.layers.matrix import matrices_of
from secateur.passes.layers.stages import walk
from secateur.passes.permute.windows import Window, windows_of
from secateur.passes.prune.facts import dims
from secateur.passes.sparsify.criteria import CRITERIA, Criterion
from secateur.passes.sparsify.patterns import Neighbours, parse_pattern
from secateur.passes.sparsify.problem import Problem
from secateur.passes.sparsify.spots import Demands, spots_of

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
    """Output positions sampled of each image; 0 takes all."""

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
        criterion = self._criterion(context)
        pattern = parse_pattern(self.pattern)
        assert isinstance(pattern, Neighbours)
        spots = spots_of(context.facts.get(known_fact), Demands(pattern, worthwhile=self.worthwhile), context)
        found = context.facts.get(dims)
        held = fixed(found)
        wanted: list[tuple[Group, Sequence[Window]]] = []
        for group in groups(found):
            windows = windows_of(found, group, spots, pattern.group)
            if not windows or group.size % pattern.group or group.size == pattern.group:
                continue
            if reason := held.get(group.dim):
                context.note(f"{group.name} keeps its order: {reason}")
            else:
                wanted.append((group, windows))
        orders: dict[int, Indices] = {}

        def visit(which: int, streams: Streams | None) -> None:
            context.progress("permute", which, len(wanted))
            group, windows = wanted[which]
            if context.allow("permute", windows[0].spot.use.op):
                order = self._order(group, windows, self._saliency(windows, criterion, streams, context), context)
                if order is not None:
                    orders[which] = order

        if criterion.needs_data:
            walk(graph, graph, [[window.spot.use.op for window in some] for _, some in wanted], context, visit)
        else:
            for which in range(len(wanted)):
                visit(which, None)
        context.progress("permute", len(wanted), len(wanted))
        for one in reorder(graph, found, {wanted[which][0].dim: order for which, order in orders.items()}):
            context.manifest.keep(one.weight, one.axis, one.kept)
        return len(orders)

    def _criterion(self, context: Context) -> Criterion:
        name = self.criterion
        if name == "auto":
            name = "magnitude" if context.source is None else "wanda"
        criterion = CRITERIA[name]
        if criterion.needs_data and context.source is None:
            raise RefusedError(
                f"{self} needs calibration data, but none was given", hint="give --data, or criterion=magnitude"
            )
        return criterion

    def _saliency(
        self, windows: Sequence[Window], criterion: Criterion, streams: Streams | None, context: Context
    ) -> NDArray[np.float32]:
        """[rows, size] of all windows, each layer's in sum 1: none outweighs the others by its scale."""
        uses = [window.spot.use for window in windows]
        seen: Sequence[Sequence[Evidence | None]] = [[None]] * len(uses)
        if streams is not None:
            seen = gather_slabs(streams, uses, context, self.positions)
        parts = []
        for window, slabs in zip(windows, seen, strict=True):
            matrix = matrices_of(window.spot.use)[0].take(window.spot.order, axis=-1)
            problem = Problem(
                name=window.spot.weight.name,
                weight=matrix,
                bias=None,
                order=window.spot.order,
                evidence=slabs[0],
                channels=window.spot.channels,
                random=context.random(window.spot.weight.name),
                damping=0.0,
            )
            saliency = criterion.saliency(problem)
            cut = window.cut(saliency).astype(np.float32)
            parts.append(cut / (float(cut.sum(dtype=np.float64)) or 1.0))
        return np.concatenate(parts)

    def _order(
        self, group: Group, windows: Sequence[Window], saliency: NDArray[np.float32], context: Context
    ) -> Indices | None:
        """The new order of a group; None where none is better than what there is."""
        pattern = parse_pattern(self.pattern)
        assert isinstance(pattern, Neighbours)
        keep, neighbours = pattern.keep, pattern.group
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


def _columns(group: Group, windows: Sequence[Window]) -> Mapping[str, object]:
    readers = ", ".join(window.spot.weight.name for window in windows)
    return {"group": group.name, "channels": group.size, "readers": readers}
