"""The `sample-channels` pass: layers behind a trunk read some of its channels only."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from secateur.ir.build import emit
from secateur.ir.dims.analysis import Dimensions
from secateur.ir.dims.groups import groups
from secateur.ir.dims.kinds import Kind, Roles
from secateur.ir.errors import RefusedError
from secateur.ir.graph import Graph
from secateur.ir.node import Op, Value
from secateur.ir.rules.weights import WeightUse
from secateur.ir.tensor import Tensor
from secateur.passes.base import Pass
from secateur.passes.context import Context
from secateur.passes.facets import Effect, Facet
from secateur.passes.layers.evidence import Evidence, Streams, gather
from secateur.passes.layers.matrix import bias_of, clip_of, matrix_of, replace_constant, write_layer
from secateur.passes.layers.stages import walk
from secateur.passes.prune import criteria, repair
from secateur.passes.prune.facts import dims
from secateur.passes.prune.problem import Layer, Problem
from secateur.passes.prune.units import units_of

Kept = NDArray[np.int64]


@dataclass(frozen=True)
class Site:
    """Layers that read the same channels of a value, all of them and in order."""

    data: Value
    uses: tuple[WeightUse, ...]

    @property
    def size(self) -> int:
        """Channels."""
        return self.uses[0].inputs


@dataclass(frozen=True)
class SampleChannels(Pass):
    """Layers that read a trunk, to which blocks add, read a selection of its channels: a Gather goes before them.

    The channel sampler of He, Zhang and Sun (2017), "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV,
    section 3.3, for the first layer of a residual branch: its inputs are others' outputs and must stay, but it need not
    look at all of them. Chosen and repaired as `prune` does. Unlike what `prune` removes, a selection costs at run
    time: the report says how many bytes each Gather moves for one sample, and how many bytes of weights it saves. Where
    `prune` can take channels away altogether, that is better.
    """

    name: ClassVar[str] = "sample-channels"
    changes: ClassVar[Facet] = Facet.TOPOLOGY | Facet.WEIGHTS | Facet.SHAPE | Facet.ATTRIBUTES
    effect: ClassVar[Effect] = Effect.LOSSY
    replayable: ClassVar[bool] = False

    ratio: float = 0.25
    """The share of channels that each selection leaves out, in [0, 1)."""
    shared: bool = True
    """Layers that read the same value (queries, keys and values; gates beside branches) share one selection."""
    criterion: str = "auto"
    """What decides which channels go; auto is obs with data and magnitude without."""
    repair: str = "auto"
    """What mends the layers; auto is least squares with data and none without."""
    align: int = 8
    """Selections are multiples of this."""
    damping: float = 0.01
    """Pull of a refit towards the old weights, relative to the mean square of the inputs."""
    positions: int = 64
    """Output positions sampled of each image, more where images are few (`reads.ROWS`); 0 takes all."""

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1 or self.align < 1 or min(self.damping, self.positions) < 0:
            raise ValueError("ratio must be in [0, 1), align at least 1; damping and positions must not be negative")
        if self.criterion != "auto":
            criteria.CRITERIA.check(self.criterion)
            if criteria.is_from_gates(self.criterion):
                raise ValueError(
                    f"criterion={self.criterion} judges units that can be removed, not inputs of one layer"
                )
        if self.repair != "auto":
            repair.REPAIRS.check(self.repair)

    def run(self, graph: Graph, context: Context) -> int:
        """Decides value by value on masked weights, then puts the selections in; returns how many."""
        sites = [site for site in self._sites(context.facts.get(dims)) if self._keep(site, context) < site.size]
        criterion, mend = self._methods(context)
        kept: dict[int, Kept] = {}

        def decide(which: int, evidence: Sequence[Evidence] | None) -> None:
            site = sites[which]
            context.progress(self.name, which, len(sites))
            if context.allow(self.name, site.uses[0].op):
                problem = _problem(graph, site, evidence, context, self.damping)
                keep = self._keep(site, context)
                ranking = criteria.CRITERIA[criterion](problem, site.size - keep)
                kept[which] = ranking.kept(site.size, keep)
                self._mend(graph, site, problem, kept[which], (mend, context))

        if context.source is None:
            for which in range(len(sites)):
                decide(which, None)
        else:
            rows = repair.ROWS if mend in repair.FROM_ROWS else 0

            def look(which: int, streams: Streams) -> None:
                decide(which, gather(streams, sites[which].uses, context, self.positions, rows))

            walk(graph, graph.clone(), [[use.op for use in site.uses] for site in sites], context, look)
        context.progress(self.name, len(sites), len(sites))
        for which, some in sorted(kept.items()):
            _select(graph, sites[which], some)
        context.manifest.exact &= not kept
        return len(kept)

    def _methods(self, context: Context) -> tuple[str, str]:
        """The criterion and the repair, with what `auto` means here."""
        has_data = context.source is not None
        criterion = self.criterion if self.criterion != "auto" else "obs" if has_data else "magnitude"
        mend = self.repair if self.repair != "auto" else "least-squares" if has_data else "none"
        if not has_data and not (criteria.is_data_free(criterion) and mend in repair.DATA_FREE):
            raise RefusedError(
                f"{self} needs calibration data, but none was given",
                hint="give --data, or sample-channels{criterion=magnitude, repair=none}",
            )
        return criterion, mend

    def _sites(self, found: Dimensions) -> Iterator[Site]:
        """The values with layers that read all of a trunk, in the order of the ops."""
        graph, roles = found.known.graph, Roles(found)
        sites: dict[Value | Op, list[WeightUse]] = {}
        for group in groups(found):
            if roles.kind(group) is not Kind.HIDDEN:
                continue
            for reader in units_of(found, group).readers:
                use = reader.use
                whole = np.array_equal(reader.unit, np.arange(group.size)) and use.inputs == group.size
                if whole and use.tensor.dtype.is_float and graph.consumers(use.weight) == [use.op]:
                    sites.setdefault(use.data if self.shared else use.op, []).append(use)
        order = {op: index for index, op in enumerate(graph.ops())}
        for uses in sorted(sites.values(), key=lambda some: order[some[0].op]):
            for axis in dict.fromkeys(use.data_axis for use in uses):
                yield Site(uses[0].data, tuple(use for use in uses if use.data_axis == axis))

    def _keep(self, site: Site, context: Context) -> int:
        """How many channels stay: rounded up to a multiple of `align`."""
        return min(site.size, math.ceil(round(site.size * (1 - self.ratio), 9) / self.align) * self.align)

    def _mend(self, graph: Graph, site: Site, problem: Problem, kept: Kept, how: tuple[str, Context]) -> None:
        mend, context = how
        costs = _costs(site, len(kept), context)
        for use, layer in zip(site.uses, problem.layers, strict=True):
            repaired = repair.REPAIRS[mend](problem, layer, kept)
            if repaired.note:
                context.note(f"{use.weight.name}: {repaired.note}")
            write_layer(graph, use, repaired.matrix, repaired.bias if mend != "none" else None)
            sizes = {"size": site.size, "kept": len(kept), **costs}
            errors = {"error": repaired.error, "unrepaired": repaired.unrepaired}
            context.row(value=site.data.name, reader=use.weight.name, **sizes, **errors)


def _problem(
    graph: Graph, site: Site, evidence: Sequence[Evidence] | None, context: Context, damping: float
) -> Problem:
    layers = tuple(
        Layer(
            matrix_of(use),
            bias_of(use, graph),
            np.arange(site.size),
            None if evidence is None else evidence[index],
            clip_of(graph, use),
        )
        for index, use in enumerate(site.uses)
    )
    return Problem(site.size, layers, (), (), context.random(site.uses[0].op.output.name), damping)


def _costs(site: Site, keep: int, context: Context) -> Mapping[str, int]:
    """Bytes that the Gather reads and writes for one sample, and bytes of weights that it saves."""
    width = site.uses[0].tensor.dtype.bits // 8
    shape = context.facts.get(dims).known.shape(site.data) or ()
    numbers = math.prod(size if isinstance(size, int) else 1 for size in shape[1:])
    weights = sum(math.prod(use.tensor.shape) for use in site.uses)
    return {
        "gather_bytes": 2 * width * numbers * keep // site.size,
        "saved_bytes": width * weights * (site.size - keep) // site.size,
    }


def _select(graph: Graph, site: Site, kept: Kept) -> None:
    """Puts a Gather before the layers, and takes from their weights what they no longer read."""
    first = site.uses[0]
    indices = graph.add_constant(f"{first.data.name}_kept", Tensor(kept.astype(np.int64)))
    selected = emit(graph, "Gather", [site.data, indices], {"axis": first.data_axis}, like=first.op).output
    for use in site.uses:
        weight = use.op.inputs[use.port]
        assert weight is not None
        assert weight.const is not None
        fewer = np.take(weight.const.numpy(), kept, axis=use.contracted)
        replace_constant(graph, use.op, use.port, np.ascontiguousarray(fewer))
        inputs = [selected if port == 1 - use.port else value for port, value in enumerate(use.op.inputs)]
        graph.set_inputs(use.op, inputs)
