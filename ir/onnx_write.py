"""ONNX out: a Graph becomes a file, or bytes, and weights that nobody touched are copied inside the kernel."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from secateur.ir.errors import OutputError
from secateur.ir.files import write_atomically
from secateur.ir.graph import Graph
from secateur.ir.node import SparseTensor
from secateur.ir.onnx_write_graph import STREAMED, ModelWriter
from secateur.ir.parts import External, Parts
from secateur.ir.tensor import Tensor

_LIMIT = (1 << 31) - 1
_COMFORTABLE = 1_900_000_000
_INLINE = 1024
"""Bytes up to which a tensor stays in the model even if it has external data."""


def save(graph: Graph, path: str | os.PathLike[str], *, external_data: bool | None = None) -> None:
    """Writes a model to an ONNX file; the same graph always gives the same bytes.

    Args:
        graph: a whole model. It stays usable even if `path` is the file that it was loaded from.
        path: the file; what was there is replaced at the end, in one step.
        external_data: True puts tensors of more than 1 KiB into one file `<path>.data` beside the model; False keeps
            all of them in the model; None does that too unless they take more than 1.9 GB, since a protobuf file ends
            at 2 GiB.

    Raises:
        OutputError: the file cannot be written, or would be larger than protobuf allows.
        ModelError: weights that are still in a file cannot be read from it any more.
    """
    target = Path(path)
    tensors = list(_tensors(graph))
    if external_data is None:
        external_data = sum(tensor.nbytes for tensor in tensors) > _COMFORTABLE
    companion = target.with_name(target.name + ".data")
    external = External(companion.name, _INLINE) if external_data else None
    parts = ModelWriter(graph, external).model()
    _check_size(parts, str(target))
    _hold(tensors, target, companion)
    if external is None or not external.tensors:
        with write_atomically(target) as (temporary,):
            _write(temporary, parts)
        return
    with write_atomically(companion, target) as (temporary_data, temporary):
        _write(temporary_data, external.parts())
        _write(temporary, parts)


def to_bytes(graph: Graph) -> bytes:
    """The serialized ModelProto with all weights in it.

    Raises:
        OutputError: it would be larger than the 2 GiB that protobuf allows.
    """
    parts = ModelWriter(graph).model()
    _check_size(parts, "the serialized model")
    return parts.to_bytes()


def detached(graph: Graph, threshold: int = _INLINE) -> tuple[bytes, dict[str, Tensor]]:
    """A serialized model without its large initializers, and these by name: what a runtime needs that is fed weights.

    In the model they are declared external, at the location "detached", with no bytes anywhere. Large constants that
    came as `Constant` nodes are among them. Metadata and remarks are left out, too.

    Args:
        graph: a whole model.
        threshold: bytes up to which a tensor of the outermost graph stays in the model.

    Raises:
        OutputError: what is left would be larger than the 2 GiB that protobuf allows.
    """
    writer = ModelWriter(graph, detach_above=threshold)
    parts = writer.model()
    _check_size(parts, "the detached model")
    return parts.to_bytes(), writer.detached


def _hold(tensors: Iterable[Tensor], *replaced: Path) -> None:
    """Keeps the files open that are about to be replaced, so that the graph in memory stays usable."""
    there = {(status.st_dev, status.st_ino) for path in replaced if path.exists() for status in [path.stat()]}
    for storage in {tensor.storage for tensor in tensors}:
        if storage is not None and storage.file in there:
            storage.hold()


def _check_size(parts: Parts, what: str) -> None:
    if parts.size > _LIMIT:
        raise OutputError(
            f"{what} would take {parts.size} bytes, and protobuf allows {_LIMIT}", hint="save with external_data=True"
        )


def _write(path: Path, parts: Parts) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        parts.write(descriptor)
    finally:
        os.close(descriptor)


def _tensors(graph: Graph) -> Iterator[Tensor]:
    for root in (graph, *graph.functions.values()):
        for inner in root.graphs():
            for value in inner.constants():
                if value.const is not None:
                    yield value.const
            for op in inner.ops():
                for attribute in op.attributes.values():
                    if attribute.kind in STREAMED and attribute.value is not None:
                        yield from _tensors_of(attribute.value)


def _tensors_of(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, SparseTensor):
        yield from (value.values, value.indices)
    elif isinstance(value, tuple):
        for item in value:
            yield from _tensors_of(item)
