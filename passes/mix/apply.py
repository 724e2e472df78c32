"""A plan put into effect by the passes that there are: `sparsify`, then `quantize`, each told weights by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from glob import escape
from typing import Literal

from secateur.ir.graph import Graph
from secateur.passes.base import Pass
from secateur.passes.context import Context
from secateur.passes.mix.options import SPARSE, Option
from secateur.passes.quantize.quantize import Quantize
from secateur.passes.report import Entry, Row
from secateur.passes.sparsify.elements import Sparsify

Plan = Mapping[str, Option]
"""By the name of a weight, what it becomes; weights that are not here stay as they are."""


@dataclass(frozen=True)
class Means:
    """How the passes go about it: see the options of `quantize`.

    Attributes:
        quick: leaves out what takes long and moves figures little: for trials.
    """

    calibration: str
    clip: Literal["auto", "max", "mse"]
    rounding: str
    positions: int
    quick: bool = False


def put_into_effect(graph: Graph, plan: Plan, means: Means, context: Context) -> dict[str, Row]:
    """Rewrites a graph in place; what the passes report of each weight, by its name.

    Raises:
        SecateurError: as the passes.
    """
    columns: dict[str, Row] = {}
    original = context.original or graph.clone()
    for one in _passes(plan, means):
        reference = context.reference or original
        inner = replace(context, report=Entry(str(one)), original=original, reference=reference)
        if one.run(graph, inner):
            context.facts.drop(one.changes)
        for row in inner.report.rows:
            columns.setdefault(str(row["weight"]), {}).update(row)
        for note in inner.report.news:
            context.note(note)
    return columns


def _passes(plan: Plan, means: Means) -> list[Pass]:
    found: list[Pass] = []
    sparse = tuple(f"{escape(name)}:{SPARSE}" for name, option in plan.items() if option.sparse)
    if sparse:
        # A criterion that is named goes without refinement of its masks.
        criterion = "sparsegpt" if means.quick else "auto"
        found.append(Sparsify("dense", sparse, criterion=criterion, positions=means.positions))
    formats = tuple(f"{escape(name)}:{option.format.name}" for name, option in plan.items() if option.format)
    if formats:
        found.append(
            Quantize(
                format="float",
                formats=formats,
                calibration=means.calibration,
                clip=means.clip,
                rounding=means.rounding,
                positions=means.positions,
            )
        )
    return found
