"""Graphs from and to onnx-graphsurgeon, for those who already edit models with it."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

import onnx

from secateur.ir.errors import BackendError
from secateur.ir.graph import Graph
from secateur.ir.model import Header
from secateur.ir.onnx_read import from_proto
from secateur.ir.onnx_write import to_bytes

if TYPE_CHECKING:
    import onnx_graphsurgeon


def from_graphsurgeon(graph: onnx_graphsurgeon.Graph) -> Graph:
    """A graphsurgeon graph, with its weights, becomes a Graph. Later changes to one are not seen by the other.

    Raises:
        BackendError: onnx-graphsurgeon is not installed.
        ModelError, GraphError: the graph is not well formed, or not in order and cyclic.
    """
    model = _graphsurgeon().export_onnx(graph, do_type_check=False)
    if graph.ir_version is None:
        # The exporter then takes the newest that onnx knows, which runtimes don't.
        model.ir_version = max(
            Header().ir_version, onnx.helper.find_min_ir_version_for(model.opset_import, ignore_unknown=True)
        )
    return from_proto(model)


def to_graphsurgeon(graph: Graph) -> onnx_graphsurgeon.Graph:
    """A Graph becomes a graphsurgeon graph with copies of all weights.

    Raises:
        BackendError: onnx-graphsurgeon is not installed.
        OutputError: the model takes more than the 2 GiB that protobuf allows.
    """
    return _graphsurgeon().import_onnx(onnx.ModelProto.FromString(to_bytes(graph)))


def _graphsurgeon() -> ModuleType:
    try:
        import onnx_graphsurgeon
    except ImportError as error:
        raise BackendError(
            f"onnx-graphsurgeon cannot be imported: {error}", hint="pip install 'secateur[graphsurgeon]'"
        ) from error
    surgeon: ModuleType = onnx_graphsurgeon
    return surgeon
