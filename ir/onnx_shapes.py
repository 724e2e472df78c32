"""Types of values: what the file says, and what onnx's own shape inference makes of it."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import shape_inference

from secateur.ir.graph import Graph
from secateur.ir.node import AttributeKind, Value
from secateur.ir.onnx_types import read_type
from secateur.ir.onnx_write import detached
from secateur.ir.types import DataType, Dim, TensorType, ValueType


def infer(graph: Graph) -> dict[Value, ValueType]:
    """The type of every value of a model, bodies included, of which something is known.

    Constants up to 1 KiB take part with their numbers, so that Reshape, Slice and the like resolve; larger weights are
    not even read. An op that onnx does not know leaves its outputs as the file declares them. Values inside local
    functions have no types of their own, since these depend on the call. Sizes that onnx knows to be equal without
    knowing them share a made-up name, `unk__0` and so on.

    Raises:
        OutputError: the graph without its large initializers is still larger than protobuf allows.
    """
    known = {value: value.type for inner in graph.graphs() for value in inner.values() if value.type is not None}
    content, _ = detached(graph)
    try:
        inferred = shape_inference.infer_shapes(content, data_prop=True)
    except (shape_inference.InferenceError, RuntimeError, ValueError):
        return known  # the model contradicts itself somewhere, and then onnx says nothing at all
    for body, proto in _pairs(graph, inferred.graph):
        for info in (*proto.value_info, *proto.input, *proto.output):
            value = body.get(info.name)
            found = None if value is None or value.const is not None else read_type(info.type, info.name)
            if value is not None and found is not None:
                known[value] = merge(known.get(value), found)
    return known


def merge(declared: ValueType | None, inferred: ValueType) -> ValueType:
    """The more exact of two types, axis by axis: a size, else the file's own symbol, else whatever is known."""
    if not isinstance(inferred, TensorType) or not isinstance(declared, TensorType):
        return inferred
    dtype = declared.dtype if inferred.dtype is DataType.UNDEFINED else inferred.dtype
    if inferred.shape is None or declared.shape is None:
        shape = declared.shape if inferred.shape is None else inferred.shape
    elif len(inferred.shape) != len(declared.shape):
        shape = inferred.shape
    else:
        shape = tuple(map(_merge_dim, declared.shape, inferred.shape))
    return TensorType(dtype, shape, declared.denotation, declared.dim_denotations)


def _merge_dim(declared: Dim, inferred: Dim) -> Dim:
    if isinstance(inferred, int) or declared is None:
        return inferred
    return declared


def _pairs(graph: Graph, proto: onnx.GraphProto) -> Iterator[tuple[Graph, onnx.GraphProto]]:
    """Each graph with the message that it was written as."""
    yield graph, proto
    ops = graph.ops()
    nodes = list(proto.node)[len(proto.node) - len(ops) :]  # nodes for constants come first
    for op, node in zip(ops, nodes, strict=True):
        if op.bodies():
            messages = {attribute.name: attribute for attribute in node.attribute}
            for name, attribute in op.attributes.items():
                if attribute.kind is AttributeKind.GRAPH and attribute.value is not None:
                    yield from _pairs(attribute.value, messages[name].g)
                for body, message in zip(attribute.graphs(), messages[name].graphs, strict=False):
                    yield from _pairs(body, message)
