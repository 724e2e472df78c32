"""What the names in a mask file mean in a graph: elements of weights, units of groups, blocks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secateur.ir.dims.algebra import expand, leaves, owners
from secateur.ir.dims.analysis import Dimensions
from secateur.ir.dims.axes import Layouts, Use
from secateur.ir.dims.groups import Group, groups
from secateur.ir.errors import RefusedError
from secateur.ir.graph import Graph
from secateur.ir.node import Value
from secateur.ir.removable import Removable, removable_blocks
from secateur.passes.masks.decide import Entry
from secateur.passes.masks.file import Values
from secateur.passes.registry import suggest

_AXIS = re.compile(r"(?P<weight>.+):(?P<axis>\d+)", re.DOTALL)
_HINT = "`secateur groups` shows the groups and blocks of a model; weights are named as in the file of the model"


@dataclass(frozen=True)
class Targets:
    """What the entries of a file are of, in the order in which they are met.

    Attributes:
        weights: by name, masks of the shape of the weight.
        groups: by name, vectors with a value for each unit.
        blocks: by name, single values (rank 0).
    """

    weights: dict[str, list[Entry]] = field(default_factory=dict)
    groups: dict[str, list[Entry]] = field(default_factory=dict)
    blocks: dict[str, list[Entry]] = field(default_factory=dict)


class Names:
    """The names that a graph gives to what can be masked."""

    def __init__(self, graph: Graph, found: Dimensions) -> None:
        self.found = found
        self.groups: Mapping[str, Group] = {group.name: group for group in groups(found)}
        self.blocks: Mapping[str, Removable] = {block.name: block for block in removable_blocks(found.known)}
        self.weights: Mapping[str, Value] = {
            value.name: value
            for value in graph.constants()
            if value.const is not None and value.const.dtype.is_float and value.const.shape
        }
        self._of_dim = {group.dim: group for group in self.groups.values()}

    def targets(self, masks: Mapping[str, Values]) -> Targets:
        """Sorts the entries of a file by what they are of.

        Raises:
            RefusedError: a name is not known, a shape does not fit, or a vector along an axis splits units.
        """
        made = Targets()
        for name, values in masks.items():
            self._place(made, name, values)
        return made

    def _place(self, made: Targets, name: str, values: Values) -> None:
        weight, group = self.weights.get(name), self.groups.get(name)
        along = self._along(name)
        expected = []
        if weight is not None and weight.const is not None:
            if values.shape == weight.const.shape:
                made.weights.setdefault(name, []).append(Entry(name, values))
                return
            expected.append(f"the weight has shape {list(weight.const.shape)}")
        if group is not None:
            if values.shape == (group.size,):
                made.groups.setdefault(name, []).append(Entry(name, values))
                return
            expected.append(f"the group has {group.size} units")
        if along is not None:
            size = along[0].const.shape[along[1]] if along[0].const is not None else 0
            if values.shape == (size,):
                for whole, units in self._units(name, *along, values):
                    made.groups.setdefault(whole.name, []).append(Entry(name, units))
                return
            expected.append(f"the axis has {size} indices")
        if name in self.blocks:
            if values.size == 1:
                made.blocks.setdefault(name, []).append(Entry(name, values.reshape(())))
                return
            expected.append("a block takes a single value")
        if expected:
            where = f"the mask {name!r} has shape {list(values.shape)}"
            raise RefusedError(f"{where}, but {', and '.join(dict.fromkeys(expected))}", hint=_HINT)
        known = [*self.weights, *self.groups, *self.blocks]
        raise RefusedError(
            f"the model has no weight, group or block {name!r}", hint=suggest(name, known) if known else _HINT
        )

    def _along(self, name: str) -> tuple[Value, int] | None:
        """The weight and the axis that `weight:axis` names."""
        written = _AXIS.fullmatch(name)
        weight = self.weights.get(written["weight"]) if written else None
        if written is None or weight is None or weight.const is None:
            return None
        axis = int(written["axis"])
        return (weight, axis) if axis < len(weight.const.shape) else None

    def _units(self, name: str, weight: Value, axis: int, values: Values) -> list[tuple[Group, Values]]:
        """A vector along an axis as vectors of the units of its groups, those that it says nothing of left out."""
        layouts = self._layouts(weight)
        layout = [] if layouts is None else expand(layouts[axis])
        covered, made = values == 1, list[tuple[Group, Values]]()
        for leaf in dict.fromkeys(leaves(layout)):
            group = self._of_dim.get(leaf)
            if group is None or covered.all():
                continue
            own = owners(layout, leaf)
            units = _by_unit(values, own, group.size)
            if units is not None and not (units == 1).all():
                made.append((group, units))
                covered = covered | (own >= 0)
        if not covered.all():
            parts = [group.name for leaf in dict.fromkeys(leaves(layout)) if (group := self._of_dim.get(leaf))]
            raise RefusedError(
                f"the mask {name!r} is not of whole units: the axis is made of {', '.join(parts) or 'no group'}",
                hint=f"mask these groups by name, or single elements of {weight.name!r} by its name alone",
            )
        return made

    def _layouts(self, weight: Value) -> Layouts | None:
        return next(
            (
                here
                for place, here in self.found.layouts.items()
                if isinstance(place, Use) and place.op.inputs[place.port] is weight
            ),
            None,
        )


def _by_unit(values: Values, own: NDArray[np.int64], size: int) -> Values | None:
    """[size] the value that all indices of each unit share; None where they do not, or a unit has none."""
    inside = np.flatnonzero(own >= 0)
    present, first = np.unique(own[inside], return_index=True)
    units = values[inside[first]]
    return units if len(present) == size and (units[own[inside]] == values[inside]).all() else None
