"""Passes inside a pass: in a row, or round and round until nothing is left to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import Enum

from secateur.ir import Graph
from secateur.passes.base import Pass
from secateur.passes.context import Context
from secateur.passes.report import Entry, Row


class Stop(Enum):
    """Why a repetition came to an end."""

    NOTHING_LEFT = "nothing is left to do"
    LIMIT = "the limit of rounds was reached, and something may be left to do"


def run_inside(passes: Sequence[Pass], graph: Graph, context: Context) -> int:
    """Runs passes within another pass, on its graph and its context, and forgets the facts that they change.

    What they report becomes rows of the other's table that begin with the pass.
    """
    total = 0
    for one in passes:
        entry = Entry(str(one))
        rewrites = one.run(graph, replace(context, report=entry))
        if rewrites:
            context.facts.drop(one.changes)
        rows: list[Row] = entry.rows or ([{"rewrites": rewrites}] if rewrites else [])
        for row in rows:
            context.row(**{"pass": one.name, **row})
        for note in entry.notes:
            context.note(note)
        total += rewrites
    return total


def repeat(passes: Sequence[Pass], graph: Graph, context: Context, limit: int) -> tuple[int, Stop]:
    """Runs passes again and again until a round changes nothing; returns all rewrites together and why it ended."""
    total = 0
    for _ in range(limit):
        rewrites = run_inside(passes, graph, context)
        total += rewrites
        if rewrites == 0:
            return total, Stop.NOTHING_LEFT
    return total, Stop.LIMIT
