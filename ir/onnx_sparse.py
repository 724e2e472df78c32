"""Which weights of a file are stored sparsely: read into a graph, all are dense."""

from __future__ import annotations

import os
from collections.abc import Iterator

import onnx

from secateur.ir.onnx_skeleton import skeleton


def sparse_initializers(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The names of the `sparse_initializer`s of a model and of the bodies in it. Weights are not read.

    Raises:
        ModelError: the file is missing, or not ONNX.
    """
    model = skeleton(path)
    return tuple(_names(model.graph))


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (sparse.values.name for sparse in graph.sparse_initializer)
    for node in graph.node:
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                yield from _names(body)
