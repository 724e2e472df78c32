"""The `drop-edges` pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.ir.build import emit
from secateur.ir.dims.analysis import dimensions
from secateur.ir.dims.shrink import shrink
from secateur.ir.edges import Edge, Joint, concat_edges, cut_off, flatten, joints_of, kept_of
from secateur.ir.errors import RefusedError
from secateur.ir.graph import Graph
from secateur.ir.rules.known import Known
from secateur.passes.base import Pass
from secateur.passes.cleanup.dead_code import RemoveDeadCode
from secateur.passes.cleanup.shapes import known
from secateur.passes.context import Context
from secateur.passes.facets import Effect, Facet
from secateur.passes.registry import suggest

Scores: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class DropEdges(Pass):
    """Takes values out of concatenations: the layers behind one no longer read a value that others still may.

    Densely connected networks let every layer read all those before it, and most of what is read hardly counts: Huang
    et al. 2018, "CondenseNet: An Efficient DenseNet using Learned Group Convolutions", CVPR, section 3.1, leave out the
    inputs with the smallest weights. Here they are left out by edge, so that what stays is a plain smaller layer:
    its weight, and the norms before it, are sliced, and the concatenation joins less.

    Only edges whose removal is nothing but masking what the layers behind read are taken; `secateur groups` lists them.
    """

    name: ClassVar[str] = "drop-edges"
    changes: ClassVar[Facet] = Facet.TOPOLOGY | Facet.WEIGHTS | Facet.SHAPE | Facet.ATTRIBUTES | Facet.SCHEME
    effect: ClassVar[Effect] = Effect.LOSSY
    replayable: ClassVar[bool] = False

    ratio: float | None = None
    """The share of all edges that goes, rounded down; 0.25 where `names` are not given either."""
    names: tuple[str, ...] = ()
    """The edges that go."""
    criterion: Literal["magnitude", "random"] = "magnitude"
    """What decides between edges: the mean square of the weights that read one, relative to the whole weight's."""

    def __post_init__(self) -> None:
        if self.ratio is not None and self.names:
            raise ValueError("give one of ratio and names")
        if self.ratio is not None and not 0 < self.ratio < 1:
            raise ValueError(f"ratio must be in (0, 1), got {self.ratio}")

    def run(self, graph: Graph, context: Context) -> int:
        """Scores all edges in the dense model, takes out the least, and returns how many went."""
        every = concat_edges(context.facts.get(known))
        edges = self._named(every) if self.names else self._free(every, context)
        scores = CRITERIA[self.criterion](graph, edges, context)
        ordered = [edges[index] for index in np.argsort(scores, kind="stable")]
        chosen = self._chosen(graph, ordered, every, context)
        if chosen:
            _remove(graph, chosen, context)
        for edge, score in zip(edges, scores, strict=True):
            context.row(
                edge=edge.name,
                source=edge.source,
                channels=edge.size,
                parameters=edge.parameters,
                score=None if self.names else float(score),
                dropped=edge in chosen,
            )
        return len(chosen)

    def _named(self, every: Sequence[Edge]) -> list[Edge]:
        by_name = {edge.name: edge for edge in every}
        for name in self.names:
            edge = by_name.get(name)
            if edge is None:
                raise RefusedError(f"there is no edge {name!r}", hint=suggest(name, by_name))
            if edge.pin is not None:
                raise RefusedError(
                    f"the edge {name}, by which {edge.source!r} is read, cannot be taken out: {edge.pin}",
                    hint="`secateur groups` shows the edges that can",
                )
        return [by_name[name] for name in dict.fromkeys(self.names)]

    def _free(self, every: Sequence[Edge], context: Context) -> list[Edge]:
        for edge in every:
            if edge.pin is not None:
                context.note(f"{edge.name} stays: {edge.pin}")
        free = [edge for edge in every if edge.pin is None]
        if not free:
            reason = f": {every[0].name}, for one, stays, as {every[0].pin}" if every else ""
            raise RefusedError(
                f"the model has no concatenation that an edge could be taken out of{reason}",
                hint="`prune` takes out channels, whoever reads them",
            )
        return free

    def _chosen(self, graph: Graph, ordered: Sequence[Edge], every: Sequence[Edge], context: Context) -> list[Edge]:
        """As many as asked for, in order; of each concatenation something stays."""
        left: dict[str, int] = {}
        for edge in every:
            left[edge.concat] = left.get(edge.concat, 0) + 1
        share = 0.25 if self.ratio is None else self.ratio
        count = len(ordered) if self.names else math.floor(len(ordered) * share + 1e-9)
        if not count:
            raise RefusedError(
                f"a share of {share:g} of {len(ordered)} edges is less than one", hint="ask for more, or name the edges"
            )
        chosen: list[Edge] = []
        for edge in ordered:
            if len(chosen) == count:
                break
            joint = graph.producer(graph[edge.concat])
            assert joint is not None
            if left[edge.concat] > 1:
                left[edge.concat] -= 1
                if context.allow("drop", joint):
                    chosen.append(edge)
            elif self.names:
                raise RefusedError(
                    f"without {edge.name}, nothing of the concatenation {edge.concat!r} would be left",
                    hint="name fewer of its edges",
                )
        return chosen


