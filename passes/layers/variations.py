"""Calibration data with variations of it, for whatever fits layers on it."""

from __future__ import annotations

from dataclasses import replace

from secateur.calib.augment import augmented, roles
from secateur.ir.graph import Graph
from secateur.passes.context import Context


def varied(context: Context, graph: Graph, copies: int | None, *choices: str) -> Context:
    """The context with `copies` variations of each batch behind it (`secateur.calib.augment`); itself without data.

    None is one where the model reads tokens, for a few hundred texts leave out most of a vocabulary, and 0 elsewhere;
    0, too, where one of the `choices` of method is not "auto": what somebody names gets the data as it is.
    """
    if context.source is None or copies == 0:
        return context
    found, is_told = roles(graph), copies is not None
    if copies is None:
        is_automatic = all(choice == "auto" for choice in choices)
        copies = int(is_automatic and any(role.kind == "tokens" for role in found.values()))
    if not copies:
        return context
    context.note(f"fitted on variations of the calibration data, too: {copies} of each batch (augment)", asked=is_told)
    return replace(context, source=augmented(context.source, found, copies, context.seed))
