"""The messages of ONNX, field by field, as parts: nothing that holds weights is ever built as one protobuf message."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from secateur.ir.graph import Graph
from secateur.ir.model import FunctionKey, Header
from secateur.ir.node import Attribute, AttributeKind, Op, SparseTensor, Value
from secateur.ir.onnx_attributes import FIELDS, write_attribute
from secateur.ir.onnx_tensors import describe
from secateur.ir.onnx_types import QUANTIZATION, write_properties, write_type
from secateur.ir.parts import External, Parts
from secateur.ir.tensor import Tensor
from secateur.ir.types import DataType, TensorType

STREAMED = {
    AttributeKind.TENSOR,
    AttributeKind.TENSORS,
    AttributeKind.GRAPH,
    AttributeKind.GRAPHS,
    AttributeKind.SPARSE_TENSOR,
    AttributeKind.SPARSE_TENSORS,
}
"""Kinds of attribute that can hold weights."""


class ModelWriter:
    """Writes one model; large tensors go to a file of external data, or are left out, or stay in it."""

    def __init__(self, graph: Graph, external: External | None = None, detach_above: int | None = None) -> None:
        """Args: the model; where tensors go that are large enough; above how many bytes initializers are left out.

        What is written without its initializers is for a runtime, and goes without metadata and remarks too.
        """
        self.graph = graph
        self.external = external
        self.detach_above = detach_above
        self.is_bare = detach_above is not None
        self.detached: dict[str, Tensor] = {}
        """The initializers that were left out, by name."""

    def model(self) -> Parts:
        """ModelProto."""
        header = self.graph.header
        proto = onnx.ModelProto(
            ir_version=header.ir_version,
            producer_name=header.producer[0],
            producer_version=header.producer[1],
            domain=header.domain,
            model_version=header.model_version,
            doc_string=header.doc,
        )
        proto.opset_import.extend(_opsets(header))
        write_properties(proto.metadata_props, header.metadata)
        parts = Parts(_packed(proto), header.extra)
        parts.field(7, self.body(self.graph))
        for key, function in self.graph.functions.items():
            parts.field(25, self.function(key, function))
        return parts

    def function(self, key: FunctionKey, graph: Graph) -> Parts:
        """FunctionProto; it has no initializers, so that every constant in it is a node."""
        proto = onnx.FunctionProto(name=key.name, domain=key.domain, overload=key.overload, doc_string=graph.doc)
        proto.opset_import.extend(_opsets(graph.header))
        proto.input.extend(value.name for value in graph.inputs)
        proto.output.extend(value.name for value in graph.outputs)
        write_properties(proto.metadata_props, graph.metadata)
        parts = Parts(_packed(proto))
        external, self.external = self.external, None
        for name, default in graph.header.parameters:
            if default is None:
                parts.field(6, Parts(name.encode()))
            else:
                parts.field(11, self.attribute(name, default))
        for value in graph.constants():
            parts.field(7, self.constant(value))
        for op in graph.ops():
            parts.field(7, self.node(op))
        for value in filter(_says_something, dict.fromkeys((*graph.inputs, *graph.values(), *graph.outputs))):
            parts.field(12, Parts(_packed(_info(value))))
        self.external = external
        return parts

    def body(self, graph: Graph) -> Parts:
        """GraphProto."""
        proto = onnx.GraphProto(name=graph.name, doc_string=graph.doc)
        write_properties(proto.metadata_props, graph.metadata)
        given = dict.fromkeys(graph.inputs)
        nodes: list[Value] = []
        initializers: list[Value] = []
        for value in graph.constants():
            is_node = value.node is not None and value not in given and not self.detaches(value, graph)
            (nodes if is_node else initializers).append(value)
        listed = dict.fromkeys((*given, *initializers)) if self.graph.header.ir_version < 4 else given
        for infos, values in ((proto.input, listed), (proto.output, graph.outputs), (proto.value_info, _typed(graph))):
            for value in values:
                _inform(infos.add(name=value.name), value, self.is_bare)
        for value in graph.values():
            _annotate(proto, value)
        parts = Parts(_packed(proto))
        for value in nodes:
            parts.field(1, self.constant(value))
        for op in graph.ops():
            parts.field(1, self.node(op))
        for value in initializers:
            parts.field(5, self.initializer(value, graph))
        return parts

    def detaches(self, value: Value, graph: Graph) -> bool:
        """Whether a constant goes without its numbers. Until IR 4, an initializer was not as constant as a node is."""
        if self.detach_above is None or graph is not self.graph or value.const is None or not _is_raw(value.const):
            return False
        return value.const.nbytes > self.detach_above and (value.node is None or graph.header.ir_version >= 4)

    def initializer(self, value: Value, graph: Graph) -> Parts:
        """TensorProto of a named constant."""
        tensor = value.const
        assert tensor is not None
        if self.detaches(value, graph):
            self.detached[value.name] = tensor
            proto = describe(tensor, value.name)
            proto.data_location = onnx.TensorProto.EXTERNAL
            proto.external_data.add(key="location", value="detached")
            return Parts(_packed(proto))
        return self.tensor(tensor, value.name, value.doc)

    def constant(self, value: Value) -> Parts:
        """The `Constant` node that makes a value."""
        assert value.const is not None
        proto = onnx.NodeProto(op_type="Constant", output=[value.name])
        if value.node is not None:
            proto.name, proto.doc_string = value.node.name, value.node.doc
            write_properties(proto.metadata_props, value.node.metadata)
        parts = Parts(_packed(proto))
        parts.field(5, self.attribute("value", Attribute(AttributeKind.TENSOR, value.const)))
        return parts

    def node(self, op: Op) -> Parts:
        """NodeProto."""
        proto = onnx.NodeProto(
            op_type=op.op_type,
            input=[value.name if value is not None else "" for value in op.inputs],
            output=[value.name if value is not None else "" for value in op.outputs],
        )
        if op.name:
            proto.name = op.name
        if op.domain:
            proto.domain = op.domain
        if op.overload:
            proto.overload = op.overload
        if op.doc and not self.is_bare:
            proto.doc_string = op.doc
        if op.metadata and not self.is_bare:
            write_properties(proto.metadata_props, op.metadata)
        streamed = []
        for name, attribute in op.attributes.items():
            if attribute.kind in STREAMED:
                streamed.append((name, attribute))
            else:
                proto.attribute.append(write_attribute(name, attribute))
        parts = Parts(_packed(proto), op.extra)
        for name, attribute in streamed:
            parts.field(5, self.attribute(name, attribute))
        return parts

    def attribute(self, name: str, attribute: Attribute) -> Parts:
        """AttributeProto."""
        parts = Parts(_packed(write_attribute(name, attribute)))
        if attribute.kind in STREAMED and attribute.value is not None:
            number = onnx.AttributeProto.DESCRIPTOR.fields_by_name[FIELDS[attribute.kind]].number
            values = attribute.value if isinstance(attribute.value, tuple) else (attribute.value,)
            for value in values:
                parts.field(number, self.streamed(value))
        return parts

    def streamed(self, value: Tensor | SparseTensor | Graph) -> Parts:
        """TensorProto, SparseTensorProto or GraphProto."""
        if isinstance(value, Tensor):
            return self.tensor(value)
        if isinstance(value, Graph):
            return self.body(value)
        parts = Parts(_packed(onnx.SparseTensorProto(dims=value.shape)))
        parts.field(1, self.tensor(value.values))
        parts.field(2, self.tensor(value.indices))
        return parts

    def tensor(self, tensor: Tensor, name: str = "", doc: str = "") -> Parts:
        """TensorProto."""
        proto = describe(tensor, name, doc)
        if not _is_raw(tensor):
            return Parts(_packed(proto))
        if self.external is not None and tensor.nbytes > self.external.threshold:
            proto.data_location = onnx.TensorProto.EXTERNAL
            write_properties(proto.external_data, self.external.place(tensor))
            return Parts(_packed(proto))
        parts = Parts(_packed(proto))
        parts.tensor_field(9, tensor)
        return parts


def _packed(proto: onnx.ModelProto) -> bytes:
    packed: bytes = proto.SerializeToString(deterministic=True)
    return packed


def _is_raw(tensor: Tensor) -> bool:
    return tensor.dtype is not DataType.STRING


def _opsets(header: Header) -> Iterable[onnx.OperatorSetIdProto]:
    return [onnx.OperatorSetIdProto(domain=domain, version=version) for domain, version in header.opsets]


def _info(value: Value) -> onnx.ValueInfoProto:
    proto = onnx.ValueInfoProto(name=value.name)
    _inform(proto, value)
    return proto


def _inform(proto: onnx.ValueInfoProto, value: Value, is_bare: bool = False) -> None:
    """What is known of a value."""
    if value.type is not None:
        write_type(value.type, proto.type)
    if not is_bare:
        proto.doc_string = value.doc
        write_properties(
            proto.metadata_props, [(k, v) for k, v in value.metadata.items() if not k.startswith(QUANTIZATION)]
        )


def _typed(graph: Graph) -> list[Value]:
    """What `value_info` tells of: values inside the graph of which something is said.

    What is given goes before what is made, as in a copy of the graph: it writes the same bytes.
    """
    interface = {*graph.inputs, *graph.outputs}
    told = [value for value in graph.values() if value not in interface and _says_something(value)]
    return sorted(told, key=lambda value: graph.producer(value) is not None)


def _says_something(value: Value) -> bool:
    """Whether there is anything to say of a value that its constant, if it is one, doesn't say itself."""
    if value.const is None:
        return bool(value.type is not None or value.doc or value.metadata)
    implied = value.type == TensorType(value.const.dtype, value.const.shape)
    return bool(not implied or value.metadata or (value.doc and value.node is not None))


def _annotate(proto: onnx.GraphProto, value: Value) -> None:
    found = [(k.removeprefix(QUANTIZATION), v) for k, v in value.metadata.items() if k.startswith(QUANTIZATION)]
    if found:
        annotation = proto.quantization_annotation.add(tensor_name=value.name)
        write_properties(annotation.quant_parameter_tensor_names, found)
