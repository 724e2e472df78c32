"""The `rotate-heads` pass: heads in the basis in which their width can be cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.calib.gram import Gram
from secateur.calib.solvers.rotation import balanced_rotation
from secateur.ir.dims.groups import groups
from secateur.ir.dims.kinds import Kind, Roles
from secateur.ir.graph import Graph
from secateur.ir.rules.weights import WeightUse, weight_use
from secateur.passes.base import Pass
from secateur.passes.context import Context
from secateur.passes.facets import Effect, Facet
from secateur.passes.layers.evidence import Evidence, Streams, gather
from secateur.passes.layers.matrix import added_bias, bias_of, matrix_of, write_layer
from secateur.passes.layers.stages import walk
from secateur.passes.prune.facts import dims
from secateur.passes.rotate.sites import Indices, Site, site_of

Array: TypeAlias = NDArray[np.float64]
_Visit: TypeAlias = Callable[[int, Sequence[Evidence] | None], None]

_KINDS = {"query-key": {Kind.QUERY_KEY}, "value-output": {Kind.VALUE_OUTPUT}}


@dataclass(frozen=True)
class RotateHeads(Pass):
    """Gives queries with keys, and values with outputs, a basis of their own in each head: the same function.

    Its indices are ordered by what they carry, so that cutting the last ones, `prune{dims=query-key}` or
    `prune{dims=value-output}` afterwards, leaves the best product of that rank, head by head, for the calibration data
    (`secateur.calib.solvers.rotation`); without data, for inputs of equal variance. Cutting a raw index takes the same
    place from every head, whatever lies there. Scores stay divided by the root of the width that heads had.

    Keys count about their means: what all keys have in common moves all scores of a query alike, which softmax does not
    see. Where something turns, normalises or scales queries and keys between their layers and the product (rotary
    positions), they stay as they are, and the report says why.
    """

    name: ClassVar[str] = "rotate-heads"
    changes: ClassVar[Facet] = Facet.TOPOLOGY | Facet.WEIGHTS
    effect: ClassVar[Effect] = Effect.ROUNDED
    tolerance: ClassVar[float] = 1e-4
    replayable: ClassVar[bool] = False

    dims: Literal["both", "query-key", "value-output"] = "both"
    """Which sides."""
    damping: float = 1e-4
    """Added to the diagonals of Gram matrices, relative to their means."""

    def __post_init__(self) -> None:
        if not self.damping >= 0:
            raise ValueError(f"damping must not be negative, got {self.damping}")

    def run(self, graph: Graph, context: Context) -> int:
        """Rotates all heads that it may; returns how many groups of them."""
        found = context.facts.get(dims)
        kinds = _KINDS.get(self.dims, {Kind.QUERY_KEY, Kind.VALUE_OUTPUT})
        roles, sites = Roles(found), []
        for group in groups(found):
            if (kind := roles.kind(group)) not in kinds:
                continue
            site = site_of(found, group, kind) if group.pin is None else group.pin
            if isinstance(site, str):
                context.note(f"{group.name} stays as it is: {site}")
            elif context.allow(self.name, site.made.use.op):
                sites.append(site)
        rotated = 0

        def rotate(which: int, evidence: Sequence[Evidence] | None) -> None:
            nonlocal rotated
            context.progress(self.name, which, len(sites))
            self._rotate(graph, sites[which], evidence, context)
            rotated += 1

        self._visit(graph, sites, context, rotate)
        context.progress(self.name, len(sites), len(sites))
        return rotated

    def _visit(self, graph: Graph, sites: Sequence[Site], context: Context, visit: _Visit) -> None:
        if context.source is None:
            for which in range(len(sites)):
                visit(which, None)
            return
        uses = [[one.met.use] if one.kind is Kind.VALUE_OUTPUT else [one.made.use, one.met.use] for one in sites]

        def look(which: int, streams: Streams) -> None:
            visit(which, gather(streams, uses[which], context, 0))

        walk(graph, graph, [[use.op for use in some] for some in uses], context, look)

    def _rotate(self, graph: Graph, site: Site, evidence: Sequence[Evidence] | None, context: Context) -> None:
        # One weight may be part of several sites: what it is by now counts.
        known = context.facts.get(dims).known
        uses = [weight_use(known, op) for op in dict.fromkeys([site.made.use.op, site.met.use.op])]
        weights = {use.op: _Weights.of(graph, use) for use in uses if use is not None}
        made, met = weights[site.made.use.op], weights[site.met.use.op]
        grams = [None] * 2 if evidence is None else [one.together() for one in evidence]
        tails = []
        for key, here in site.made.heads.items():
            there = site.met.heads[key]
            if site.kind is Kind.VALUE_OUTPUT:
                a = made.made(here) if grams[0] is None else met.read(there, grams[0])
                rotation = balanced_rotation(a, met.weighed(there), self.damping)
                met.turn_inputs(there, rotation.backward)
            else:
                b = met.made(there, grams[1], centered=True)
                rotation = balanced_rotation(made.made(here, grams[0]), b, self.damping)
                met.turn_outputs(there, rotation.backward)
            made.turn_outputs(here, rotation.forward)
            tails.append(rotation.energy[site.group.size // 2 :].sum() / (rotation.energy.sum() or 1.0))
        for one in weights.values():
            one.write(graph)
        columns = {"group": site.group.name, "width": site.group.size, "heads": len(tails)}
        context.row(**columns, second_half=float(np.mean(tails)))


@dataclass
class _Weights:
    """The numbers of a layer, as they are turned: `matrix` [outputs, inputs] and all its `bias` [outputs], zeros for
    none; `elsewhere` is what of that an op of its own adds. Entries are [copies, width].
    """

    use: WeightUse
    matrix: Array
    bias: Array
    elsewhere: Array

    @classmethod
    def of(cls, graph: Graph, use: WeightUse) -> _Weights:
        bias, added = bias_of(use, graph), added_bias(graph, use)
        elsewhere = np.zeros(use.outputs) if added is None else added.array
        return cls(use, matrix_of(use), elsewhere if bias is None else bias + elsewhere, elsewhere)

    def made(self, entries: Indices, inputs: Gram | None = None, *, centered: bool = False) -> Array:
        """[width, width] the Gram matrix of outputs, summed over copies; of inputs of unit variance without data."""
        moments = None if inputs is None else inputs.centered() if centered else inputs.raw()
        total = np.zeros((entries.shape[1], entries.shape[1]))
        for rows in entries:
            weight, bias = self.matrix[rows], self.bias[rows]
            total += weight @ weight.T if moments is None else weight @ moments.xx @ weight.T
            if not centered:
                count, mean = (1.0, 0.0 * bias) if inputs is None else (inputs.count, weight @ inputs.mean)
                total += count * (np.outer(mean, bias) + np.outer(bias, mean) + np.outer(bias, bias))
        return total

    def read(self, entries: Indices, inputs: Gram) -> Array:
        """[width, width] the Gram matrix of inputs, about the means where there is a bias to take those up."""
        xx = inputs.centered().xx if self.bias.any() or self.use.bias_port is not None else inputs.raw().xx
        total: Array = np.sum([xx[np.ix_(columns, columns)] for columns in entries], axis=0)
        return total

    def weighed(self, entries: Indices) -> Array:
        """[width, width] the Gram matrix of what inputs are read with."""
        total: Array = np.sum([self.matrix[:, columns].T @ self.matrix[:, columns] for columns in entries], axis=0)
        return total

    def turn_outputs(self, entries: Indices, by: Array) -> None:
        """Each head's outputs times `by`."""
        for rows in entries:
            self.matrix[rows], self.bias[rows] = by.T @ self.matrix[rows], by.T @ self.bias[rows]

    def turn_inputs(self, entries: Indices, by: Array) -> None:
        """The weights of each head's inputs times `by`."""
        for columns in entries:
            self.matrix[:, columns] = self.matrix[:, columns] @ by

    def write(self, graph: Graph) -> None:
        """Gives the layer its numbers; a bias that it never had stays away."""
        bias = self.bias - self.elsewhere
        write_layer(graph, self.use, self.matrix, bias if bias.any() else None)
