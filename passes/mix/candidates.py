"""Which layers have a choice, and what each may become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from secateur.ir.node import Value
from secateur.ir.rules.known import Known
from secateur.ir.rules.weights import WeightUse, strangers, weight_uses
from secateur.passes.context import Context
from secateur.passes.mix.options import KEEP, SPARSE, Option
from secateur.passes.quantize.layers import Layer, Wishes, sorted_layers
from secateur.passes.sparsify.patterns import parse_pattern
from secateur.passes.sparsify.spots import Demands, Spot, sorted_spots


@dataclass(frozen=True)
class Candidate:
    """A weight that may become one of several things.

    Attributes:
        weight: the float constant.
        uses: the ops that read it.
        layers: for each option that has a format, what `quantize` takes it for (a weight that ops read differently is
            several layers).
        spot: what `sparsify` takes it for; None where it stays dense.
        shared: whether others read it as it is, so that the floats stay in the file.
    """

    weight: Value
    uses: tuple[WeightUse, ...]
    layers: dict[Option, tuple[Layer, ...]]
    spot: Spot | None
    shared: bool

    @property
    def name(self) -> str:
        """Of the weight."""
        return self.weight.name

    @cached_property
    def size(self) -> int:
        """How many weights."""
        return self.uses[0].tensor.size


@dataclass(frozen=True)
class Choosable:
    """A candidate with the options that are worth a look: the first is float, as it is."""

    candidate: Candidate
    options: tuple[Option, ...]


def candidates(known: Known, options: Sequence[Option], context: Context) -> list[Choosable]:
    """All weights that have a choice, in the order of the model; notes for those that have none, with the reason."""
    by_format: dict[str, dict[Value, list[Layer]]] = {}
    reasons: dict[Value, str] = {}
    for one in options:
        if one.format is not None and one.format.name not in by_format:
            found: dict[Value, list[Layer]] = {}
            layers, refused = sorted_layers(known, Wishes(one.format))
            for layer in layers:
                found.setdefault(layer.weight, []).append(layer)
            by_format[one.format.name] = found
            _remember(reasons, refused)
    spots: dict[Value, Spot] = {}
    if any(one.sparse for one in options):
        found_spots, refused = sorted_spots(known, Demands(parse_pattern(SPARSE)))
        spots = {spot.weight: spot for spot in found_spots}
        _remember(reasons, refused)
    able = {*spots, *(value for found in by_format.values() for value in found)}
    weights = [value for value in dict.fromkeys(use.weight for use in weight_uses(known)) if value in able]
    chosen = [_choosable(known, value, options, by_format, spots.get(value)) for value in weights]
    for weight, reason in reasons.items():
        if weight not in able:
            context.note(f"{weight.name} has no choice: {reason}")
    return chosen


def _remember(reasons: dict[Value, str], refused: Sequence[tuple[Value, str]]) -> None:
    for weight, reason in refused:
        reasons.setdefault(weight, reason)


def _choosable(
    known: Known,
    weight: Value,
    options: Sequence[Option],
    by_format: dict[str, dict[Value, list[Layer]]],
    spot: Spot | None,
) -> Choosable:
    layers: dict[Option, tuple[Layer, ...]] = {}
    taken = [KEEP]
    for option in options:
        if option == KEEP or (option.sparse and spot is None):
            continue
        if option.format is not None:
            found = by_format[option.format.name].get(weight)
            if found is None:
                continue
            layers[option] = tuple(found)
        taken.append(option)
    uses = spot.uses if spot is not None else tuple(use for layer in next(iter(layers.values())) for use in layer.uses)
    return Choosable(Candidate(weight, uses, layers, spot, bool(strangers(known.graph, weight, uses))), tuple(taken))
