"""The same model in one way of writing it: what must be equal before and after import and export."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

_CONSTANTS = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}


def canonical(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which choices that mean nothing are made one way.

    Numbers of tensors are raw; `Constant` nodes come first and hold a `value`; attributes, value_info and annotations
    are sorted; what says nothing (value_info of strangers, names of attribute tensors, negative sizes, Paddle's "?" for
    any size that is open) is gone; until IR 4, inputs that are initializers come last.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    _graph(result.graph, result.ir_version)
    for function in result.functions:
        names = {*function.input, *(name for node in function.node for name in node.output)}
        _infos(function.value_info, names)
        _nodes(function.node, result.ir_version)
    return result


def _graph(graph: onnx.GraphProto, ir_version: int) -> None:
    for sparse in graph.sparse_initializer:
        graph.initializer.append(_dense(sparse))
    del graph.sparse_initializer[:]
    constants = {}
    for tensor in graph.initializer:
        _tensor(tensor)
        constants[tensor.name] = tensor
    _sort(graph.initializer, lambda tensor: tensor.name)
    if ir_version < 4:
        _sort(graph.input, lambda info: (info.name in constants, info.name if info.name in constants else ""))
    interface = {info.name for info in (*graph.input, *graph.output)}
    made = {name for node in graph.node for name in node.output} | constants.keys()
    _nodes(graph.node, ir_version)
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            constants[node.output[0]] = node.attribute[0].t
    _infos(graph.value_info, made - interface, constants)
    _sort(graph.quantization_annotation, lambda annotation: annotation.tensor_name)
    for info in (*graph.input, *graph.output, *graph.value_info):
        for dim in info.type.tensor_type.shape.dim if info.type.HasField("tensor_type") else ():
            if dim.dim_value < 0 or dim.dim_param == "?":
                dim.ClearField("value")


def _infos(infos: Any, names: set[str], constants: dict[str, TensorProto] | None = None) -> None:
    kept = []
    for info in infos:
        constant = (constants or {}).get(info.name)
        implied = constant is not None and info.type == helper.make_tensor_type_proto(constant.data_type, constant.dims)
        silent = not info.HasField("type") or info.type.WhichOneof("value") is None or implied
        if info.name in names and not (silent and not info.doc_string and not info.metadata_props):
            kept.append(info)
    kept.sort(key=lambda info: info.name)
    _replace(infos, kept)


def _nodes(nodes: Any, ir_version: int) -> None:
    for node in nodes:
        for attribute in node.attribute:
            attribute.type = attribute.type or _guess(attribute)
            for tensor in (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors):
                _tensor(tensor)
                tensor.ClearField("name")
                tensor.ClearField("doc_string")
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _graph(graph, ir_version)
        if node.op_type == "Constant" and not node.attribute[0].ref_attr_name:
            _constant(node)
        _sort(node.attribute, lambda attribute: attribute.name)
    _sort(nodes, lambda node: node.op_type != "Constant" or bool(node.attribute[0].ref_attr_name))


def _constant(node: onnx.NodeProto) -> None:
    attribute = node.attribute[0]
    value = helper.get_attribute_value(attribute)
    if attribute.name == "sparse_value":
        tensor = _dense(value)
    elif attribute.name in ("value_string", "value_strings"):
        texts = [value] if isinstance(value, bytes) else list(value)
        shape = [] if isinstance(value, bytes) else [len(value)]
        tensor = TensorProto(data_type=TensorProto.STRING, dims=shape, string_data=texts)
    elif attribute.name in _CONSTANTS:
        tensor = numpy_helper.from_array(np.array(value, _CONSTANTS[attribute.name]))
    else:
        return
    tensor.ClearField("name")
    node.attribute[0].CopyFrom(helper.make_attribute("value", tensor))


def _dense(sparse: onnx.SparseTensorProto) -> TensorProto:
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    dense = np.zeros(list(sparse.dims), values.dtype)
    for value, index in zip(values, indices, strict=True):
        dense[np.unravel_index(int(index), dense.shape) if indices.ndim == 1 else tuple(index)] = value
    return numpy_helper.from_array(dense, sparse.values.name)


def _tensor(tensor: TensorProto) -> None:
    if tensor.data_type != TensorProto.STRING and not tensor.HasField("raw_data"):
        tensor.raw_data = numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data
        for field in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
            tensor.ClearField(field)
    if tensor.data_location == TensorProto.DEFAULT:
        tensor.ClearField("data_location")
    if not tensor.doc_string:
        tensor.ClearField("doc_string")


def _guess(attribute: AttributeProto) -> int:
    for name, kind in (("f", 1), ("i", 2), ("s", 3), ("t", 4), ("g", 5)):
        if attribute.HasField(name):
            return kind
    return next((kind for name, kind in (("floats", 6), ("ints", 7), ("strings", 8)) if getattr(attribute, name)), 0)


def _sort(repeated: Any, key: Any) -> None:
    _replace(repeated, sorted(repeated, key=key))


def _replace(repeated: Any, items: list[Any]) -> None:
    copies = [type(item).FromString(item.SerializeToString()) for item in items]
    del repeated[:]
    repeated.extend(copies)


def differences(one: Any, other: Any, path: str = "model") -> list[str]:
    """Where two messages differ, a field that is left out counting as one that holds its default."""
    names = {field.name: field for field, _ in (*one.ListFields(), *other.ListFields())}
    found = []
    for name, field in names.items():
        mine, theirs = getattr(one, name), getattr(other, name)
        where = f"{path}.{name}"
        if field.message_type is None:
            if mine != theirs:
                found.append(f"{where}: {str(mine)[:80]!r} and {str(theirs)[:80]!r}")
        elif not field.is_repeated:
            found += differences(mine, theirs, where)
        elif len(mine) != len(theirs):
            found.append(f"{where}: {len(mine)} and {len(theirs)}")
        else:
            for number, (left, right) in enumerate(zip(mine, theirs, strict=True)):
                found += differences(left, right, f"{where}[{number}]")
    return found
