"""`groups`: what of a model can be removed together, unit by unit, and what cannot, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from secateur.feeding import ModelLike, graph_of, title_of
from secateur.ir.dims.algebra import owners
from secateur.ir.dims.analysis import Dimensions, dimensions
from secateur.ir.dims.groups import Group, groups
from secateur.ir.dims.kinds import Kind, Roles
from secateur.ir.dims.pairs import pair_of
from secateur.ir.edges import concat_edges
from secateur.ir.onnx_shapes import infer
from secateur.ir.removable import removable_blocks
from secateur.ir.rules.cost import cost
from secateur.ir.rules.known import Known
from secateur.passes.prune.fills import untie
from secateur.text import Shown, amount, heading, notes, table

if TYPE_CHECKING:
    from rich.console import RenderableType

_SPACE = ("has a kernel of this size", "moves over positions in space")


@dataclass(frozen=True)
class PairRow:
    """The weights around an inner dimension, and what is between them: linear, pointwise or softmax-product."""

    makers: tuple[str, ...]
    readers: tuple[str, ...]
    path: str


@dataclass(frozen=True)
class GroupRow:
    """One group.

    `parameters` and `macs` are what one unit is worth; `places` are the axes of weights that it occurs in,
    `weight:axis`. `pinned` says why no unit may go, `inexact` why removing one is more than masking. `pair` is there
    where the group is the inner dimension of two linear maps.
    """

    name: str
    kind: str
    size: int
    parameters: int
    macs: int
    places: tuple[str, ...]
    pinned: str | None
    inexact: str | None
    pair: PairRow | None = None

    def cells(self) -> dict[str, object]:
        """The columns of a table."""
        return {
            "group": self.name,
            "kind": self.kind,
            "units": self.size,
            "parameters a unit": amount(self.parameters),
            "MACs a unit": amount(self.macs),
            "places": len(self.places),
            "removal": "pinned" if self.pinned else "inexact" if self.inexact else "exact",
        }


@dataclass(frozen=True)
class BlockRow:
    """One residual block: where it begins and ends, how many ops, weight elements and multiply-accumulates go with it.

    `pinned` says why it cannot be taken out.
    """

    name: str
    part: str
    entry: str
    exit: str
    ops: int
    parameters: int
    macs: int
    pinned: str | None

    def cells(self) -> dict[str, object]:
        """The columns of a table."""
        return {
            "block": self.name,
            "part": self.part,
            "ops": self.ops,
            "parameters": amount(self.parameters),
            "MACs": amount(self.macs),
            "removal": "pinned" if self.pinned else "exact",
        }


@dataclass(frozen=True)
class EdgeRow:
    """One value that a concatenation joins: its channels, the weights that read it there, and what goes with it."""

    name: str
    source: str
    channels: int
    parameters: int
    readers: tuple[str, ...]
    pinned: str | None

    def cells(self) -> dict[str, object]:
        """The columns of a table."""
        return {
            "edge": self.name,
            "source": self.source,
            "channels": self.channels,
            "parameters": amount(self.parameters),
            "readers": len(self.readers),
            "removal": "pinned" if self.pinned else "exact",
        }


@dataclass(frozen=True)
class GroupReport(Shown):
    """What of a model can go: groups, blocks and edges in the order of its ops; and the ops that no rule speaks of."""

    model: str
    groups: tuple[GroupRow, ...]
    boundaries: dict[str, int]
    removable: tuple[BlockRow, ...] = ()
    edges: tuple[EdgeRow, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The same as dicts, lists, strings and numbers; the removable blocks as `blocks`."""
        document = asdict(self)
        return {("blocks" if key == "removable" else key): value for key, value in document.items()}

    def blocks(self) -> Iterable[RenderableType]:
        """The tables, and the reasons of what is pinned or inexact."""
        yield heading(self.model, first=True)
        yield table([row.cells() for row in self.groups])
        yield from notes(f"{row.name}: {row.pinned or row.inexact}" for row in self.groups if row.pinned or row.inexact)
        if self.removable:
            yield heading("blocks")
            yield table([row.cells() for row in self.removable])
            yield from notes(f"{row.name}: {row.pinned}" for row in self.removable if row.pinned)
        if self.edges:
            yield heading("edges into concatenations")
            yield table([row.cells() for row in self.edges])
            reasons = Counter(row.pinned for row in self.edges if row.pinned)
            yield from notes(f"{count} of them: {reason}" for reason, count in reasons.most_common())
        if self.boundaries:
            yield heading("boundaries")
            yield table([{"reason": reason, "count": count} for reason, count in self.boundaries.items()])


def group_report(model: ModelLike, *, everything: bool = False) -> GroupReport:
    """Finds the groups of a model, its residual blocks, and the edges into its concatenations.

    Args:
        model: a graph or an ONNX file.
        everything: list kernels and positions in space, too, which nobody expects to be removable.

    Raises:
        ModelError: the file is no model.
        GraphError: the graph is not well formed.
    """
    graph = graph_of(model).clone()
    graph.verify()
    untie(graph)  # as `prune` does before it looks
    known = Known(graph, infer(graph))
    found = dimensions(known)
    rows = tuple(_rows(found, everything))
    boundaries = dict(Counter(found.boundaries.values()).most_common())
    return GroupReport(title_of(model), rows, boundaries, tuple(_blocks(known)), tuple(_edges(known)))


def _rows(found: Dimensions, everything: bool) -> Iterator[GroupRow]:
    roles, spent = Roles(found), cost(found.known).macs
    for group in groups(found):
        if not everything and group.pin is not None and group.pin.endswith(_SPACE):
            continue
        places = tuple(f"{one.weight.name}:{one.axis}" for one in group.weights)
        macs = sum(_share(found, group, op_macs=spent.get(op, 0), op=op) for op in group.ops)
        behind = [op for branch in found.branches.get(group.dim, ()) for op in branch.ops]
        macs += sum(spent.get(op, 0) for op in behind) // group.size
        kind = roles.kind(group)
        yield GroupRow(
            group.name,
            kind.value,
            group.size,
            group.parameters,
            macs,
            places,
            group.pin,
            group.inexact,
            _pair(found, group, kind),
        )


def _pair(found: Dimensions, group: Group, kind: Kind) -> PairRow | None:
    pair = None if group.pin else pair_of(found, group, kind)
    if pair is None:
        return None
    makers, readers = ([one.weight.name for one in side] for side in (pair.makers, pair.readers))
    return PairRow(tuple(makers), tuple(readers), pair.path.value)


def _blocks(known: Known) -> Iterator[BlockRow]:
    for block in removable_blocks(known):
        yield BlockRow(
            block.name,
            block.part.value,
            block.entry.name,
            block.exit.name,
            len(block.ops),
            block.parameters,
            block.macs,
            block.pin,
        )


def _edges(known: Known) -> Iterator[EdgeRow]:
    for edge in concat_edges(known):
        readers = tuple(dict.fromkeys(reading.weight for reading in edge.readings))
        yield EdgeRow(edge.name, edge.source, edge.size, edge.parameters, readers, edge.pin)


def _share(found: Dimensions, group: Group, *, op_macs: int, op: Any) -> int:
    """Multiply-accumulates of one op that go with one unit: its share of the op's weight."""
    if not op_macs:
        return 0
    left = 1.0
    for occurrence in group.weights:
        if occurrence.use.op is op and len(found.of(occurrence.use)) > 1:
            owned = owners(found.of(occurrence.use)[occurrence.axis], group.dim)
            left *= 1 - float((owned == 0).mean())
    return round(op_macs * (1 - left))
