"""Calibration data with variations of it, for whatever fits layers on it."""

from __future__ import annotations

from dataclasses import replace

from secateur.calib.augment import augmented, roles
from secateur.ir.graph import Graph
from secateur.passes.context import Context


def varied(context: Context, graph: Graph, copies: int) -> Context:
    """The context with `copies` variations of each batch behind it (`secateur.calib.augment`); itself without data."""
    if context.source is None or not copies:
        return context
    return replace(context, source=augmented(context.source, roles(graph), copies, context.seed))
