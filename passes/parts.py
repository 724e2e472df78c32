"""All the graphs in a model: its own, those of its functions, and the bodies inside."""

from __future__ import annotations

from collections.abc import Iterator

from secateur.ir import Graph


def parts(graph: Graph) -> Iterator[Graph]:
    """The graph and its functions, each after the bodies inside it, so that changes inside are done before outside."""
    for whole in (graph, *graph.functions.values()):
        yield from reversed(list(whole.graphs()))
