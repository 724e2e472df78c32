"""Which groups a run may touch, and how many units of each are asked for by name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import RootModel, ValidationError

from secateur.ir.dims.groups import Group
from secateur.ir.dims.kinds import Kind, Roles
from secateur.ir.errors import DataError, RefusedError
from secateur.passes.context import Context
from secateur.passes.registry import suggest

Kinds: TypeAlias = Literal[
    "inner", "all", "channels", "heads", "ffn", "query-key", "value-output", "hidden", "recurrent", "experts"
]

CHOICES: Mapping[str, frozenset[Kind]] = MappingProxyType(
    {
        "all": frozenset(Kind),
        "inner": frozenset(Kind) - {Kind.HIDDEN},
        "channels": frozenset({Kind.CHANNELS}),
        "heads": frozenset({Kind.HEADS}),
        "ffn": frozenset({Kind.NEURONS}),
        "query-key": frozenset({Kind.QUERY_KEY}),
        "value-output": frozenset({Kind.VALUE_OUTPUT}),
        "hidden": frozenset({Kind.HIDDEN}),
        "recurrent": frozenset({Kind.RECURRENT}),
        "experts": frozenset({Kind.EXPERTS}),
    }
)
"""What `dims` may say, and the kinds that it means."""

Given: TypeAlias = Mapping[str, int | NDArray[np.int64]]
"""By the name of a group how many units stay, or which."""


def chosen(found: Sequence[Group], roles: Roles, wanted: Kinds, exact: bool, context: Context) -> list[Group]:
    """The groups that may shrink, in the order of their ops; notes for those that may not."""
    taken = []
    for group in found:
        kind = roles.kind(group)
        reason = group.pin
        if reason is None and kind not in CHOICES[wanted]:
            reason = f"it is {kind.value}, and dims={wanted} was asked for"
        if reason is None and exact and group.inexact:
            reason = f"{group.inexact}, and exact=true was asked for"
        if reason is None:
            taken.append(group)
        elif not _is_kernel(group):
            context.note(f"{group.name} keeps its {group.size}: {reason}")
    return taken


def named(found: Sequence[Group], given: Given, exact: bool) -> list[Group]:
    """The groups that are given by name, in the order of their ops.

    Raises:
        RefusedError: there is none of that name, it may not shrink, or it has no such units.
    """
    by_name = {group.name: group for group in found}
    for name, units in given.items():
        group = by_name.get(name)
        if group is None:
            raise RefusedError(f"the model has no group {name!r}", hint=suggest(name, by_name))
        if reason := group.pin or (group.inexact if exact else None):
            hint = "leave it out" if group.pin else "exact=false allows it"
            raise RefusedError(f"the group {name!r} cannot be pruned: {reason}", hint=hint)
        _check(group, units)
    return [group for group in found if group.name in given]


def _check(group: Group, units: int | NDArray[np.int64]) -> None:
    where = f"the group {group.name!r} has {group.size} units"
    if isinstance(units, int):
        if not 1 <= units <= group.size:
            raise RefusedError(f"{where}, and cannot keep {units}", hint=f"keep 1 to {group.size}")
        return
    if not len(units):
        raise RefusedError(f"{where}, and none would be left", hint="keep one at least")
    if (np.diff(units) <= 0).any() or units[0] < 0 or units[-1] >= group.size:
        raise RefusedError(f"{where}; the kept ones must rise from 0 to {group.size - 1}, got {units.tolist()}")


class _File(RootModel[dict[str, int | list[int]]]):
    """Group name -> how many units stay, or which."""


def read_units(path: str) -> Given:
    """Reads `{"<group>": 12, "<other group>": [0, 2, 5]}`, with groups as `secateur groups` names them.

    Raises:
        DataError: the file cannot be read, or says something else.
    """
    try:
        document = _File.model_validate(json.loads(Path(path).read_bytes()))
    except OSError as error:
        raise DataError(f"cannot read the units in {path}: {error.strerror}", hint="check the path") from error
    except (ValueError, ValidationError) as error:
        hint = "write a JSON object of group names, each with the number of units that stay, or a list of them"
        raise DataError(f"{path} does not say which units to keep: {error}", hint=hint) from error
    return {name: some if isinstance(some, int) else np.array(some, np.int64) for name, some in document.root.items()}


def _is_kernel(group: Group) -> bool:
    """True for the extent of a kernel in space, which nobody expects to be prunable."""
    return group.pin is not None and group.pin.endswith("has a kernel of this size")
