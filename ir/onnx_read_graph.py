"""One graph in: nodes, initializers and interface of a GraphProto or FunctionProto become a Graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import onnx

from secateur.ir.errors import ModelError
from secateur.ir.graph import Graph
from secateur.ir.node import NOTHING, Attribute, ConstantNode, Op, Value
from secateur.ir.onnx_attributes import AttributeReader, constant_of
from secateur.ir.onnx_tensors import Weights, densify
from secateur.ir.onnx_types import QUANTIZATION, read_pairs, read_properties, read_type, text
from secateur.ir.tensor import Tensor
from secateur.ir.types import TensorType, ValueType

_HAS_DEVICES = "device_configurations" in onnx.NodeProto.DESCRIPTOR.fields_by_name


class GraphReader:
    """Fills one graph; `outer` is the reader of the graph around a body.

    Nodes may stand in any order in the file, as runtimes allow it too. A name means the innermost value that has it.
    """

    def __init__(self, graph: Graph, weights: Weights, ir_version: int, outer: GraphReader | None = None) -> None:
        self.graph = graph
        self.weights = weights
        self.ir_version = ir_version
        self.outer = outer
        self.domains: set[str] = set() if outer is None else outer.domains
        """The domains of all ops, those in bodies included."""
        self.parameters: set[str] = {name for name, _ in graph.header.parameters} if outer is None else outer.parameters
        """What attributes inside a function may refer to."""
        self.attributes = AttributeReader(weights, self.read_body)
        self._nodes: Any = ()
        self._infos: dict[str, onnx.ValueInfoProto] = {}
        self._annotations: dict[str, dict[str, str]] = {}
        self._given: set[str] = set()
        self._coming: set[str] | None = None
        """Names that nodes make and that were not there yet when somebody looked for one in vain."""
        self._awaited: set[str] = set()

    def read_graph(self, proto: onnx.GraphProto) -> None:
        """Everything in a GraphProto.

        Raises:
            ModelError: a name is defined twice or not at all, or something in the graph cannot be read.
            GraphError: the ops form a cycle.
        """
        self._note(proto.value_info, proto.output, proto.input)
        for annotation in proto.quantization_annotation:
            pairs = read_pairs(annotation.quant_parameter_tensor_names)
            self._annotations[annotation.tensor_name] = {QUANTIZATION + key: name for key, name in pairs}
        if self.ir_version >= 4:
            self._given = {info.name for info in proto.input}
        for tensor in proto.initializer:
            self._add_constant(tensor, tensor)
        for sparse in proto.sparse_initializer:
            self._add_constant(sparse.values, sparse)
        self._read_rest(proto, [info.name for info in proto.input], [info.name for info in proto.output])

    def read_function(self, proto: onnx.FunctionProto) -> None:
        """Everything in a FunctionProto; raises as `read_graph` does."""
        self._note(proto.value_info)
        self._read_rest(proto, list(proto.input), list(proto.output))

    def _note(self, *infos: Iterable[onnx.ValueInfoProto]) -> None:
        for group in infos:
            for info in group:
                self._infos[info.name] = info

    def _read_rest(self, proto: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        graph = self.graph
        graph.doc, graph.metadata = text(proto.doc_string, graph.title), dict(read_properties(proto.metadata_props))
        self._nodes = proto.node
        self._set_inputs(inputs)
        for node in proto.node:
            self._read_node(node)
        graph.set_interface(outputs=[self._find(name, "its interface") for name in outputs])
        if self._coming is not None:
            graph.ops()  # not in order, so there may be a cycle

    def _add_constant(self, named: onnx.TensorProto, proto: onnx.TensorProto | onnx.SparseTensorProto) -> None:
        where = self.graph.title
        value = self._define(named.name, "an initializer")
        if isinstance(proto, onnx.TensorProto):
            tensor = self.weights.read(proto, where)
        else:
            tensor = densify(self.weights.read_sparse(proto, where), where)
        declared = value.type
        value.set_const(tensor)
        if _fits(declared, tensor):
            value.type = declared
        elif declared is not None and value.name in self._given:
            raise ModelError(
                f"the input {value.name!r} of {where} is {declared}, but its default is {value.type}",
                hint="the model is not valid ONNX",
            )
        value.doc = value.doc or text(named.doc_string, where)
        self.graph.add_value(value)

    def _set_inputs(self, names: Iterable[str]) -> None:
        inputs: dict[Value, None] = {}
        for name in names:
            value = self.graph.get(name)
            if value is None:
                value = self.graph.add_value(self._define(name, "an input"))
            elif value in inputs:
                raise ModelError(f"{self.graph.title} lists the input {name!r} twice")
            elif self.ir_version < 4:
                continue  # until IR 4 every initializer had to be listed as an input too
            inputs[value] = None
        self.graph.set_interface(inputs=inputs)

    def _read_node(self, node: onnx.NodeProto) -> None:
        op = Op(node.op_type, (), (), {}, node.domain, node.name, node.overload, node.doc_string)
        for word in (op.op_type, op.domain, op.name, op.overload, op.doc):
            text(word, "a string of a node")
        where = op.name or op.op_type
        if len(node.attribute):
            op.attributes = self._read_attributes(node.attribute, where)
        if len(node.metadata_props):
            op.metadata = read_properties(node.metadata_props)
        if _HAS_DEVICES and len(node.device_configurations):
            op.extra = onnx.NodeProto(device_configurations=node.device_configurations).SerializeToString()
        if op.key == ("", "Constant") and not op.extra and self._read_constant(op, node, where):
            return
        op.inputs = tuple([self._find(name, where) if name else None for name in node.input])
        op.outputs = tuple([self._made(name, where) if name else None for name in node.output])
        self.domains.add(op.domain)
        self.graph.add_op(op)

    def _read_attributes(self, protos: Iterable[onnx.AttributeProto], where: str) -> dict[str, Attribute]:
        attributes: dict[str, Attribute] = {}
        for proto in protos:
            name = text(proto.name, f"the name of an attribute of {where}")
            if name in attributes:
                raise ModelError(f"{where} in {self.graph.title} has the attribute {name!r} twice")
            attributes[name] = attribute = self.attributes.read(proto, where)
            if attribute.reference and attribute.reference not in self.parameters:
                raise ModelError(
                    f"{where} in {self.graph.title} takes {name!r} from {attribute.reference!r}, which is no parameter",
                    hint="the model is not valid ONNX",
                )
        return attributes

    def _read_constant(self, op: Op, node: onnx.NodeProto, where: str) -> bool:
        """Takes a `Constant` node as a constant; False where its value is not known before a function is called."""
        if len(node.output) != 1 or not node.output[0] or len(node.input):
            raise ModelError(f"{where} in {self.graph.title} is a Constant that needs no input and one output")
        tensor = constant_of(op.attributes, where)
        if tensor is None:
            return False
        value = self._made(node.output[0], where)
        value.node = ConstantNode(op.name, op.doc, op.metadata)
        value.set_const(tensor)
        self.graph.add_value(value)
        return True

    def read_body(self, proto: onnx.GraphProto, where: str) -> Graph:
        """A graph inside an attribute; raises as `read_graph` does."""
        body = Graph(text(proto.name, f"the name of a body of {where}"), body=True)
        GraphReader(body, self.weights, self.ir_version, self).read_graph(proto)
        return body

    # ---- names -----------------------------------------------------------------------------------------------------

    def _define(self, name: str, where: str) -> Value:
        """A new value with what `value_info` and annotations say of it."""
        if not text(name, f"a name in {self.graph.title}") or self.graph.get(name) is not None:
            fault = f"defines {name!r} twice, the second time in" if name else "has no name for"
            raise ModelError(f"{self.graph.title} {fault} {where}", hint="the model is not valid ONNX")
        info, annotation = self._infos.get(name), self._annotations.get(name, NOTHING)
        if info is None:
            return Value(name, metadata=annotation)
        metadata = read_properties(info.metadata_props)
        return Value(
            name,
            read_type(info.type, name),
            doc=text(info.doc_string, name),
            metadata={**metadata, **annotation} if annotation else metadata,
        )

    def _made(self, name: str, where: str) -> Value:
        """The value that a node makes: new, unless a node further up in the file read it already."""
        if name not in self._awaited:
            return self._define(name, where)
        self._awaited.discard(name)
        return self.graph[name]

    def _find(self, name: str, where: str) -> Value:
        """The value of a name, here or around."""
        reader: GraphReader | None = self
        while reader is not None:
            value = reader.graph.get(name) or reader._await(name)
            if value is not None:
                return value
            reader = reader.outer
        raise ModelError(
            f"{where} in {self.graph.title} reads {name!r}, which nothing defines", hint="the model is not valid ONNX"
        )

    def _await(self, name: str) -> Value | None:
        """The value of a name that a node further down in the file makes."""
        if self._coming is None:
            self._coming = {made for node in self._nodes for made in node.output if self.graph.get(made) is None}
        if name not in self._coming:
            return None
        self._awaited.add(name)
        return self.graph.add_value(self._define(name, "an op"))


def _fits(declared: ValueType | None, tensor: Tensor) -> bool:
    """Whether a declared type, whose sizes may be symbols, is that of a tensor."""
    if not isinstance(declared, TensorType) or declared.dtype is not tensor.dtype:
        return False
    if declared.shape is None:
        return True
    sizes = zip(declared.shape, tensor.shape, strict=False)
    return len(declared.shape) == len(tensor.shape) and all(not isinstance(a, int) or a == b for a, b in sizes)
