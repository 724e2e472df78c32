"""Which files belong to a model: itself, and those that its external data lies in."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx

from secateur.ir.errors import ModelError
from secateur.ir.onnx_skeleton import skeleton


def external_files(path: str | os.PathLike[str]) -> tuple[Path, ...]:
    """The files of external data that a model names, each once, as they lie beside it. Weights are not read.

    Raises:
        ModelError: the file is missing, or not ONNX.
    """
    model = skeleton(path)
    functions = (node for function in model.functions for node in function.node)
    tensors = (*_tensors(model.graph), *_attributes(functions))
    names = [entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"]
    return tuple(Path(path).parent / name for name in sorted(set(names)))


def checksums(path: str | os.PathLike[str]) -> dict[str, str]:
    """SHA-256 of a model and of its external data, by the name that each file has beside the model.

    Raises:
        ModelError: a file is missing, or the model is not ONNX.
    """
    model = Path(path)
    found = {}
    for file in (model, *external_files(model)):
        try:
            with file.open("rb") as stream:
                found[os.path.relpath(file, model.parent)] = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise ModelError(f"{path}: cannot read {file}: {error.strerror}") from error
    return found


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _attributes(graph.node)


def _attributes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for body in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                yield from _tensors(body)
