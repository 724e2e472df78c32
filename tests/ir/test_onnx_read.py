"""What a model file says comes in, and goes out again; what makes no sense is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from helpers.canonical import canonical, differences
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from secateur.ir import AttributeKind, FunctionKey, Graph, TensorType
from secateur.ir.errors import GraphError, ModelError
from secateur.ir.onnx_read import from_bytes, from_proto
from secateur.ir.onnx_write import to_bytes
from secateur.ir.types import DataType, MapType, OpaqueType, OptionalType, SequenceType, SparseTensorType

FLOAT = TensorProto.FLOAT


def info(name: str, *shape: int | str | None, dtype: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, list(shape))


def model(nodes: list[NodeProto], inputs: Any = (), outputs: Any = (), weights: Any = (), **more: Any) -> ModelProto:
    graph = helper.make_graph(nodes, "net", list(inputs), list(outputs), list(weights))
    options: dict[str, Any] = {"ir_version": 10, "opset_imports": [helper.make_opsetid("", 20)]}
    return helper.make_model(graph, **(options | more))


def weight(name: str, *shape: int) -> TensorProto:
    return numpy_helper.from_array(np.ones(shape, np.float32), name)


def read(proto: ModelProto) -> Graph:
    """Through bytes and through the message: both must give the same, and a graph that verifies."""
    graph = from_bytes(proto.SerializeToString())
    graph.verify()
    assert to_bytes(from_proto(proto)) == to_bytes(graph)
    return graph


def check_round_trip(proto: ModelProto) -> Graph:
    graph = read(proto)
    back = ModelProto.FromString(to_bytes(graph))
    assert differences(canonical(proto), canonical(back)) == []
    assert to_bytes(from_bytes(to_bytes(graph))) == to_bytes(graph) == to_bytes(graph.clone())
    return graph


def test_until_ir_4_initializers_are_no_inputs() -> None:
    proto = model(
        [helper.make_node("Add", ["x", "w"], ["y"])], [info("w", 2), info("x", 2)], [info("y", 2)], [weight("w", 2)]
    )
    proto.ir_version = 3
    graph = check_round_trip(proto)
    assert [value.name for value in graph.inputs] == ["x"]
    assert graph.constant(graph["w"]) is not None
    assert [given.name for given in ModelProto.FromString(to_bytes(graph)).graph.input] == ["x", "w"]


def test_from_ir_4_on_a_default_may_be_overridden() -> None:
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    graph = check_round_trip(model(nodes, [info("w", "N"), info("x", 2)], [info("y", 2)], [weight("w", 2)]))
    assert [value.name for value in graph.inputs] == ["w", "x"]
    assert graph["w"].const is not None and graph.constant(graph["w"]) is None
    assert graph["w"].type == TensorType(DataType.FLOAT32, ("N",))


def test_a_default_of_another_type_is_refused() -> None:
    with pytest.raises(ModelError, match="its default is"):
        from_proto(model([], [info("w", 3)], [info("w", 3)], [weight("w", 2)]))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("value", weight("", 2), np.ones(2, np.float32)),
        ("value_float", 1.5, np.float32(1.5)),
        ("value_floats", [1.5, -0.0], np.array([1.5, -0.0], np.float32)),
        ("value_int", -3, np.int64(-3)),
        ("value_ints", [2**62, -1], np.array([2**62, -1])),
        ("value_string", "ä", np.array("ä".encode(), object)),
        ("value_strings", [b"a", b"\xff"], np.array([b"a", b"\xff"], object)),
    ],
)
def test_constant_nodes_become_constants_and_leave_as_nodes(name: str, value: Any, expected: Any) -> None:
    node = helper.make_node("Constant", [], ["c"], name="where", doc_string="why", **{name: value})
    node.metadata_props.add(key="from", value="exporter")
    graph = check_round_trip(model([node, helper.make_node("Identity", ["c"], ["y"])], [], [info("y")]))
    tensor = graph["c"].const
    assert tensor is not None and not [op for op in graph.ops() if op.op_type == "Constant"]
    assert tensor.shape == np.shape(expected)
    assert np.array_equal(tensor.numpy(), expected)


def test_a_sparse_constant_node_becomes_dense() -> None:
    sparse = onnx.SparseTensorProto(values=weight("", 2), indices=numpy_helper.from_array(np.array([0, 2])), dims=[4])
    graph = check_round_trip(model([helper.make_node("Constant", [], ["c"], sparse_value=sparse)], [], [info("c", 4)]))
    tensor = graph["c"].const
    assert tensor is not None and tensor.numpy().tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Constant", [], ["c"]),
        helper.make_node("Constant", [], ["c"], value_int=1, value_float=1.0),
        helper.make_node("Constant", [], ["c"], value=1),
        helper.make_node("Constant", ["x"], ["c"], value_int=1),
        helper.make_node("Constant", [], ["c", "d"], value_int=1),
        helper.make_node("Constant", [], [""], value_int=1),
        helper.make_node("Constant", [], [], value_int=1),
    ],
    ids=["nothing", "two values", "wrong kind", "an input", "two outputs", "no name", "no output"],
)
def test_a_constant_node_that_makes_no_sense_is_refused(node: NodeProto) -> None:
    with pytest.raises(ModelError):
        from_proto(model([node], [info("x", 1)], []))


# ---- bodies and functions --------------------------------------------------------------------------------------------


def branch(name: str, *nodes: NodeProto, weights: Any = ()) -> GraphProto:
    return helper.make_graph(list(nodes), name, [], [info(nodes[-1].output[0], 2)], list(weights))


def test_bodies_capture_values_of_graphs_around_them() -> None:
    inner = branch("inner", helper.make_node("Add", ["h", "w"], ["i"]), weights=[weight("w", 2)])
    other = branch("other", helper.make_node("Neg", ["x"], ["o"]))
    nested = branch("nested", helper.make_node("If", ["c"], ["n"], then_branch=inner, else_branch=other))
    flat = branch("flat", helper.make_node("Identity", ["h"], ["f"]))
    nodes = [
        helper.make_node("Relu", ["x"], ["h"]),
        helper.make_node("If", ["c"], ["y"], then_branch=nested, else_branch=flat),
    ]
    graph = check_round_trip(model(nodes, [info("c", dtype=TensorProto.BOOL), info("x", 2)], [info("y", 2)]))
    relu, condition = graph.ops()
    assert set(graph.captures(condition)) == {graph["h"], graph["x"], graph["c"]}
    assert graph.consumers(graph["h"]) == [condition]
    assert graph.producer(graph["h"]) is relu


def test_a_body_may_give_back_an_outer_value() -> None:
    body = helper.make_graph([], "same", [], [info("x", 2)])
    nodes = [helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)]
    graph = check_round_trip(model(nodes, [info("c", dtype=TensorProto.BOOL), info("x", 2)], [info("y", 2)]))
    assert graph.captures(graph.ops()[0]) == [graph["x"]]


def test_the_innermost_value_of_a_name_wins() -> None:
    nodes = [helper.make_node("Neg", ["i"], ["x"]), helper.make_node("Relu", ["x"], ["out"])]
    body = helper.make_graph(
        nodes, "body", [info("k"), info("go"), info("i", 2)], [info("go"), info("i", 2), info("out", 2)]
    )
    loop = helper.make_node("Loop", ["n", "c", "x"], ["last", "y"], body=body)
    given = [info("n", dtype=TensorProto.INT64), info("c", dtype=TensorProto.BOOL), info("x", 2)]
    graph = check_round_trip(model([loop], given, [info("y", None, 2)]))
    op = graph.ops()[0]
    (inner,) = op.bodies()
    assert inner["x"] is not graph["x"]
    assert graph.captures(op) == []
    assert inner.ops()[1].inputs == (inner["x"],)


def test_functions_with_parameters_and_references() -> None:
    leaky = helper.make_node("LeakyRelu", ["a"], ["b"])
    leaky.attribute.add(name="alpha", type=onnx.AttributeProto.FLOAT, ref_attr_name="slope")
    constant = helper.make_node("Constant", [], ["k"])
    constant.attribute.add(name="value_float", type=onnx.AttributeProto.FLOAT, ref_attr_name="shift")
    big = helper.make_node("Constant", [], ["w"], value=weight("", 400))
    inside = [leaky, constant, big, helper.make_node("Sum", ["b", "k", "w"], ["c"])]
    function = helper.make_function(
        "my",
        "Act",
        ["a"],
        ["c"],
        inside,
        [helper.make_opsetid("", 20)],
        ["slope"],
        [helper.make_attribute("shift", 2.0)],
    )
    function.doc_string, function.overload = "doc", "first"
    function.metadata_props.add(key="k", value="v")
    function.value_info.append(info("b", "N"))
    call = helper.make_node("Act", ["x"], ["y"], domain="my", slope=0.5)
    call.overload = "first"
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("my", 1)]
    proto = model([call], [info("x", 400)], [info("y", 400)], functions=[function], opset_imports=opsets)
    graph = check_round_trip(proto)
    body = graph.functions[FunctionKey("my", "Act", "first")]
    assert [name for name, _ in body.header.parameters] == ["slope", "shift"]
    assert body.header.opsets == (("", 20),)
    assert [op.op_type for op in body.ops()] == ["LeakyRelu", "Constant", "Sum"]
    assert body.ops()[0].attributes["alpha"].reference == "slope"
    assert graph.header.opset("my") == 1


# ---- everything else that a file says --------------------------------------------------------------------------------


def test_metadata_documentation_and_annotations_are_kept() -> None:
    proto = model([helper.make_node("Add", ["x", "w"], ["h"], name="first"), helper.make_node("Relu", ["h"], ["y"])],
                  [info("x", "N", None)], [info("y", "N", 3)], [weight("w", 3)])  # fmt: skip
    graph = proto.graph
    graph.value_info.append(info("h", "N", 3))
    proto.producer_name, proto.producer_version, proto.domain, proto.model_version = "me", "1.0", "org.me", 7
    for place in (proto, graph, graph.node[0], graph.input[0], graph.output[0], graph.value_info[0]):
        place.doc_string = "documented"
        place.metadata_props.add(key="key", value="Wert ä")
    graph.initializer[0].doc_string = "documented"
    graph.initializer[0].metadata_props.add(key="key", value="value")
    graph.input[0].type.denotation = "IMAGE"
    graph.input[0].type.tensor_type.shape.dim[1].denotation = "DATA_CHANNEL"
    graph.quantization_annotation.add(tensor_name="h").quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="w")
    proto.training_info.add().initialization.name = "training"
    proto.configuration.add(name="two devices", num_devices=2)
    graph.node[1].device_configurations.add(configuration_id="two devices", pipeline_stage=1)
    loaded = check_round_trip(proto)
    assert loaded.header.producer == ("me", "1.0")
    assert loaded["h"].metadata["key"] == "Wert ä"
    kind = loaded["x"].type
    assert isinstance(kind, TensorType) and kind.shape == ("N", None)
    assert (kind.denotation, kind.dim_denotations) == ("IMAGE", ("", "DATA_CHANNEL"))


def test_every_kind_of_attribute() -> None:
    sparse = onnx.SparseTensorProto(values=weight("", 1), indices=numpy_helper.from_array(np.array([3])), dims=[4])
    body = branch("body", helper.make_node("Identity", ["x"], ["i"]))
    other = branch("other", helper.make_node("Identity", ["x"], ["j"]))
    kind = helper.make_tensor_type_proto(FLOAT, ["N", 2])
    values: dict[str, Any] = {
        "float": 0.1, "int": -(2**63), "string": b"\xffa", "tensor": weight("", 500), "graph": body, "sparse": sparse,
        "type": kind, "floats": [0.1, float("-inf")], "ints": [2**63 - 1], "strings": ["", "b"],
        "tensors": [weight("", 2), weight("", 500)], "graphs": [body, other], "sparses": [sparse], "types": [kind] * 2,
    }  # fmt: skip
    node = helper.make_node("Everything", ["x", "", "x"], ["", "y"], domain="test", **values)
    for kind_of in (AttributeKind.INTS, AttributeKind.GRAPHS, AttributeKind.STRINGS):
        node.attribute.add(name=f"no {kind_of.name}", type=kind_of.value)
    node.attribute[0].doc_string = "documented"
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("test", 3)]
    graph = check_round_trip(model([node], [info("x", 2)], [info("y", 2)], opset_imports=opsets))
    op = graph.ops()[0]
    assert op.inputs == (graph["x"], None, graph["x"]) and op.outputs == (None, graph["y"])
    assert {attribute.kind for attribute in op.attributes.values()} == set(AttributeKind) - {AttributeKind.UNDEFINED}
    assert op.attribute("int") == -(2**63) and op.attribute("no INTS") == ()
    assert op.attribute("string").encode("utf-8", "surrogateescape") == b"\xffa"


def test_attributes_that_leave_out_their_kind_are_understood() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=1, pads=[0, 0, 1, 1], auto_pad="NOTSET")
    for attribute in node.attribute:
        attribute.ClearField("type")
    graph = read(model([node], [info("x", 1, 1, 4, 4), info("w", 1, 1, 3, 3)], [info("y", 1, 1, 3, 3)]))
    kinds = {name: attribute.kind for name, attribute in graph.ops()[0].attributes.items()}
    assert kinds == {"group": AttributeKind.INT, "pads": AttributeKind.INTS, "auto_pad": AttributeKind.STRING}


def test_every_kind_of_type() -> None:
    tensor = helper.make_tensor_type_proto(FLOAT, ["N", None, 3])
    types = {
        "tensor": tensor,
        "rank unknown": helper.make_tensor_type_proto(TensorProto.BFLOAT16, None),
        "scalar": helper.make_tensor_type_proto(TensorProto.INT4, []),
        "sparse": helper.make_sparse_tensor_type_proto(FLOAT, [3]),
        "sequence": helper.make_sequence_type_proto(helper.make_sequence_type_proto(tensor)),
        "optional": helper.make_optional_type_proto(tensor),
        "map": helper.make_map_type_proto(TensorProto.STRING, tensor),
        "opaque": onnx.TypeProto(opaque_type=onnx.TypeProto.Opaque(domain="d", name="n")),
    }
    for kind in types.values():
        kind.denotation = "meaning"
    infos = [helper.make_value_info(name, kind) for name, kind in types.items()]
    graph = check_round_trip(model([], infos, infos))
    found = [type(value.type) for value in graph.inputs]
    assert found == [TensorType] * 3 + [SparseTensorType, SequenceType, OptionalType, MapType, OpaqueType]


def test_before_ir_3_there_was_only_opset_1() -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"])], [info("x", 1)], [info("y", 1)], opset_imports=[])
    del proto.opset_import[:]
    with pytest.raises(ModelError, match="imports no version"):
        from_proto(proto)
    proto.ir_version = 2
    assert read(proto).header.opset() == 1


def test_runtimes_complete_imports_of_foreign_domains() -> None:
    node = helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")
    assert read(model([node], [info("x", 1)], [info("y", 1)])).header.opset("com.microsoft") == 1


# ---- order and names -------------------------------------------------------------------------------------------------


def test_nodes_may_come_in_any_order() -> None:
    nodes = [
        helper.make_node("Add", ["b", "c"], ["y"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Constant", [], ["c"], value=weight("", 2)),
        helper.make_node("If", ["k"], ["d"], then_branch=branch("t", helper.make_node("Neg", ["y"], ["e"])),
                         else_branch=branch("f", helper.make_node("Neg", ["a"], ["g"]))),
        helper.make_node("Relu", ["x"], ["a"]),
    ]  # fmt: skip
    given = [info("x", 2), info("k", dtype=TensorProto.BOOL)]
    graph = read(model(nodes, given, [info("d", 2)]))
    assert [op.op_type for op in graph.ops()] == ["Relu", "Relu", "Add", "If"]
    onnx.checker.check_model(to_bytes(graph))


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ([helper.make_node("Relu", ["nobody"], ["y"])], "'nobody', which nothing defines"),
        ([helper.make_node("Relu", ["x"], ["x"])], "defines 'x' twice"),
        ([helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["y"])], "defines 'y' twice"),
        ([helper.make_node("Split", ["x"], ["y", "y"])], "two values of one name"),
        ([helper.make_node("Relu", ["x"], ["w"])], "defines 'w' twice"),
        ([helper.make_node("Constant", [], ["x"], value_int=1)], "defines 'x' twice"),
        ([helper.make_node("Neg", ["y"], ["z"]), helper.make_node("Constant", [], ["y"], value_int=1),
          helper.make_node("Neg", ["x"], ["y"])], "defines 'y' twice"),
        ([helper.make_node("Add", ["x", "z"], ["y"]), helper.make_node("Relu", ["y"], ["z"])], "cycle"),
        ([helper.make_node("If", ["x"], ["y"], then_branch=branch("t", helper.make_node("Neg", ["y"], ["e"])))],
         "cycle"),
        ([helper.make_node("If", ["x"], ["y"], then_branch=branch("t", helper.make_node("Neg", ["no"], ["e"])))],
         "'no', which nothing"),
    ],
)  # fmt: skip
def test_names_that_make_no_sense_are_refused(nodes: list[NodeProto], said: str) -> None:
    with pytest.raises((ModelError, GraphError), match=said):
        from_proto(model(nodes, [info("x", 2)], [info("y", 2)], [weight("w", 2)]))


def test_doubled_and_missing_interfaces_are_refused() -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    with pytest.raises(ModelError, match="'x' twice"):
        from_proto(model([node], [info("x", 2), info("x", 2)], [info("y", 2)]))
    with pytest.raises(ModelError, match="'w' twice"):
        from_proto(model([node], [info("x", 2)], [info("y", 2)], [weight("w", 1), weight("w", 1)]))
    with pytest.raises(ModelError, match="reads 'z'"):
        from_proto(model([node], [info("x", 2)], [info("z", 2)]))
    twice = model([node], [info("x", 2)], [info("y", 2)])
    twice.graph.node[0].attribute.add(name="a", type=1)
    twice.graph.node[0].attribute.add(name="a", type=1)
    with pytest.raises(ModelError, match="attribute 'a' twice"):
        from_proto(twice)


@pytest.mark.parametrize("content", [b"", b"\x00", b"PK\x03\x04 a zip file", b"<html>no model</html>", b"\x08\x0a"])
def test_what_is_no_model_is_refused(content: bytes) -> None:
    with pytest.raises(ModelError, match="no ONNX model"):
        from_bytes(content)


def test_names_that_are_no_text_are_refused() -> None:
    raw = model([helper.make_node("Relu", ["x"], ["abcdef"])], [info("x", 2)], [info("abcdef", 2)]).SerializeToString()
    with pytest.raises(ModelError, match="no text"):
        from_bytes(raw.replace(b"abcdef", b"\xffbcdef"))


def test_axes_called_by_a_question_mark_are_not_equal() -> None:
    """Paddle's exporter calls each size so that it does not know."""
    sizes = [1, "?", "n", "?"]
    graph = from_proto(
        helper.make_model(
            helper.make_graph(
                [helper.make_node("Relu", ["x"], ["y"])],
                "g",
                [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)],
                [helper.make_tensor_value_info("y", TensorProto.FLOAT, sizes)],
            )
        )
    )
    assert graph["x"].type == TensorType(DataType.FLOAT32, (1, None, "n", None))
