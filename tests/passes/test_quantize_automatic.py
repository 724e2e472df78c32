"""What `quantize` decides by itself: ranges of data by format, rounding and clipping of weights by bits and zeros."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.graphs import Net

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.batches import Source
from secateur.calib.ranges import Histogram, amax_mse
from secateur.calib.sources import open_source
from secateur.ir import Graph, Header
from secateur.ir.build import add_constant, add_input, emit
from secateur.ir.errors import DataError
from secateur.passes.context import Context
from secateur.passes.manager import Result, run_pipeline
from secateur.passes.pipeline import parse_pipeline
from secateur.passes.quantize.calibration import SomeValues

_RANDOM = np.random.default_rng(0)
_DATA = (_RANDOM.standard_t(3, size=(64, 128)) @ _RANDOM.normal(size=(128, 128))).astype(np.float32)


def _product() -> Graph:
    graph = Graph(header=Header(opsets=(("", 21),)))
    weight = add_constant(graph, "w", np.random.default_rng(1).normal(size=(128, 32)).astype(np.float32))
    graph.set_interface(outputs=[emit(graph, "MatMul", [add_input(graph, "x", ["n", 128]), weight]).output])
    return graph


def _quantize(text: str, data: bool = True, graph: Graph | None = None) -> Result:
    source = open_source({"x": _DATA}, batch_size=16) if data else None
    return run_pipeline(graph or _product(), parse_pipeline(text), Context(runner=OnnxRuntimeRunner, source=source))


def _scale(text: str) -> float:
    scale = _quantize(text).graph.get("x_scale")
    assert scale is not None
    assert scale.const is not None
    return float(scale.const.numpy())


def test_integers_are_clipped_and_floats_are_not() -> None:
    assert _scale("quantize") == _scale("quantize{calibration=mse}") < _scale("quantize{calibration=max}")
    assert _scale("quantize{format=fp8}") == _scale("quantize{format=fp8, calibration=max}")


def test_four_bits_are_rounded_by_what_is_read_and_eight_are_not() -> None:
    (four,) = _quantize("quantize{format=int4}").report.entries[0].rows
    (eight,) = _quantize("quantize").report.entries[0].rows
    assert four["error"] <= four["nearest"]
    assert "error" not in eight
    (asked,) = _quantize("quantize{format=int4, rounding=gptq, clip=mse}").report.entries[0].rows
    assert asked == four


@pytest.mark.parametrize(
    ("before", "group", "expected"),
    [
        ("Relu", 8, "squant"),
        ("MaxPool", 8, "squant"),
        ("Clip", 8, "squant"),
        ("HardSwish", 8, "nearest"),
        ("Relu", 1, "nearest"),
    ],
)
def test_errors_of_depthwise_weights_cancel_behind_a_relu(before: str, group: int, expected: str) -> None:
    net = Net("channels")
    x = net.input("x", 1, 8, 6, 6)
    if before == "Clip":
        x = net.op(
            "Pad", net.op("Clip", x, net.constant("least", np.float32(0))), net.constant("pads", np.zeros(8, int))
        )
    elif before == "MaxPool":
        x = net.op("MaxPool", net.op("Relu", x), kernel_shape=[1, 1])
    else:
        x = net.op(before, x)
    graph = net.done((net.conv(x, "conv", 8, 8 // group, 3, 3, group=group), (1, 8, 4, 4)))
    source = open_source([{"x": _DATA.reshape(-1)[:288].reshape(1, 8, 6, 6)}])
    made = {way: str(_run(graph, f"quantize{{rounding={way}}}", source)) for way in ("auto", "squant", "nearest")}
    assert made["auto"] == made[expected]
    assert made["squant"] != made["nearest"]


def _run(graph: Graph, text: str, source: Source) -> Graph:
    return run_pipeline(graph, parse_pipeline(text), Context(runner=OnnxRuntimeRunner, source=source)).graph


def test_without_data_four_bits_are_rounded_to_the_nearest() -> None:
    (row,) = _quantize("quantize{format=int4}", data=False).report.entries[0].rows
    assert "error" not in row
    with pytest.raises(DataError):
        _quantize("quantize{format=int4, rounding=gptq}", data=False)


def test_what_is_sparse_is_rounded_by_what_is_read() -> None:
    (row,) = _quantize("sparsify, quantize").report.entries[1].rows
    (asked,) = _quantize("sparsify, quantize{rounding=obr}").report.entries[1].rows
    assert row == asked
    assert "error" in row


@pytest.mark.parametrize("shape", [(3, 64, 56, 56), (16, 128, 768), (1_000_003,)])
def test_some_values_stand_for_all(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    x *= np.linspace(0.1, 2, shape[-1], dtype=np.float32)
    some, every = SomeValues(), Histogram()
    some.update(x)
    every.update(x)
    assert some.absmax == every.absmax
    assert some.counts.sum() < 1 << 17
    assert amax_mse(some) == pytest.approx(amax_mse(every), rel=0.15)
    channels = np.zeros(shape, np.float32)
    channels[..., :: max(shape[-1] // 8, 1)] = 1
    seen = SomeValues()
    seen.update(channels)
    assert seen.counts[-1] / seen.counts.sum() == pytest.approx(channels.mean(), rel=0.25, abs=1e-4)
