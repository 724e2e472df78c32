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
from secateur.ir.dims.kinds import Roles
from secateur.ir.onnx_shapes import infer
from secateur.ir.rules.cost import cost
from secateur.ir.rules.known import Known
from secateur.text import Shown, amount, heading, notes, table

if TYPE_CHECKING:
    from rich.console import RenderableType

_SPACE = ("has a kernel of this size", "moves over positions in space")


@dataclass(frozen=True)
class GroupRow:
    """One group.

    `parameters` and `macs` are what one unit is worth; `places` are the axes of weights that it occurs in,
    `weight:axis`. `pinned` says why no unit may go, `inexact` why removing one is more than masking.
    """

    name: str
    kind: str
    size: int
    parameters: int
    macs: int
    places: tuple[str, ...]
    pinned: str | None
    inexact: str | None

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
class GroupReport(Shown):
    """The groups of a model in the order of its ops, and the ops that no rule speaks of."""

    model: str
    groups: tuple[GroupRow, ...]
    boundaries: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """The same as dicts, lists, strings and numbers."""
        return asdict(self)

    def blocks(self) -> Iterable[RenderableType]:
        """The table, and the reasons of what is pinned or inexact."""
        yield heading(self.model, first=True)
        yield table([row.cells() for row in self.groups])
        yield from notes(f"{row.name}: {row.pinned or row.inexact}" for row in self.groups if row.pinned or row.inexact)
        if self.boundaries:
            yield heading("boundaries")
            yield table([{"reason": reason, "count": count} for reason, count in self.boundaries.items()])


def group_report(model: ModelLike, *, everything: bool = False) -> GroupReport:
    """Finds the groups of a model.

    Args:
        model: a graph or an ONNX file.
        everything: list kernels and positions in space, too, which nobody expects to be removable.

    Raises:
        ModelError: the file is no model.
        GraphError: the graph is not well formed.
    """
    graph = graph_of(model)
    graph.verify()
    known = Known(graph, infer(graph))
    found = dimensions(known)
    rows = tuple(_rows(found, everything))
    return GroupReport(title_of(model), rows, dict(Counter(found.boundaries.values()).most_common()))


def _rows(found: Dimensions, everything: bool) -> Iterator[GroupRow]:
    roles, spent = Roles(found), cost(found.known).macs
    for group in groups(found):
        if not everything and group.pin is not None and group.pin.endswith(_SPACE):
            continue
        places = tuple(f"{one.weight.name}:{one.axis}" for one in group.weights)
        macs = sum(_share(found, group, op_macs=spent.get(op, 0), op=op) for op in group.ops)
        yield GroupRow(
            group.name, roles.kind(group).value, group.size, group.parameters, macs, places, group.pin, group.inexact
        )


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
