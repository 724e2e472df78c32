"""Data for a model: whatever the user has becomes checked batches of the sizes and types that the model takes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TypeAlias, TypedDict, get_type_hints

from secateur.calib.batches import Source
from secateur.calib.checks import Signature, checked, fixed_batch_size
from secateur.calib.sources import open_source
from secateur.ir import Graph, TensorType
from secateur.ir.errors import DataError
from secateur.ir.types import DataType

ModelLike: TypeAlias = "Graph | str | os.PathLike[str]"


class Loading(TypedDict, total=False):
    """How data is walked: samples in a batch, and how many samples at most."""

    batch_size: int | None
    limit: int | None


def refuse_unknown(given: Mapping[str, object], known: type, function: str) -> None:
    """What Python does itself for arguments that a function names; for those that a TypedDict names, we do it.

    Raises:
        TypeError: an argument is not in `known`, the TypedDict.
    """
    if unknown := given.keys() - get_type_hints(known).keys():
        raise TypeError(f"{function}() got an unexpected keyword argument {min(unknown)!r}")


def graph_of(model: ModelLike) -> Graph:
    """The graph itself, or the one in a file.

    Raises:
        ModelError: the file is no model.
    """
    if isinstance(model, Graph):
        return model
    from secateur.ir.onnx_read import load

    return load(model)


def title_of(model: ModelLike) -> str:
    """How reports call a model: by its file, or by the graph's own name."""
    return (model.name or "the graph") if isinstance(model, Graph) else os.path.basename(os.fspath(model))


def signature_of(graph: Graph) -> Signature:
    """What a caller must feed: the inputs that have no default.

    Raises:
        DataError: an input is no tensor of numbers, or its rank is not known.
    """
    found = {}
    for value in graph.inputs:
        if value.const is not None:
            continue
        kind = value.type
        if not isinstance(kind, TensorType) or kind.shape is None or kind.dtype in _NO_NUMBERS:
            raise DataError(
                f"the input {value.name!r} has type {kind or 'unknown'}, which no data file can hold",
                hint="only inputs that are tensors of numbers, of a known rank, can be fed",
            )
        found[value.name] = (kind.dtype.numpy, kind.shape)
    if not found:
        raise DataError(f"{graph.title} has no inputs, so there is nothing to feed", hint="leave the data out")
    return found


def batch_of(graph: Graph) -> int | None:
    """The batch size that the inputs fix; None where it is free, or cannot be told."""
    try:
        return fixed_batch_size(signature_of(graph))
    except DataError:
        return None


def open_data(graph: Graph, data: object, *, batch_size: int | None = None, limit: int | None = None) -> Source:
    """Batches for a model, each checked as it comes; the first one is checked now.

    A model whose batch is fixed gets batches of that size, whatever size the data has; what is left over is dropped.

    Raises:
        DataError: the data does not fit the model, holds NaN or infinity, or is not there.
    """
    signature = signature_of(graph)
    fixed = fixed_batch_size(signature)
    if fixed is not None and batch_size not in (None, fixed):
        raise DataError(
            f"the model takes batches of {fixed}, but a batch size of {batch_size} was asked for",
            hint="leave the batch size out, or export the model with a dynamic batch",
        )
    for what, number in (("batch size", batch_size), ("limit", limit)):
        if number is not None and number < 1:
            raise DataError(f"the {what} must be at least 1, found {number}", hint=f"give a {what} of 1 or more")
    source = open_source(data, batch_size or fixed, limit, list(signature), drop_last=fixed is not None and fixed > 1)
    source = checked(source, signature)
    for _ in source:
        return source
    raise DataError(f"{source.name} has no samples", hint="give at least one; a few dozen are usual for calibration")


_NO_NUMBERS = (DataType.STRING, DataType.UNDEFINED)
