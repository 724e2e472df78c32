"""Folding normalisations: the same numbers but for rounding, for every kind of layer, or a reason why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from helpers.graphs import Net

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.ir import DataType, Graph, Tensor, TensorType, Value
from secateur.passes import Context, Result, run_pipeline
from secateur.passes.cleanup.batchnorm import FoldBatchNorm
from secateur.passes.effects import differences, random_feeds
from secateur.passes.settings import Check, Settings

_RUNNER = partial(OnnxRuntimeRunner, optimize=False, threads=1)
Build = Callable[[Net, Value], Value]


def _net(build: Build, *shape: int, channels: int) -> Graph:
    """x -> the layer that is built -> BatchNormalization `bn` -> Relu."""
    net = Net("normalised")
    value = net.batch_norm(build(net, net.input("x", *shape)), "bn", channels)
    return net.done((net.op("Relu", value, to="y"), [None] * len(shape)))


def _fold(graph: Graph) -> Result:
    return run_pipeline(graph, [FoldBatchNorm()], Context(runner=_RUNNER), settings=Settings(check=Check.FULL))


def _types(graph: Graph) -> list[str]:
    return [op.op_type for op in graph.ops()]


def _transposed(net: Net, x: Value, *shape: int, group: int = 1, bias: bool = False) -> Value:
    extra = [net.weight("up.bias", shape[1] * group)] if bias else []
    return net.op("ConvTranspose", x, net.weight("up.weight", *shape), *extra, group=group)


def _gemm(net: Net, x: Value, *weight: int, bias: tuple[int, ...] | None = None, **attributes: Any) -> Value:
    extra = [] if bias is None else [net.weight("c", *bias)]
    return net.op("Gemm", x, net.weight("w", *weight), *extra, to="product", **attributes)


_LAYERS: dict[str, tuple[Build, tuple[int, ...], int, list[str]]] = {
    "conv": (lambda n, x: n.conv(x, "conv", 4, 3, 3, 3), (2, 3, 6, 6), 4, ["Conv"]),
    "conv, no bias": (lambda n, x: n.conv(x, "conv", 4, 3, 3, 3, bias=False, pads=[1] * 4), (2, 3, 6, 6), 4, ["Conv"]),
    "conv, grouped": (lambda n, x: n.conv(x, "conv", 6, 2, 3, 3, group=2), (2, 4, 6, 6), 6, ["Conv"]),
    "conv, depthwise": (lambda n, x: n.conv(x, "conv", 4, 1, 3, 3, group=4), (2, 4, 6, 6), 4, ["Conv"]),
    "conv, 1-d": (lambda n, x: n.conv(x, "conv", 5, 3, 3), (2, 3, 9), 5, ["Conv"]),
    "conv, 3-d": (lambda n, x: n.conv(x, "conv", 5, 3, 1, 2, 1), (1, 3, 4, 4, 4), 5, ["Conv"]),
    "transposed": (lambda n, x: _transposed(n, x, 3, 4, 2, 2, bias=True), (2, 3, 5, 5), 4, ["ConvTranspose"]),
    "transposed, grouped": (lambda n, x: _transposed(n, x, 6, 2, 3, 3, group=3), (2, 6, 5, 5), 6, ["ConvTranspose"]),
    "gemm": (lambda n, x: _gemm(n, x, 6, 3, bias=(3,)), (4, 6), 3, ["Gemm"]),
    "gemm, weight transposed": (lambda n, x: _gemm(n, x, 3, 6, bias=(3,), transB=1), (4, 6), 3, ["Gemm"]),
    "gemm, square": (lambda n, x: _gemm(n, x, 6, 6, transB=1), (4, 6), 6, ["Gemm"]),
    "gemm, data transposed": (lambda n, x: _gemm(n, x, 4, 3, transA=1), (4, 6), 3, ["Gemm"]),
    "gemm, scaled": (lambda n, x: _gemm(n, x, 6, 3, bias=(1, 3), alpha=0.5, beta=2.0), (4, 6), 3, ["Gemm"]),
    "gemm, scalar bias": (lambda n, x: _gemm(n, x, 6, 3, bias=(), beta=2.0), (4, 6), 3, ["Gemm"]),
    "gemm, bias of one": (lambda n, x: _gemm(n, x, 6, 3, bias=(1, 1)), (4, 6), 3, ["Gemm"]),
    "matmul": (lambda n, x: n.op("MatMul", x, n.weight("w", 6, 3)), (4, 6), 3, ["MatMul", "Add"]),
    "matmul and add": (
        lambda n, x: n.op("Add", n.weight("b", 3), n.op("MatMul", x, n.weight("w", 6, 3))),
        (4, 6),
        3,
        ["MatMul", "Add"],
    ),
}


@pytest.mark.parametrize("name", _LAYERS)
def test_the_normalisation_goes_into_the_layer(name: str) -> None:
    build, shape, channels, left = _LAYERS[name]
    graph = _net(build, *shape, channels=channels)
    done = _fold(graph)
    assert _types(done.graph) == [*left, "Relu"]
    assert done.report.entries[0].rows[0]["rewrites"] == 1
    # Nothing is left behind, and what the normalisation made keeps its name.
    assert all(done.graph.is_used(value) for value in done.graph.constants())
    assert done.graph.ops()[-1].inputs[0] is done.graph["bn"]


def test_against_the_formula_in_float64() -> None:
    graph = _net(_LAYERS["conv"][0], 2, 3, 6, 6, channels=4)

    def numbers(name: str, where: Graph = graph) -> np.ndarray[Any, Any]:
        tensor = where[name].const
        assert tensor is not None
        return tensor.numpy().astype(np.float64)

    factor = numbers("bn.scale") / np.sqrt(numbers("bn.variance") + 1e-5)
    done = _fold(graph).graph
    weight = (numbers("conv.weight") * factor[:, None, None, None]).astype(np.float32)
    bias = ((numbers("conv.bias") - numbers("bn.mean")) * factor + numbers("bn.bias")).astype(np.float32)
    np.testing.assert_array_equal(numbers("conv.weight", done).astype(np.float32), weight)
    np.testing.assert_allclose(numbers("conv.bias", done), bias, rtol=2e-7, atol=1e-7)


def test_epsilon_counts() -> None:
    graph = _net(_LAYERS["conv"][0], 2, 3, 6, 6, channels=4)
    graph.set_attribute(graph.ops()[1], "epsilon", 0.75)
    assert _types(_fold(graph).graph) == ["Conv", "Relu"]


def test_names_of_weights_stay_and_a_new_bias_is_named_after_its_weight() -> None:
    graph = _net(lambda n, x: n.conv(x, "stem", 4, 3, 1, 1, bias=False), 1, 3, 4, 4, channels=4)
    done = _fold(graph)
    assert [value.name for value in done.graph.constants()] == ["stem.weight", "stem.bias"]


def test_an_output_of_the_model_keeps_its_name() -> None:
    net = Net("output")
    made = net.batch_norm(net.conv(net.input("x", 1, 3, 4, 4), "conv", 4, 3, 1, 1), "bn", 4)
    done = _fold(net.done((made, (1, 4, 4, 4))))
    assert [(value.name, str(value.type)) for value in done.graph.outputs] == [("bn", "f32[1, 4, 4, 4]")]


def test_a_shared_weight_is_copied_for_the_layer_that_changes() -> None:
    net = Net("shared")
    x, weight = net.input("x", 1, 4, 5, 5), net.weight("w", 4, 4, 1, 1)
    made = net.batch_norm(net.op("Conv", x, weight, to="first"), "bn", 4)
    done = _fold(net.done((net.op("Conv", made, weight, to="second"), (1, 4, 5, 5))))
    assert _types(done.graph) == ["Conv", "Conv"]
    before, after = weight.const, done.graph["w"].const
    assert before is not None and after is not None and before.equals(after)
    assert [op.inputs[1].name for op in done.graph.ops() if op.inputs[1] is not None] == ["w_1", "w"]


def test_two_normalisations_in_a_row_both_go() -> None:
    net = Net("twice")
    made = net.batch_norm(net.conv(net.input("x", 1, 3, 4, 4), "conv", 4, 3, 1, 1), "bn1", 4)
    done = _fold(net.done((net.batch_norm(made, "bn2", 4), (1, 4, 4, 4))))
    assert _types(done.graph) == ["Conv"]
    assert done.report.rewrites == 2


@pytest.mark.parametrize("dtype", [DataType.FLOAT16, DataType.BFLOAT16, DataType.FLOAT64])
def test_other_element_types(dtype: DataType) -> None:
    graph = _net(_LAYERS["gemm"][0], 4, 6, channels=3)
    for value in graph.values():
        if value.const is not None:
            value.set_const(Tensor(value.const.numpy().astype(dtype.numpy), dtype))
        elif isinstance(value.type, TensorType):
            value.type = replace(value.type, dtype=dtype)
    runner = None if dtype is DataType.BFLOAT16 else _RUNNER  # onnxruntime has no kernels for it on the CPU
    done = run_pipeline(graph, [FoldBatchNorm()], Context(runner=runner), settings=Settings(check=Check.FULL))
    assert _types(done.graph) == ["Gemm", "Relu"]
    assert {value.const.dtype for value in done.graph.constants() if value.const is not None} == {dtype}


def _training(graph: Graph) -> None:
    graph.set_attribute(graph.ops()[1], "training_mode", 1)


def _tiny_variance(graph: Graph) -> None:
    graph["bn.variance"].set_const(Tensor(np.full(4, 1e-38, np.float32)))
    graph["bn.scale"].set_const(Tensor(np.full(4, 3e38, np.float32)))
    graph.set_attribute(graph.ops()[1], "epsilon", 0.0)


def _negative_variance(graph: Graph) -> None:
    graph["bn.variance"].set_const(Tensor(np.full(4, -1, np.float32)))


def _computed_bias(graph: Graph) -> None:
    graph.set_interface(inputs=[*graph.inputs, graph["conv.bias"]])


def _old_spatial(graph: Graph) -> None:
    graph.header = graph.header.with_opset("", 8)
    graph.set_attribute(graph.ops()[1], "spatial", 0)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_training, None),
        (_tiny_variance, "the folded weight or bias does not fit into f32"),
        (_negative_variance, "the folded weight or bias does not fit into f32"),
        (_computed_bias, "the bias is computed at run time"),
        (_old_spatial, "it normalises with the statistics of each batch, or each position on its own"),
    ],
)
def test_what_cannot_be_folded_stays_and_says_why(spoil: Callable[[Graph], None], reason: str | None) -> None:
    graph = _net(_LAYERS["conv"][0], 2, 3, 6, 6, channels=4)
    spoil(graph)
    done = run_pipeline(graph, [FoldBatchNorm()], settings=Settings(check=Check.FULL))
    assert done.report.rewrites == 0 and str(done.graph) == str(graph)
    assert [row["reason"] for row in done.report.entries[0].rows] == ([] if reason is None else [reason])


def test_a_product_along_another_axis_stays() -> None:
    net = Net("rank3")
    made = net.op("MatMul", net.input("x", 2, 5, 6), net.weight("w", 6, 5))
    done = _fold(net.done((net.batch_norm(made, "bn", 5), (2, 5, 5))))
    assert _types(done.graph) == ["MatMul", "BatchNormalization"]
    assert "rank 2" in str(done.report.entries[0].rows[0]["reason"])


def test_a_bias_for_each_row_stays() -> None:
    done = _fold(_net(lambda n, x: _gemm(n, x, 6, 3, bias=(4, 1)), 4, 6, channels=3))
    assert "BatchNormalization" in _types(done.graph)


def test_a_layer_that_others_read_stays() -> None:
    net = Net("read")
    layer = net.conv(net.input("x", 1, 3, 4, 4), "conv", 4, 3, 1, 1)
    done = _fold(net.done((net.op("Add", net.batch_norm(layer, "bn", 4), layer), (1, 4, 4, 4))))
    assert _types(done.graph) == ["Conv", "BatchNormalization", "Add"]


def test_inside_a_body_with_weights_from_outside() -> None:
    net = Net("body")
    condition, x = net.input("condition", dtype=DataType.BOOL), net.input("x", 1, 3, 4, 4)
    weight = net.weight("w", 4, 3, 1, 1)
    then, other = net.body("then"), net.body("else")
    then.done((then.batch_norm(then.op("Conv", x, weight), "bn", 4), (1, 4, 4, 4)))
    other.done((other.op("Conv", x, weight, to="plain"), (1, 4, 4, 4)))
    graph = net.done((net.op("If", condition, then_branch=then.graph, else_branch=other.graph), (1, 4, 4, 4)))
    done = _fold(graph)
    assert [_types(body) for body in done.graph.ops()[0].bodies()] == [["Conv"], ["Conv"]]
    kept, before = done.graph["w"].const, weight.const
    assert kept is not None and before is not None and kept.equals(before)
    for condition_is in (False, True):
        feeds = {**(random_feeds(graph) or {}), "condition": np.array(condition_is)}
        with _RUNNER(graph) as dense, _RUNNER(done.graph) as folded:
            assert not list(differences(dense.run(feeds), folded.run(feeds), FoldBatchNorm.tolerance))
