"""ONNX in: a file, bytes or a ModelProto becomes a Graph, and the weights stay where they are."""

from __future__ import annotations

import gc
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from secateur.ir import wire
from secateur.ir.errors import ModelError
from secateur.ir.graph import Graph
from secateur.ir.model import FunctionKey, Header
from secateur.ir.node import Attribute
from secateur.ir.onnx_attributes import AttributeReader
from secateur.ir.onnx_read_graph import GraphReader
from secateur.ir.onnx_tensors import Weights
from secateur.ir.onnx_types import read_pairs, text
from secateur.ir.storage import OpenFiles, Storage

_OPAQUE = {"training_info", "configuration"}


def load(path: str | os.PathLike[str]) -> Graph:
    """The model in an ONNX file, with its external data in the same folder or below it.

    Weights of more than 2 KiB stay in their files until somebody asks for their numbers.

    Raises:
        ModelError: the file, or external data that it names, is missing, damaged, or not ONNX.
        GraphError: the ops form a cycle.
    """
    files = OpenFiles()
    return _from_storage(Storage(path, files), Path(path).parent, files)


def from_bytes(data: bytes, base_folder: str | os.PathLike[str] | None = None) -> Graph:
    """A serialized model becomes a graph whose weights are views of `data`.

    Args:
        data: a ModelProto.
        base_folder: where external data lies; without it, a model that has some is refused.

    Raises:
        ModelError, GraphError: as `load`.
    """
    return _from_storage(Storage(bytes(data)), None if base_folder is None else Path(base_folder), OpenFiles())


def from_proto(model: onnx.ModelProto, base_folder: str | os.PathLike[str] | None = None) -> Graph:
    """A parsed model becomes a graph; see `from_bytes`."""
    with _collector_paused():
        return _read_model(model, Weights(folder=None if base_folder is None else Path(base_folder)))


def _from_storage(storage: Storage, folder: Path | None, files: OpenFiles) -> Graph:
    mark = secrets.token_bytes(16)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(wire.strip(storage, mark))
    except DecodeError as error:
        raise ModelError(
            f"{storage.path or 'the given data'} is no ONNX model: {error}",
            hint="the file is damaged, cut short, or not ONNX",
        ) from None
    if not model.HasField("graph"):
        raise ModelError(
            f"{storage.path or 'the given data'} is no ONNX model: there is no graph in it",
            hint="the file is damaged, empty, or not ONNX",
        )
    with _collector_paused():
        return _read_model(model, Weights(storage, mark, folder, files))


@contextmanager
def _collector_paused() -> Iterator[None]:
    """No garbage collection for a moment: everything made here is kept, so that a quarter of the time is saved."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _read_model(model: onnx.ModelProto, weights: Weights) -> Graph:
    extra = onnx.ModelProto()
    for name in sorted(_OPAQUE.intersection(extra.DESCRIPTOR.fields_by_name)):
        getattr(extra, name).extend(getattr(model, name))
    header = Header(
        ir_version=model.ir_version,
        opsets=_opsets(model.opset_import),
        producer=(text(model.producer_name, "the producer"), text(model.producer_version, "the producer")),
        domain=text(model.domain, "the model's domain"),
        model_version=model.model_version,
        doc=text(model.doc_string, "the model's documentation"),
        metadata=read_pairs(model.metadata_props),
        extra=extra.SerializeToString(),
    )
    graph = Graph(text(model.graph.name, "the graph's name"), header=header)
    reader = GraphReader(graph, weights, model.ir_version)
    reader.read_graph(model.graph)
    _complete_opsets(graph, reader.domains)
    for proto in model.functions:
        key = FunctionKey(*(text(word, "a function") for word in (proto.domain, proto.name, proto.overload)))
        if key in graph.functions:
            raise ModelError(f"the model defines the function {key.domain}::{key.name} twice")
        graph.functions[key] = _read_function(proto, weights, model.ir_version)
    return graph


def _read_function(proto: onnx.FunctionProto, weights: Weights, ir_version: int) -> Graph:
    name = text(proto.name, "a function's name")
    defaults = AttributeReader(weights, GraphReader(Graph(name), weights, ir_version).read_body)
    parameters: list[tuple[str, Attribute | None]] = [(text(item, name), None) for item in proto.attribute]
    parameters += [(text(item.name, name), defaults.read(item, name)) for item in proto.attribute_proto]
    header = Header(ir_version, _opsets(proto.opset_import), parameters=tuple(parameters))
    graph = Graph(name, header=header)
    reader = GraphReader(graph, weights, ir_version)
    reader.read_function(proto)
    _complete_opsets(graph, reader.domains)
    return graph


def _complete_opsets(graph: Graph, domains: set[str]) -> None:
    """Imports that a file leaves out, as runtimes complete them: version 1 of a domain that is not ONNX's own.

    ONNX's own domains have many versions, which differ; only before IR 3, when there was one, could they be left out.
    """
    for domain in sorted(domains):
        if graph.header.opset(domain) is None:
            if (not domain or domain.startswith("ai.onnx")) and graph.header.ir_version >= 3:
                raise ModelError(
                    f"{graph.title} has ops of domain {domain!r}, of which it imports no version",
                    hint="add the domain to the model's opset_import",
                )
            graph.header = graph.header.with_opset(domain, 1)


def _opsets(entries: Any) -> tuple[tuple[str, int], ...]:
    return tuple((text(entry.domain, "an opset's domain"), entry.version) for entry in entries)
