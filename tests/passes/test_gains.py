"""What layers and networks gain at most: eligibility rule by rule, and bounds that hold for any network."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from helpers.face_models import make_graph
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.ir import DataType, Graph, TensorType
from secateur.ir.build import add_constant, add_input, emit
from secateur.ir.errors import DataError, RefusedError
from secateur.ir.kernel_times import KernelTimes
from secateur.ir.known_targets import KNOWN
from secateur.ir.onnx_shapes import infer
from secateur.ir.roofline import Work, greatest_gain
from secateur.ir.rules.known import Known
from secateur.ir.rules.sparse_kernels import unfit
from secateur.ir.sizes import input_shapes, with_sizes
from secateur.ir.targets import Format, Target
from secateur.passes.layers.gains import NetworkGain, Question, gains, network_gain

L4 = Question(KNOWN["l4"], Format.FP16)


def chain(sizes: list[int], rows: int | str = 4) -> Graph:
    """Matrix products with Relus between them."""
    graph = Graph("chain")
    value = add_input(graph, "x", (rows, sizes[0]))
    for index, (inputs, outputs) in enumerate(pairwise(sizes)):
        weight = add_constant(graph, f"w{index}", np.ones((inputs, outputs), np.float32))
        value = emit(graph, "Relu", [emit(graph, "MatMul", [value, weight]).output]).output
    graph.set_interface(outputs=[value])
    return graph


def asked(graph: Graph, question: Question = L4) -> NetworkGain:
    return network_gain(Known(graph, infer(graph)), question)


def layer_of(op_type: str, shape: tuple[int, ...], data: tuple[int, ...], **attributes: int) -> Graph:
    """One op that multiplies `data` with a weight of this shape."""
    graph = Graph("layer")
    weight = add_constant(graph, "w", np.ones(shape, np.float32))
    made = emit(graph, op_type, [add_input(graph, "x", data), weight], attributes).output
    graph.set_interface(outputs=[made])
    return graph


@given(st.lists(st.sampled_from([8, 12, 16, 64, 100, 256, 1024]), min_size=2, max_size=5), st.integers(1, 4096))
@settings(max_examples=40, deadline=None)
def test_no_network_gains_more_than_its_best_layer(sizes: list[int], rows: int) -> None:
    found = asked(chain(sizes, rows))
    assert 1 <= found.gain <= max(layer.gain for layer in found.layers)
    assert all(layer.gain == 1 for layer in found.layers if not layer.can_gain)
    assert all(layer.gain >= L4.least for layer in found.layers if layer.can_gain)
    if not any(layer.can_gain for layer in found.layers):
        assert found.gain == found.gain_on_chip == 1
    assert found.gain_on_chip is not None and 1 <= found.gain_on_chip <= 2


def test_a_layer_gains_what_its_roofline_says() -> None:
    """[4, 256] x [256, 512]: activations in and out and no bias, two bytes each."""
    (layer,) = asked(chain([256, 512])).layers
    work = Work(4 * 256 * 512, 256 * 512, 2 * 4 * (256 + 512))
    assert layer.gain == pytest.approx(greatest_gain(work, L4.target, L4.form))
    assert (layer.rows, layer.macs, layer.bound) == (4, 4 * 256 * 512, "memory")


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        (layer_of("Conv", (32, 1, 3, 3), (1, 32, 8, 8), group=32), "grouped"),
        (layer_of("ConvTranspose", (32, 32, 2, 2), (1, 32, 8, 8)), "transposed"),
        (layer_of("Conv", (32, 3, 3, 3), (1, 3, 8, 8)), "its 3 inputs are no multiple of 16"),
        (layer_of("MatMul", (24, 32), (4, 24)), "its 24 inputs are no multiple of 16"),
        (layer_of("Gemm", (64, 10), (4, 64)), "its 10 outputs are no multiple of 8"),
        (layer_of("Conv", (64, 64, 1, 1), (1, 64, 256, 256)), "for its activations"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.ops()[0].op_type,
)
def test_what_no_sparse_kernel_takes_stays_dense(graph: Graph, said: str) -> None:
    found = asked(graph)
    (layer,) = found.layers
    assert layer.reason is not None and said in layer.reason
    assert layer.gain == found.gain == 1
    assert said in str(gains(Known(graph, infer(graph)), L4)["w"])


@pytest.mark.parametrize("op_type", ["MatMul", "Gemm"])
def test_what_a_sparse_kernel_takes_can_gain(op_type: str) -> None:
    graph = layer_of(op_type, (64, 32), (4, 64))
    assert gains(Known(graph, infer(graph)), L4)["w"] == pytest.approx(asked(graph).layers[0].gain)


def test_eight_bits_want_inputs_in_32s() -> None:
    graph = layer_of("MatMul", (48, 64), (1, 48))
    assert asked(graph).layers[0].can_gain
    (layer,) = asked(graph, Question(KNOWN["l4"], Format.INT8)).layers
    assert layer.reason is not None and "no multiple of 32" in layer.reason


def test_a_weight_that_others_read_stays_dense() -> None:
    graph = layer_of("MatMul", (64, 32), (4, 64))
    norm = emit(graph, "ReduceSum", [graph["w"]]).output
    graph.set_interface(outputs=[*graph.outputs, norm])
    reason = gains(Known(graph, infer(graph)), L4)["w"]
    assert isinstance(reason, str) and "ReduceSum" in reason and "also reads its weight" in reason


def test_a_tied_weight_is_seen_behind_a_transpose() -> None:
    """An embedding that the last product reads transposed: a layer like others, but zeros would be in both."""
    graph = Graph("tied")
    table = add_constant(graph, "table", np.ones((64, 32), np.float32))
    ids = add_input(graph, "ids", (4,), DataType.INT64)
    rows = emit(graph, "Gather", [table, ids]).output
    turned = emit(graph, "Transpose", [table], {"perm": [1, 0]}).output
    graph.set_interface(outputs=[emit(graph, "MatMul", [rows, turned]).output])
    found = asked(graph)
    (layer,) = found.layers
    assert (layer.weight, layer.rows, layer.macs) == ("table", 4, 4 * 64 * 32)
    assert "Gather" in str(layer.reason) and found.others == 1
    # Four rows of 32 in fp16 are read and written, and four indices; not the whole table.
    assert found.other_seconds == pytest.approx((2 * 4 * 32 * 2 + 4 * 8) / L4.target.bandwidth)


def test_other_names_for_the_same_bytes_take_no_time() -> None:
    graph = chain([64, 64])
    made = emit(graph, "Unsqueeze", [graph.outputs[0], add_constant(graph, "axes", np.array([0]))]).output
    graph.set_interface(outputs=[made])
    assert asked(graph).seconds == pytest.approx(asked(chain([64, 64])).seconds)


def test_ops_of_several_products_count_as_a_whole() -> None:
    graph = Graph("recurrent")
    sides = [add_constant(graph, name, np.ones((1, 64, 16), np.float32)) for name in ("w", "r")]
    made = emit(graph, "LSTM", [add_input(graph, "x", (5, 2, 16)), *sides], {"hidden_size": 16}).output
    graph.set_interface(outputs=[made])
    found = asked(graph)
    assert [str(layer.reason) for layer in found.layers] == ["no sparse kernel is known for LSTM"] * 2
    assert found.others == 1 and found.seconds == found.other_seconds > 0 and found.gain == 1


def test_an_op_without_a_rule_for_its_cost_is_counted_by_what_it_gives() -> None:
    plain, fused = layer_of("Gemm", (64, 32), (4, 64)), layer_of("Gemm", (64, 32), (4, 64))
    weight = add_constant(fused, "v", np.ones((64, 32), np.float32))
    fused.header = fused.header.with_opset("com.microsoft", 1)
    made = emit(fused, "com.microsoft::FusedGemm", [fused["x"], weight], {"activation": "Relu"}).output
    made.type = TensorType(DataType.FLOAT32, (4, 32))
    fused.set_interface(outputs=[made])
    first, second = asked(fused).layers
    assert (second.rows, second.macs, second.gain) == (first.rows, first.macs, first.gain)
    assert first.gain == asked(plain).layers[0].gain


@pytest.mark.parametrize(
    ("target", "form", "said"),
    [
        ("t4", Format.FP16, "no sparse tensor cores"),
        ("a100", Format.TF32, "1:2"),
        ("a100", Format.FP32, "tensor cores"),
    ],
)
def test_a_target_that_has_no_sparse_products_gains_nothing(target: str, form: Format, said: str) -> None:
    question = Question(KNOWN[target], form)
    assert said in str(unfit(question.target, form))
    found = asked(chain([256, 256, 256]), question)
    assert found.gain == 1 and not any(layer.can_gain for layer in found.layers)


def test_a_format_that_the_target_lacks_is_refused() -> None:
    with pytest.raises(RefusedError, match="has no fp8 products"):
        asked(chain([64, 64]), Question(KNOWN["a100"], Format.FP8))


def test_what_is_not_a_layer_takes_time_and_gains_nothing() -> None:
    """A product of two activations: its arithmetic and its bytes count, but there is no weight."""
    graph = chain([256, 256])
    value = graph.outputs[0]
    product = emit(graph, "MatMul", [emit(graph, "Transpose", [value], {"perm": [1, 0]}).output, value]).output
    graph.set_interface(outputs=[product])
    without, found = asked(chain([256, 256])), asked(graph)
    assert len(found.layers) == 1 and found.others == without.others + 2
    assert found.other_seconds > without.other_seconds and 1 < found.gain < without.gain


def test_measured_times_stand_in_for_the_roofline() -> None:
    slow = KernelTimes("toy", {(Format.FP16, 256, 512): ((4, 10.0, 12.5),), (Format.FP16, 512, 256): ((4, 10.0, 5.0),)})
    found = asked(chain([256, 512, 256, 256]), Question(L4.target, L4.form, times=slow))
    slower, faster, other = found.layers
    assert slower.reason == "0.800 times as fast, as measured" and slower.gain == 1
    assert faster.gain == pytest.approx(2) and faster.bound == "measured"
    assert other.bound == "memory" and found.gain_on_chip is None


def test_unknown_shapes_are_said_and_gain_nothing() -> None:
    graph = layer_of("MatMul", (64, 32), (4, 64))
    weight = add_constant(graph, "v", np.ones((32, 32), np.float32))
    shape = add_input(graph, "shape", (2,))
    odd = emit(graph, "com.example::Odd", [graph.outputs[0], shape]).output
    graph.header = graph.header.with_opset("com.example", 1)
    graph.set_interface(outputs=[emit(graph, "Gemm", [odd, weight]).output])
    found = asked(graph)
    assert [title.partition(" ")[0] for title in found.uncounted] == ["com.example::Odd", "Gemm"]
    known, unknown = found.layers
    assert known.can_gain and unknown.reason == "its shapes are not known"
    assert found.gain <= known.gain and unknown.seconds == 0


@pytest.mark.parametrize("rows", [1, 7, 512])
def test_open_sizes_are_filled_in(rows: int) -> None:
    named, fixed = chain([64, 64], "N"), chain([64, 64], rows)
    assert input_shapes(with_sizes(named, {}, rows)) == {"x": (rows, 64)}
    for graph in (with_sizes(named, {"x": (rows, 64)}), with_sizes(named, {}, rows), with_sizes(fixed, {})):
        assert asked(graph) == asked(fixed)
    assert input_shapes(named) == {"x": ("N", 64)}, "the model itself stays as it is"


def test_a_name_is_one_size_in_all_inputs() -> None:
    graph = Graph("two")
    first, second = add_input(graph, "a", ("batch", "length")), add_input(graph, "b", ("batch", "length"))
    graph.set_interface(outputs=[emit(graph, "Add", [first, second]).output])
    assert input_shapes(with_sizes(graph, {"a": (2, 5)})) == {"a": (2, 5), "b": (2, 5)}
    for shapes, batch, said in (
        ({}, None, "size of axis 1 of input a f32.* is open"),
        ({"a": (2, 5), "b": (3, 5)}, None, "expected 2 on axis 0, found 3"),
        ({"a": (2, 5)}, 4, "which is 2 by the shapes and 4 here"),
        ({"a": (2,)}, None, "found the shape 2"),
        ({"a": (0, 5)}, None, "expected 1 on axis 0, found 0"),
        ({"c": (2, 5)}, None, "no input 'c'"),
        ({"a": (2, 5)}, 0, "at least 1, found 0"),
    ):
        with pytest.raises(DataError, match=said):
            with_sizes(graph, shapes, batch)


def test_a_network_with_everything() -> None:
    """conv1 has 3 inputs, the depthwise one is grouped, conv2 can gain, and fc has 10 outputs."""
    graph = with_sizes(make_graph(), {}, 1)
    found = gains(
        Known(graph, infer(graph)), Question(Target("toy", (8, 0), L4.target.peak, 1.0, L4.target.sparse), Format.FP16)
    )
    assert [name for name, gain in found.items() if isinstance(gain, float)] == ["conv2.weight"]
    assert "grouped" in str(found["depthwise.weight"]) and "10 outputs" in str(found["fc.weight"])