def magnitude(graph: Graph, edges: Sequence[Edge], context: Context) -> Scores:
    """[edges] mean square of the weight entries that read an edge, relative to all of that weight, over its readers."""
    energies: dict[tuple[str, int], NDArray[np.float64]] = {}
    scores = np.zeros(len(edges))
    for index, edge in enumerate(edges):
        shares = []
        for reading in edge.readings:
            key = reading.weight, reading.axis
            if key not in energies:
                tensor = graph[reading.weight].const
                assert tensor is not None
                entries = np.moveaxis(tensor.numpy(), reading.axis, 0).astype(np.float64)
                energies[key] = np.square(entries).reshape(len(entries), -1).mean(axis=1)
            energy = energies[key]
            shares.append(energy[reading.columns].mean() / (energy.mean() or 1.0))
        scores[index] = np.mean(shares) if shares else 0.0
    return scores


def random(graph: Graph, edges: Sequence[Edge], context: Context) -> Scores:
    """[edges] a random order: what a criterion must beat to be worth anything."""
    return context.random("drop-edges").permutation(len(edges)).astype(np.float64)


CRITERIA: Mapping[str, Callable[[Graph, Sequence[Edge], Context], Scores]] = MappingProxyType(
    {"magnitude": magnitude, "random": random}
)


def _remove(graph: Graph, edges: Sequence[Edge], context: Context) -> None:
    """Slices what reads the edges, and joins what is left."""
    here = context.facts.get(known)
    gone: dict[str, set[int]] = {}
    for edge in edges:
        gone.setdefault(edge.concat, set()).add(edge.place)
    every = joints_of(here)
    joints = [joint for joint in every if joint.op.output.name in gone]
    flatten(graph, [joint for joint in every if joint in joints or _reads(joint, joints)])
    cut = cut_off(Known(graph, here.types), joints)
    found = dimensions(Known(graph, here.types))
    kept = {}
    for joint in joints:
        kept.update(kept_of(found, joint, cut[joint.op], gone[joint.op.output.name]))
    for one in shrink(graph, found, kept):
        context.manifest.keep(one.weight, one.axis, one.kept)
    for joint in joints:
        left = [value for place, value in enumerate(joint.sources) if place not in gone[joint.op.output.name]]
        name, end = joint.op.output.name, left[0]
        graph.rename(joint.op.output, graph.unique_name(f"{name}_whole"))
        if len(left) > 1:
            end = emit(graph, "Concat", left, {"axis": joint.axis}, outputs=(name,), like=joint.op).output
        graph.replace_all_uses(cut[joint.op].output, end)
    RemoveDeadCode().run(graph, Context())


def _reads(joint: Joint, others: Sequence[Joint]) -> bool:
    """True where a concatenation joins one of these."""
    return any(other.op.output in joint.op.inputs for other in others)
