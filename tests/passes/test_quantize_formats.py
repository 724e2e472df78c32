"""Every number format: what is stored, what a runtime makes of it, and what the real builder computes with."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from helpers.convolutional import Net
from helpers.graphs import packed_heads
from helpers.sparse_problems import satisfies

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.sources import open_source
from secateur.ir import DataType, Graph, TensorType
from secateur.ir.build import add_constant, add_input, emit
from secateur.ir.errors import RefusedError
from secateur.ir.runner import Runner
from secateur.ir.schemes import schemes
from secateur.passes.context import Context
from secateur.passes.manager import Result, run_pipeline
from secateur.passes.pipeline import parse_pipeline
from secateur.passes.quantize.formats import FORMATS

_DATA = np.random.default_rng(0).normal(size=(512, 128)).astype(np.float32)
_RUN_BY_TORCH = {"nvfp4", "mxfp8"}
_LEAST = {"int8": 36.0, "fp8": 28.0, "int4": 18.0, "int8-block": 42.0, "nvfp4": 17.0, "mxfp8": 27.0}
"""Decibels that are left of two layers of Gaussian weights: by far less where a scale or an axis is wrong."""


def _mlp(dtype: type = np.float32, opset: int = 20) -> Graph:
    """x [n, 128] through a MatMul with 256 outputs, a Relu, and a Gemm with its weight the other way."""
    random = np.random.default_rng(1)
    graph = Graph()
    x = add_input(graph, "x", ["n", 128], DataType.of(dtype))
    first = add_constant(graph, "first", (random.normal(size=(128, 256)) / 11).astype(dtype))
    second = add_constant(graph, "second", (random.normal(size=(64, 256)) / 16).astype(dtype))
    hidden = emit(graph, "Relu", [emit(graph, "MatMul", [x, first]).output]).output
    bias = add_constant(graph, "bias", np.ones(64, dtype))
    y = emit(graph, "Gemm", [hidden, second, bias], {"transB": 1}, outputs=["y"]).output
    y.type = TensorType(DataType.of(dtype), ("n", 64))
    graph.set_interface(outputs=[y])
    graph.header = graph.header.with_opset("", opset)
    return graph


def _quantize(graph: Graph, text: str, data: np.ndarray = _DATA) -> Result:
    source = open_source({"x": data}, batch_size=64)
    return run_pipeline(graph, parse_pipeline(text), Context(runner=OnnxRuntimeRunner, source=source))


def _runner(name: str, graph: Graph) -> Runner:
    if name not in _RUN_BY_TORCH:
        return OnnxRuntimeRunner(graph)
    pytest.importorskip("torch")
    from secateur.backends.torch.runner import TorchRunner

    return TorchRunner(graph)


def _decibels(name: str, dense: Graph, small: Graph, data: np.ndarray) -> float:
    with OnnxRuntimeRunner(dense) as one, _runner(name, small) as other:
        exact, found = (next(iter(runner.run({"x": data}).values())).astype(np.float64) for runner in (one, other))
    return 10 * float(np.log10((exact**2).sum() / ((exact - found) ** 2).sum()))


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_left_is_what_the_format_allows(name: str) -> None:
    dense = _mlp()
    result = _quantize(dense, f"quantize{{format={name}}}")
    assert result.report.rewrites == 2
    assert _decibels(name, dense, result.graph, _DATA) > _LEAST[name]
    assert {row["format"] for row in result.report.entries[0].rows} == {name}


def _correlated(seed: int) -> np.ndarray:
    mixing = np.eye(128) + np.random.default_rng(3).normal(size=(128, 128)) / 6
    return (np.random.default_rng(seed).normal(size=(512, 128)) @ mixing).astype(np.float32)


@pytest.mark.parametrize("way", ["gptq", "descent", "adaround", "obr"])
@pytest.mark.parametrize("name", ["int4", "int8", "int8-block", "fp8"])
def test_what_looks_at_data_leaves_more_on_other_data(name: str, way: str) -> None:
    dense, fresh = _mlp(), _correlated(5)
    plain, better = (
        _quantize(dense, f"quantize{{format={name},rounding={one}}}", _correlated(0)) for one in ("nearest", way)
    )
    assert _decibels(name, dense, better.graph, fresh) > _decibels(name, dense, plain.graph, fresh)
    for row in better.report.entries[0].rows:
        assert row["error"] <= row["nearest"]


@pytest.mark.parametrize("way", ["gptq", "descent", "adaround", "obr"])
def test_zeros_of_a_sparse_weight_stay_whatever_the_rounding(way: str) -> None:
    text = f"sparsify{{criterion=magnitude,repair=none,worthwhile=false}},quantize{{rounding={way}}}"
    result = _quantize(_mlp(), text, _correlated(0))
    for name, axis in (("first_quantized", 0), ("second_quantized", 1)):
        value = result.graph.get(name)
        assert value is not None
        assert value.const is not None
        assert satisfies(value.const.numpy(), 2, 4, axis)
        assert value.metadata


def test_zeros_are_made_up_for_while_rounding() -> None:
    """Joint: the removed weights are known from the model as it was, and least squares on the mask come first."""
    dense = _mlp()
    before = "sparsify{criterion=magnitude,repair=none,worthwhile=false},"
    plain, joint = (
        _quantize(dense, f"{before}quantize{{rounding={way}}}", _correlated(0)).graph for way in ("nearest", "obr")
    )
    fresh = _correlated(5)
    assert _decibels("int8", dense, joint, fresh) > _decibels("int8", dense, plain, fresh) + 3


@pytest.mark.parametrize(
    ("name", "stored"), [("int4", "i4"), ("int8-block", "i8"), ("fp8", "f8e4m3fn"), ("nvfp4", "f4e2m1")]
)
def test_weights_are_stored_in_the_type_of_the_format(name: str, stored: str) -> None:
    graph = _quantize(_mlp(), f"quantize{{format={name}}}").graph
    codes = [
        value.const
        for value in graph.constants()
        if value.const and value.name.endswith(("first_quantized", "second_quantized"))
    ]
    assert [tensor.dtype.short for tensor in codes] == [stored] * 2
    assert {scheme.dtype.short for _, scheme in schemes(graph) if scheme.dtype.bits < 16} >= {stored}


def test_blocks_shrink_until_they_divide_the_input_channels_and_are_fewer() -> None:
    rows = _quantize(_mlp(), "quantize{format=int4}").report.entries[0].rows
    assert [row["block"] for row in rows] == [64, 128]
    rows = _quantize(_mlp(), "quantize{format=int4,block=32}").report.entries[0].rows
    assert [row["bits"] for row in rows] == [5.0, 5.0]


def test_formats_go_by_name() -> None:
    result = _quantize(_mlp(), "quantize{formats=[first:int4, sec*:float]}")
    assert [row["format"] for row in result.report.entries[0].rows] == ["int4"]
    assert "second stays in float: formats say so" in result.report.entries[0].notes
    with pytest.raises(RefusedError, match="no weight is called 'third'"):
        _quantize(_mlp(), "quantize{formats=[third:int4]}")


def test_a_half_model_gets_half_scales_and_an_opset_that_has_them() -> None:
    dense = _mlp(np.float16, opset=17)
    result = _quantize(dense, "quantize", _DATA.astype(np.float16))
    assert (result.graph.header.opset() or 0) >= 19
    scales = [value.const for value in result.graph.constants() if value.const and value.name.endswith("_scale")]
    assert {tensor.dtype for tensor in scales} == {DataType.FLOAT16}
    assert _decibels("int8", dense, result.graph, _DATA.astype(np.float16)) > 36


def test_a_convolution_takes_no_blocks() -> None:
    images = np.random.default_rng(0).normal(size=(4, 3, 9, 9)).astype(np.float32)
    result = _quantize(Net().conv(64).op("Relu").conv(64).done(), "quantize{format=int4}", images)
    assert result.report.rewrites == 0
    assert all("Conv in float" in note for note in result.report.entries[0].notes)


def test_a_product_that_is_split_into_heads_gets_one_scale() -> None:
    data = np.random.default_rng(0).normal(size=(6, 11, 64)).astype(np.float32)
    result = run_pipeline(
        packed_heads(),
        parse_pipeline("quantize"),
        Context(runner=OnnxRuntimeRunner, source=open_source({"x": data}, batch_size=3)),
    )
    scale = result.graph.get("w_scale")
    assert scale is not None
    assert scale.const is not None
    assert scale.const.shape == ()
    assert any("gets one scale" in note for note in result.report.entries[0].notes)


def test_a_large_kernel_stays_in_float_where_fp8_has_none_for_it() -> None:
    images = np.random.default_rng(0).normal(size=(4, 3, 16, 16)).astype(np.float32)
    result = _quantize(Net(3, 16).conv(16, 7).op("Relu").conv(8).done(), "quantize{format=fp8}", images)
    assert result.report.rewrites == 1
    assert any("more than 32 positions" in note for note in result.report.entries[0].notes)


def test_a_few_channels_stay_in_float_unless_fp8_is_asked_for_by_name() -> None:
    images = np.random.default_rng(0).normal(size=(4, 3, 16, 16)).astype(np.float32)
    graph = Net(3, 16).conv(16).op("Relu").conv(16, group=16).op("Relu").conv(8).done()
    result = _quantize(graph, "quantize{format=fp8}", images)
    assert result.report.rewrites == 1
    notes = [note for note in result.report.entries[0].notes if "do not average over" in note]
    assert [few in note for few, note in zip(("3 input channels,", "1 input channel,"), notes, strict=True)] == [
        True
    ] * 2
    named = _quantize(graph, 'quantize{format=fp8, formats=["*:fp8"]}', images)
    assert named.report.rewrites == 3


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="needs tensorrt-rtx")
@pytest.mark.parametrize(
    ("name", "target", "reads"),
    [("int8", "8.9", "Int8"), ("fp8", "8.9", "FP8"), ("int4", "8.9", "Int4"), ("nvfp4", "12.0", "FP4E2M1")],
)
def test_the_builder_computes_in_the_format(tmp_path: Path, name: str, target: str, reads: str) -> None:
    from secateur.backends.tensorrt import BuildOptions, Profile, ShapeRange, build

    _quantize(_mlp(), f"quantize{{format={name}}}").graph.save(tmp_path / "model.onnx")
    profile = Profile((ShapeRange("x", (1, 128), (16, 128), (64, 128)),))
    options = BuildOptions(compute_capabilities=(target,), profiles=(profile,))
    report = build(tmp_path / "model.onnx", tmp_path / "model.engine", options)
    products = [layer for layer in report.layers if layer.contracts]
    assert len(products) == 2
    assert all(reads in layer.reads for layer in products)
    assert report.quantized_in_float == ()
