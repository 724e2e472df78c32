"""Weights that were promised to be N:M, and that a pass left otherwise, are made so again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from glob import escape

from secateur.ir.graph import Graph
from secateur.ir.node import Value
from secateur.ir.sparsity_scheme import SparsityScheme, unmark
from secateur.passes.context import Context
from secateur.passes.report import Entry
from secateur.passes.sparsify.elements import Sparsify


def remask(graph: Graph, lost: Sequence[Value], context: Context) -> None:
    """Masks weights anew that are marked as N:M and are not, as `sparsify` does by default: with data, or without.

    Structured pruning takes channels out of the middle of groups of neighbours, and its repair fills zeros. Weights
    that N:M does not fit any more lose their mark, and the report says so.

    Args:
        graph: the model, changed in place.
        lost: constants with a mark that does not hold.
        context: of the pass that left them so; notes go to its entry.
    """
    fits = [value for value in lost if _still_fits(value)]
    wanted = tuple(f"{escape(value.name)}:{scheme.keep}:{scheme.group}" for value, scheme in _marked(fits))
    done: dict[object, dict[str, object]] = {}
    if wanted:
        inside = replace(context, report=Entry("sparsify"))
        Sparsify(patterns=(*wanted, "*:dense")).run(graph, inside)
        done = {row["weight"]: dict(row) for row in inside.report.rows}
        context.facts.drop(Sparsify.changes)
    for value, scheme in _marked(lost):
        if value.name in done and value.const is not None and scheme.holds(value.const):
            how = "by magnitude" if context.source is None else "and fitted anew"
            context.note(f"{value.name} is {scheme} again: masked {how}")
            continue
        context.note(f"{value.name} is no longer {scheme}: its {value.const} has no such groups")
        context.manifest.schemes.pop(value.name, None)
        unmark(value)


def _marked(values: Sequence[Value]) -> Iterator[tuple[Value, SparsityScheme]]:
    for value in values:
        if (scheme := SparsityScheme.of(value)) is not None:
            yield value, scheme


def _still_fits(value: Value) -> bool:
    scheme = SparsityScheme.of(value)
    shape = () if value.const is None else value.const.shape
    return scheme is not None and scheme.axis < len(shape) and shape[scheme.axis] % scheme.group == 0
