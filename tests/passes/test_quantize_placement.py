"""Where Q/DQ goes: shortcuts, products of data, outputs of 2:4 layers, shared scales; and how ranges are chosen."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.convolutional import Net

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.sources import open_source
from secateur.ir import Graph, Op
from secateur.ir.build import add_constant, add_input, emit
from secateur.passes.context import Context
from secateur.passes.manager import Result, run_pipeline
from secateur.passes.pipeline import parse_pipeline


def _quantize(graph: Graph, text: str, shape: tuple[int, ...], scale: float = 1.0) -> Result:
    data = scale * np.random.default_rng(0).normal(size=shape).astype(np.float32)
    source = open_source({"x": data}, batch_size=4)
    return run_pipeline(graph, parse_pipeline(text), Context(runner=OnnxRuntimeRunner, source=source))


def _kernel(graph: Graph, name: str, outputs: int, inputs: int) -> object:
    return add_constant(
        graph, name, np.random.default_rng(len(name)).normal(size=(outputs, inputs, 3, 3)).astype(np.float32)
    )


def _residual() -> Graph:
    """x -> conv a -> relu -> conv b -> + relu(a) -> relu -> conv c."""
    graph = Graph()
    x = add_input(graph, "x", ["n", 4, 9, 9])
    pads = {"pads": [1, 1, 1, 1]}
    trunk = emit(graph, "Relu", [emit(graph, "Conv", [x, _kernel(graph, "a", 8, 4)], pads).output]).output
    branch = emit(graph, "Conv", [trunk, _kernel(graph, "bb", 8, 8)], pads).output
    total = emit(graph, "Relu", [emit(graph, "Add", [branch, trunk]).output]).output
    graph.set_interface(outputs=[emit(graph, "Conv", [total, _kernel(graph, "ccc", 8, 8)], pads).output])
    return graph


def _makers(graph: Graph, op: Op) -> list[str]:
    found = [graph.producer(value) for value in op.inputs if value is not None and value.const is None]
    return [maker.op_type for maker in found if maker is not None]


def test_the_shortcut_is_quantized_and_the_convolution_that_it_is_added_to_is_not() -> None:
    graph = _quantize(_residual(), "quantize", (8, 4, 9, 9)).graph
    (add,) = (op for op in graph.ops() if op.op_type == "Add")
    assert _makers(graph, add) == ["Conv", "DequantizeLinear"]
    graph = _quantize(_residual(), "quantize{residuals=false}", (8, 4, 9, 9)).graph
    (add,) = (op for op in graph.ops() if op.op_type == "Add")
    assert _makers(graph, add) == ["Conv", "Relu"]


def test_a_sum_that_somebody_reads_in_float_keeps_its_shortcut_in_float() -> None:
    graph = _residual()
    last = next(op for op in graph.ops() if op.inputs[1:] and op.inputs[1] is graph.get("ccc"))
    total = last.inputs[0]
    assert total is not None
    graph.set_interface(outputs=[*graph.outputs, emit(graph, "Sigmoid", [total]).output])
    quantized = _quantize(graph, "quantize", (8, 4, 9, 9)).graph
    (add,) = (op for op in quantized.ops() if op.op_type == "Add")
    assert "DequantizeLinear" not in _makers(quantized, add)


def test_nothing_lies_between_a_convolution_and_what_it_is_fused_with() -> None:
    graph = _quantize(Net(16).conv(16).op("Relu").conv(16).done(), "sparsify,quantize", (8, 16, 9, 9)).graph
    for op in graph.ops():
        if op.op_type == "Relu":
            assert _makers(graph, op) == ["Conv"]


SPARSE = "sparsify{criterion=magnitude,repair=none}"


@pytest.mark.parametrize(
    ("passes", "maker"),
    [
        ("quantize", "Relu"),
        (f"{SPARSE},quantize", "DequantizeLinear"),
        (f"{SPARSE},quantize{{sparse_outputs=none}}", "Relu"),
    ],
)
def test_what_a_sparse_convolution_gives_is_quantized_for_all_who_read_it(passes: str, maker: str) -> None:
    net = Net(16).conv(16).op("Relu").op("GlobalAveragePool").op("Flatten").gemm(16, 8, True)
    graph = _quantize(net.done(), passes, (8, 16, 9, 9)).graph
    pool = next(op for op in graph.ops() if op.op_type == "GlobalAveragePool")
    assert _makers(graph, pool) == [maker]


@pytest.mark.parametrize(("which", "maker"), [("convolutions", "MatMul"), ("all", "DequantizeLinear")])
def test_what_a_sparse_product_gives_is_quantized_where_that_is_asked(which: str, maker: str) -> None:
    passes = f"sparsify{{criterion=magnitude,repair=none,worthwhile=false}},quantize{{sparse_outputs={which}}}"
    graph = _quantize(_attention(), passes, (8, 6, 16)).graph
    softmax = next(op for op in graph.ops() if op.op_type == "Softmax")
    scores = graph.producer(softmax.inputs[0])  # type: ignore[arg-type]
    assert scores is not None
    assert _makers(graph, scores)[0] == maker


def _pooled() -> Graph:
    """Two convolutions, one behind a MaxPool of what the other reads."""
    graph = Graph()
    x = add_input(graph, "x", ["n", 4, 9, 9])
    pooled = emit(graph, "MaxPool", [x], {"kernel_shape": [2, 2]}).output
    made = [emit(graph, "Conv", [one, _kernel(graph, name, 8, 4)]).output for one, name in ((x, "a"), (pooled, "bb"))]
    graph.set_interface(outputs=made)
    return graph


def test_what_moves_numbers_alone_keeps_their_scale() -> None:
    graph = _quantize(_pooled(), "quantize", (8, 4, 9, 9), scale=-1.0).graph
    scales = [
        value.const.numpy()
        for value in graph.constants()
        if value.const and value.name.endswith("_scale") and not value.const.shape
    ]
    assert len(scales) == 2
    assert scales[0] == scales[1]


def _attention() -> Graph:
    graph = Graph()
    x = add_input(graph, "x", ["n", 6, 16])
    random = np.random.default_rng(0)
    made = []
    for name in "qkv":
        weight = add_constant(graph, name, random.normal(size=(16, 16)).astype(np.float32))
        made.append(emit(graph, "MatMul", [x, weight]).output)
    keys = emit(graph, "Transpose", [made[1]], {"perm": [0, 2, 1]}).output
    scores = emit(graph, "Softmax", [emit(graph, "MatMul", [made[0], keys]).output], {"axis": -1}).output
    graph.set_interface(outputs=[emit(graph, "MatMul", [scores, made[2]]).output])
    return graph


@pytest.mark.parametrize(("option", "quantized"), [("false", 0), ("true", 2)])
def test_products_of_data_are_quantized_on_both_sides_or_not_at_all(option: str, quantized: int) -> None:
    graph = _quantize(_attention(), f"quantize{{products={option}}}", (8, 6, 16)).graph
    products = [op for op in graph.ops() if op.op_type == "MatMul" and len(_makers(graph, op)) == 2]
    both = [op for op in products if _makers(graph, op) == ["DequantizeLinear"] * 2]
    weighted = [op for op in both if any(graph.constant(graph.producer(value).input(0)) for value in op.inputs)]  # type: ignore[union-attr,arg-type]
    assert len(weighted) == 3
    assert len(both) - len(weighted) == quantized


@pytest.mark.parametrize("way", ["max", "percentile", "mse", "entropy", "token"])
def test_every_way_to_choose_a_range_is_within_it(way: str) -> None:
    data = np.random.default_rng(0).normal(size=(64, 4, 9, 9)).astype(np.float32)
    data[0, 0, 0, 0] = 100
    source = open_source({"x": data}, batch_size=8)
    context = Context(runner=OnnxRuntimeRunner, source=source)
    graph = run_pipeline(
        Net(4).conv(8).done(), parse_pipeline(f"quantize{{calibration={way},percentile=99}}"), context
    ).graph
    scale = graph.get("x_scale")
    assert scale is not None
    assert scale.const is not None
    amax = 127 * float(scale.const.numpy())
    assert amax == pytest.approx(100) if way == "max" else 1 < amax < 101
    if way in ("percentile", "entropy"):
        assert amax < 10
