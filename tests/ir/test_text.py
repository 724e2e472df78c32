"""The text form: what it looks like, and that it says everything."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.graphs import tiny_graphs
from helpers.random_graphs import random_graph, random_tensor
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.ir import Attribute, AttributeKind, DataType, FunctionKey, Graph, Header, Tensor, Value
from secateur.ir.build import add_constant, add_input, emit
from secateur.ir.equal import first_difference
from secateur.ir.node import ConstantNode
from secateur.ir.text_parse import parse_graph
from secateur.ir.text_print import digests, print_graph
from secateur.ir.text_tensors import summary

TINY = tiny_graphs()

PAGE = """\
ir_version 10
opset 20
opset example.domain 1
producer "pytorch" "2.13.0"
metadata "license" "Apache-2.0"

graph @main_graph(
    %images: f32[N, 3, 8, 8],
    %mode: bool[] doc "fast?",
) -> (%/head/Add_output_0, %hidden, %scale) {
  doc "Two\\nlines."
  %/Relu_out = Relu(%images) @/Relu : f32[N, 3, 8, 8]
  %conv.w = f32[4, 3, 3, 3] #c48eab9f9b570bed  // |max| 53.5, 0.926% zeros
  %conv.b = f32[4] [0.1, -0.0, inf, nan] : _ doc "learned"
  %hidden = Conv(%/Relu_out, %conv.w, %conv.b) {pads = [1, 1, 1, 1]} @"conv 1" meta {"a": "1"} : f32[N, 4, 8, 8]
  %smallest = Constant f32[] 0.0 @/Constant
  %clipped, _ = example.domain::Clip:fast(%hidden, %smallest, _) {alpha = 0.1, mode = "floor"}
  %factor = f32[] 0.5
  %/head/Add_output_0 = If(%mode) {
    else_branch = graph @careful() -> (%scaled) {
      %scaled = Mul(%clipped, %factor)
    },
    then_branch = graph @fast() -> (%clipped) {}
  } @/head/If
  %scale = i8[2] [-128, 127]
}
"""


def page() -> Graph:
    header = Header(
        opsets=(("", 20), ("example.domain", 1)),
        producer=("pytorch", "2.13.0"),
        metadata=(("license", "Apache-2.0"),),
    )
    graph = Graph("main_graph", header=header)
    graph.doc = "Two\nlines."
    images = add_input(graph, "images", ("N", 3, 8, 8))
    mode = add_input(graph, "mode", (), DataType.BOOL)
    mode.doc = "fast?"
    scale = add_constant(graph, "scale", np.array([-128, 127], np.int8))
    factor = add_constant(graph, "factor", np.float32(0.5))
    bias = add_constant(graph, "conv.b", np.array([0.1, -0.0, np.inf, np.nan], np.float32))
    bias.doc = "learned"
    weight = add_constant(graph, "conv.w", (np.arange(108, dtype=np.float32).reshape(4, 3, 3, 3) - 0) / 2)
    smallest = add_constant(graph, "smallest", np.float32(0))
    smallest.node = ConstantNode("/Constant")
    relu = emit(graph, "Relu", [images], outputs=["/Relu_out"])
    relu.name, relu.output.type = "/Relu", images.type
    conv = emit(graph, "Conv", [relu.output, weight, bias], {"pads": [1] * 4}, outputs=["hidden"])
    conv.name, conv.metadata = "conv 1", {"a": "1"}
    conv.output.type = TINY_TYPE
    inputs = [conv.output, smallest, None]
    clip = emit(graph, "example.domain::Clip", inputs, {"mode": "floor", "alpha": 0.1}, outputs=["clipped", None])
    clip.overload = "fast"
    fast, careful = Graph("fast", body=True), Graph("careful", body=True)
    fast.set_interface(outputs=[clip.output])
    careful.set_interface(outputs=[emit(careful, "Mul", [clip.output, factor], outputs=["scaled"]).output])
    made = emit(graph, "If", [mode], {"then_branch": fast, "else_branch": careful}, outputs=["/head/Add_output_0"])
    made.name = "/head/If"
    graph.set_interface(outputs=[made.output, conv.output, scale])
    return graph


TINY_TYPE = parse_graph("graph(%x: f32[N, 4, 8, 8]) -> () {}").inputs[0].type


def test_what_it_looks_like() -> None:
    assert print_graph(page()) == PAGE
    assert str(page()) == PAGE
    assert print_graph(parse_graph(PAGE, digests(page()))) == PAGE


@pytest.mark.parametrize("elide", [0, 16, 10**6])
@pytest.mark.parametrize("name", TINY)
def test_tiny_graphs_come_back(name: str, elide: int) -> None:
    check_round_trip(TINY[name](), elide)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), size=st.integers(0, 12), elide=st.sampled_from([0, 16, 10**6]))
def test_random_graphs_come_back(seed: int, size: int, elide: int) -> None:
    check_round_trip(random_graph(seed, size), elide)


def check_round_trip(graph: Graph, elide: int) -> None:
    text = print_graph(graph, elide=elide)
    again = parse_graph(text, digests(graph))
    again.verify()
    assert first_difference(graph, again) is None
    assert first_difference(again, graph) is None
    assert print_graph(again, elide=elide) == text
    assert print_graph(graph.clone(), elide=elide) == text


@pytest.mark.parametrize(
    "dtype", [dtype for dtype in DataType if dtype.bits in range(1, 9)], ids=lambda dtype: dtype.short
)
def test_every_element_of_narrow_types_comes_back(dtype: DataType) -> None:
    codes = np.arange(2 if dtype is DataType.BOOL else 1 << dtype.bits, dtype=np.uint8)
    check_tensor(Tensor(codes.view(dtype.numpy), dtype))


@pytest.mark.parametrize(
    "dtype", [dtype for dtype in DataType if dtype is not DataType.UNDEFINED], ids=lambda dtype: dtype.short
)
@given(seed=st.integers(0, 2**32), shape=st.sampled_from([(), (0,), (1,), (3,), (2, 1, 3), (2, 0)]))
@settings(max_examples=20, deadline=None)
def test_every_bit_pattern_comes_back(dtype: DataType, seed: int, shape: tuple[int, ...]) -> None:
    check_tensor(random_tensor(seed, dtype, shape))


def test_every_half_precision_number_comes_back() -> None:
    for dtype in (DataType.FLOAT16, DataType.BFLOAT16):
        check_tensor(Tensor(np.arange(65536, dtype=np.uint16).view(dtype.numpy), dtype))


def check_tensor(tensor: Tensor) -> None:
    graph = Graph()
    graph.add_value(Value("w", const=tensor))
    again = parse_graph(print_graph(graph, elide=10**6))["w"].const
    assert again is not None
    assert again.equals(tensor)
    assert again.digest == tensor.digest
    assert again.metadata == tensor.metadata


def test_odd_bits_are_written_as_bits() -> None:
    assert "f32[3] [nan, 0x7fc00001, 0xffc00000]" in text_of(
        np.array([0x7FC00000, 0x7FC00001, 0xFFC00000], "u4").view("f4")
    )
    assert "bool[2] [true, 0x02]" in text_of(np.array([1, 2], np.uint8).view(bool))
    assert "f16[1] [0.1]" in text_of(np.array([0.1], np.float16))
    assert "c64[1] [(1.0, -0.0)]" in text_of(np.array([complex(1.0, -0.0)], np.complex64))


def text_of(array: np.ndarray) -> str:
    graph = Graph()
    add_constant(graph, "w", array)
    return print_graph(graph)


def test_a_strided_array_is_spelled_in_its_order() -> None:
    assert "[0.0, 2.0, 4.0]" in text_of(np.arange(6, dtype=np.float32)[::2])
    assert "c64[2] [(0.0, 0.0), (2.0, 0.0)]" in text_of(np.arange(4, dtype=np.complex64)[::2])


@given(st.text(st.characters(codec=None), min_size=1), st.text(st.characters(codec=None)))
@settings(deadline=None)
def test_any_name_and_text_comes_back(name: str, text: str) -> None:
    graph = Graph(text, header=Header(doc=text, metadata=((text, name),)))
    value = add_input(graph, name, (text, 1))
    op = emit(graph, "T", [value], {name: text}, outputs=[None])
    op.op_type, op.domain, op.overload, op.name, op.doc, op.metadata = name, text, text, text, text, {text: name}
    graph.functions[FunctionKey(text, name, text)] = Graph(name)
    printed = print_graph(graph)
    assert first_difference(graph, parse_graph(printed)) is None
    assert printed.isascii() or printed.replace("\n", "").isprintable()


def test_text_does_not_depend_on_history() -> None:
    graph, other = TINY["if_captures"](), TINY["if_captures"]()
    extra = add_constant(other, "extra", np.zeros(3))
    idle = emit(other, "Exp", [extra])
    holder = next(op for op in other.ops() if op.bodies())
    body = holder.bodies()[0]
    inner = emit(body, "Exp", [other["relu"]], outputs=["aside"])
    body.remove(inner)
    other.remove(idle, extra)
    other.rename(other["w"], "elsewhere")
    other.rename(other["elsewhere"], "w")
    for op in other.ops():
        other.set_attribute(op, "note", "here")
        other.set_attribute(op, "note", None)
    first = other.ops()[0]
    other.set_inputs(first, [first.inputs[0], None])
    other.set_inputs(first, [first.inputs[0], other["w"]])
    assert print_graph(other) == print_graph(graph)


def test_what_nobody_reads_is_in_order() -> None:
    graph = Graph()
    for name in "ba":
        add_constant(graph, name, np.zeros(1))
    for name in "dc":
        graph.add_value(Value(name))
    names = [line.split()[0] for line in print_graph(graph).splitlines() if line.startswith("  ")]
    assert names == ["%c", "%d", "%a", "%b"]


def test_attributes_and_metadata_are_in_order() -> None:
    graph = Graph()
    emit(graph, "T", [], {"b": 1, "a": 2}, outputs=["y"])
    graph["y"].metadata = {"z": "1", "c": "2"}
    assert '%y = T() {a = 2, b = 1} : _ meta {"c": "2", "z": "1"}' in print_graph(graph)


def test_kinds_of_attributes_are_told_apart() -> None:
    kinds = AttributeKind
    attributes = {
        "a": Attribute(kinds.FLOATS, ()),
        "b": Attribute(kinds.INTS, ()),
        "c": Attribute(kinds.STRINGS, ()),
        "d": Attribute(kinds.GRAPHS, ()),
        "e": Attribute(kinds.FLOAT, 1.0),
        "f": Attribute(kinds.UNDEFINED, None),
        "g": Attribute(kinds.TYPE_PROTO, None),
        "h": Attribute(kinds.TENSORS, (Tensor(np.array([b"\xff"], object)),)),
    }
    graph = Graph()
    emit(graph, "T", [], attributes, outputs=["y"])
    shown = "{a = floats[], b = [], c = strings[], d = graphs[], e = 1.0, f = undefined _, g = type_proto _, h = "
    shown += '[string[1] ["\\udcff"]]}'
    assert shown in print_graph(graph)
    assert first_difference(graph, parse_graph(print_graph(graph))) is None


def test_floats_are_those_that_onnx_keeps() -> None:
    graph = Graph()
    emit(graph, "T", [], {"alpha": 0.1, "beta": float(np.float32(0.1)), "gamma": 1e300}, outputs=["y"])
    assert "{alpha = 0.1, beta = 0.1, gamma = inf}" in print_graph(graph)
    (op,) = parse_graph(print_graph(graph)).ops()
    assert op.attribute("alpha") == np.float32(0.1)


def test_without_notes() -> None:
    text = print_graph(page(), notes=False)
    assert "doc" not in text
    assert "meta" not in text
    again = parse_graph(text, digests(page()))
    assert print_graph(again, notes=False) == text


def test_elision_follows_size() -> None:
    graph = Graph()
    add_constant(graph, "w", np.zeros((2, 2), np.float32))
    add_constant(graph, "s", np.array(["x" * 300], object))
    assert "%w = f32[2, 2] [0.0, 0.0, 0.0, 0.0]\n" in print_graph(graph, elide=4)
    assert "  // |max| 0, 100% zeros\n" in print_graph(graph, elide=3)
    assert "%s = string[1] #" in print_graph(graph, elide=4)
    assert "%s = string[1] [" in print_graph(graph, elide=5)


def test_summaries() -> None:
    assert summary(Tensor(np.array([-3.0, 1.0]))) == "|max| 3"
    assert summary(Tensor(np.array([0, -128], np.int8))) == "|max| 128, 50% zeros"
    assert summary(Tensor(np.array([np.nan, 1.0], np.float16))) == "|max| nan"
    assert summary(Tensor(np.array([3 + 4j], np.complex64))) == "|max| 5"
    assert summary(Tensor(np.zeros(0))) == ""
    assert summary(Tensor(np.array(["a"], object))) == ""
    large = np.zeros((1 << 20) + 5, np.float32)
    large[-1] = -0.25
    assert summary(Tensor(large)) == "|max| 0.25, 100% zeros"


def test_digests_reach_everywhere() -> None:
    graph = page()
    body = next(op for op in graph.ops() if op.bodies()).bodies()[0]
    inner, attribute, default = (Tensor(np.full(20, number)) for number in (1.0, 2.0, 3.0))
    body.add_value(Value("inner", const=inner))
    emit(body, "T", [], {"value": attribute}, outputs=["t"])
    function = Graph("f", header=Header(parameters=(("p", Attribute(AttributeKind.TENSOR, default)),)))
    graph.functions[FunctionKey("d", "f")] = function
    found = digests(graph)
    assert all(found[tensor.digest] is tensor for tensor in (inner, attribute, default))
    assert first_difference(graph, parse_graph(print_graph(graph, elide=0), found)) is None


def test_a_body_prints_alone() -> None:
    op = next(op for op in TINY["if_captures"]().ops() if op.bodies())
    assert print_graph(op.bodies()[0]).startswith("graph @then() -> (%chosen) {\n  %chosen = MatMul(%relu, %outer)")


def test_a_long_interface_takes_a_line_for_each_input() -> None:
    graph = Graph("g")
    for index in range(6):
        add_input(graph, f"a_rather_long_name_{index}", (1, 2, 3))
    text = print_graph(graph)
    assert "\ngraph @g(\n    %a_rather_long_name_0: f32[1, 2, 3],\n" in text
    assert "    %a_rather_long_name_5: f32[1, 2, 3],\n) -> () {}\n" in text
    assert print_graph(parse_graph(text)) == text


def test_a_broken_graph_still_prints() -> None:
    graph = TINY["residual"]()
    first, last = graph.ops()[0], graph.ops()[-1]
    graph.set_inputs(first, [last.output])
    first.attributes["broken"] = Attribute(AttributeKind.INTS, 3)
    assert "{broken = !3}" in print_graph(graph)


def test_values_that_nothing_makes_come_back() -> None:
    graph = Graph()
    graph.add_value(Value("loose"))
    typed = graph.add_value(Value("typed", TINY_TYPE))
    emit(graph, "T", [typed], outputs=["y"])
    assert first_difference(graph, parse_graph(print_graph(graph))) is None
