"""`convert-float`: where the rules put operators, how few Casts it takes, and what comes out."""

from __future__ import annotations

from collections import Counter
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from helpers.graphs import Net, random_feeds, tiny_graphs
from helpers.models import onnx_testdata
from helpers.zoo import random_feeds as zoo_feeds
from helpers.zoo import zoo
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.batches import Batch
from secateur.calib.sources import open_source
from secateur.ir import DataType, Graph, Header, TensorType, onnx_read
from secateur.ir.errors import RefusedError
from secateur.ir.onnx_write import to_bytes
from secateur.ir.sparsity_scheme import SparsityScheme
from secateur.passes import Context, Result, parse_pipeline, run_pipeline
from secateur.passes.precision.cut import FLOAT32, LOWER, Cut
from secateur.passes.precision.rules import precision_rules
from secateur.passes.settings import Check, Settings

_RUNNER = partial(OnnxRuntimeRunner, optimize=False, threads=1)
_HALF = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


def convert(graph: Graph, text: str = "convert-float", feeds: Any = None) -> Result:
    source = None if feeds is None else open_source([Batch(one) for one in feeds])
    context = Context(runner=_RUNNER, source=source)
    return run_pipeline(graph, parse_pipeline(text), context, settings=Settings(check=Check.FULL))


def outputs(graph: Graph, feeds: Any) -> dict[str, Any]:
    with _RUNNER(graph) as runner:
        return runner.run(feeds)


def kinds(graph: Graph) -> Counter[str]:
    return Counter(op.op_type for op in graph.ops())


def reads(graph: Graph, op_type: str) -> set[DataType]:
    """The types in which ops of a type read their inputs."""
    from secateur.ir.onnx_shapes import infer

    types = infer(graph)
    found = [types[value] for op in graph.ops() if op.op_type == op_type for value in op.inputs if value is not None]
    return {kind.dtype for kind in found if isinstance(kind, TensorType) and kind.dtype.is_float}


# ---- the cut ---------------------------------------------------------------------------------------------------------


def _casts(values: list[tuple[int, list[int]]], sides: list[int]) -> int:
    return sum(any(sides[reader] != sides[maker] for reader in readers) for maker, readers in values)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(st.integers(0, 10**6))
def test_no_other_choice_needs_fewer_casts_or_less_float32(seed: int) -> None:
    """Against all choices there are: nodes 0 and 1 are fixed, up to seven others are free."""
    random = np.random.default_rng(seed)
    count = int(random.integers(2, 8))
    values = []
    for _ in range(int(random.integers(1, 10))):
        nodes = random.choice(count + 2, size=min(count + 2, int(random.integers(2, 5))), replace=False)
        values.append((int(nodes[0]), [int(node) for node in nodes[1:]]))
    cut = Cut()
    numbers = [FLOAT32, LOWER, *(cut.node(f"n{one}", None) for one in range(count))]
    for maker, readers in values:
        cut.value(numbers[maker], [numbers[reader] for reader in readers])
    names = [f"n{one}" for one in range(count)]
    found = cut.float32(names)
    chosen = [FLOAT32, LOWER, *(FLOAT32 if name in found else LOWER for name in names)]
    every = [[FLOAT32, LOWER, *sides] for sides in product((FLOAT32, LOWER), repeat=count)]
    fewest = min(_casts(values, sides) for sides in every)
    assert _casts(values, chosen) == fewest
    least = min(sides.count(FLOAT32) for sides in every if _casts(values, sides) == fewest)
    assert chosen.count(FLOAT32) == least


# ---- rules -----------------------------------------------------------------------------------------------------------


def test_every_rule_is_for_an_operator_that_there_is() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if not schema.domain}
    assert set(precision_rules) <= known | {"SimplifiedLayerNormalization"}


@pytest.mark.parametrize("dtype", _HALF)
def test_a_chain_of_convolutions_takes_two_casts(dtype: str) -> None:
    net = Net("chain")
    value = net.input("x", 1, 3, 8, 8)
    for index in range(3):
        value = net.op("Relu", net.conv(value, f"c{index}", 3, 3, 3, 3, pads=[1, 1, 1, 1]))
    done = convert(net.done((value, (1, 3, 8, 8))), f"convert-float{{dtype={dtype}}}").graph
    assert kinds(done) == {"Conv": 3, "Relu": 3, "Cast": 2}
    for one in done.constants():
        assert one.const is not None and one.const.dtype is DataType.of(_HALF[dtype])


def test_softmax_and_normalisation_stay_in_float32() -> None:
    done = convert(tiny_graphs()["attention"]()).graph
    assert reads(done, "Softmax") == reads(done, "LayerNormalization") == {DataType.FLOAT32}
    assert reads(done, "MatMul") == {DataType.FLOAT16}


@pytest.mark.parametrize("dtype", _HALF)
def test_no_cast_follows_another_and_models_are_valid(dtype: str) -> None:
    for name, build in tiny_graphs().items():
        done = convert(build(), f"convert-float{{dtype={dtype}}}").graph
        onnx.checker.check_model(to_bytes(done), full_check=True)
        for op in done.ops():
            if op.op_type == "Cast":
                source = op.inputs[0]
                maker = None if source is None else done.producer(source)
                assert maker is None or maker.op_type != "Cast", name
                assert source is not None and done.constant(source) is None, "constants are converted"


def _scaled(number: float) -> Graph:
    net = Net("scaled")
    made = net.op("MatMul", net.input("x", 2, 4), net.weight("w", 4, 4))
    return net.done(
        (net.op("MatMul", net.op("Mul", made, net.constant("c", np.float32(number))), net.weight("v", 4, 4)), (2, 4))
    )


@pytest.mark.parametrize(("number", "words"), [(1e5, "beyond the range"), (-3.4e38, "beyond"), (1e-7, "becomes zero")])
def test_constants_that_do_not_fit_keep_their_op_in_float32(number: float, words: str) -> None:
    result = convert(_scaled(number))
    assert reads(result.graph, "Mul") == {DataType.FLOAT32}
    assert any(words in str(row.get("reason")) for row in result.report.entries[0].rows)
    fits = convert(_scaled(number), "convert-float{dtype=bfloat16}").graph
    assert reads(fits, "Mul") == {DataType.FLOAT32 if number == -3.4e38 else DataType.BFLOAT16}
    assert reads(convert(_scaled(0.5)).graph, "Mul") == {DataType.FLOAT16}


def test_activations_that_leave_the_range_keep_their_ops_in_float32() -> None:
    net = Net("large")
    x = net.input("x", 2, 4)
    large = net.op("MatMul", x, net.constant("w", np.full((4, 4), 3e4, np.float32)))
    small = net.op("Mul", large, net.constant("c", np.float32(1e-3)))
    graph = net.done((net.op("MatMul", small, net.weight("v", 4, 4)), (2, 4)))
    feeds = [{"x": np.ones((2, 4), np.float32)}]
    assert reads(convert(graph).graph, "MatMul") == {DataType.FLOAT16}
    result = convert(graph, feeds=feeds)
    assert reads(result.graph, "MatMul") == {DataType.FLOAT32, DataType.FLOAT16}
    found = outputs(result.graph, feeds[0])
    np.testing.assert_allclose(found["matmul_1"], outputs(graph, feeds[0])["matmul_1"], rtol=1e-2)
    assert any("calibration data" in str(row.get("reason")) for row in result.report.entries[0].rows)


def test_infinite_masks_pass() -> None:
    net = Net("mask")
    x, mask = net.input("x", 2, 4), net.input("m", 2, 4, dtype=DataType.BOOL)
    made = net.op("MatMul", x, net.weight("w", 4, 4))
    made = net.op("Where", mask, made, net.constant("c", np.float32(-np.inf)))
    graph = net.done((net.op("Softmax", made, axis=-1), (2, 4)))
    feeds = [{"x": np.ones((2, 4), np.float32), "m": np.array([[1, 0, 1, 1], [1, 1, 1, 0]], bool)}]
    result = convert(graph, feeds=feeds)
    assert reads(result.graph, "Where") == {DataType.FLOAT16}
    np.testing.assert_allclose(
        outputs(result.graph, feeds[0])["softmax"], outputs(graph, feeds[0])["softmax"], atol=2e-3
    )


def test_positions_stay_in_float32() -> None:
    net = Net("positions")
    position = net.input("p", 1, 1, 16, dtype=DataType.INT64)
    from secateur.ir.build import emit

    real = emit(net.graph, "Cast", [position], {"to": int(DataType.FLOAT32)}).output
    angles = net.op("MatMul", net.weight("frequencies", 1, 8, 1), real)
    turned = net.op("MatMul", net.op("Cos", angles), net.weight("w", 16, 4))
    result = convert(net.done((turned, (1, 8, 4))))
    first, second = (op for op in result.graph.ops() if op.op_type == "MatMul")
    assert result.graph.constant(first.inputs[0]).dtype is DataType.FLOAT32  # type: ignore[union-attr]
    assert result.graph.constant(second.inputs[1]).dtype is DataType.FLOAT16  # type: ignore[union-attr]


def test_squares_and_unknown_operators_stay_in_float32() -> None:
    net = Net("squares", graph=Graph("squares", header=Header(opsets=(("", 20), ("com.microsoft", 1)))))
    made = net.op("MatMul", net.input("x", 2, 4), net.weight("w", 4, 4))
    square = net.op("Mul", made, made)
    foreign = net.op("com.microsoft::QuickGelu", square, alpha=1.0)
    foreign.type = TensorType(DataType.FLOAT32, (2, 4))
    result = convert(net.done((net.op("MatMul", foreign, net.weight("v", 4, 4)), (2, 4))))
    rows = {row["op_type"]: row["reason"] for row in result.report.entries[0].rows if "kept" in row}
    assert set(rows) == {"Mul", "QuickGelu"}
    feeds = {"x": np.ones((2, 4), np.float32)}
    assert len(outputs(result.graph, feeds)) == 1


# ---- options ---------------------------------------------------------------------------------------------------------


def test_keep_takes_names_and_types_of_ops() -> None:
    graph = tiny_graphs()["attention"]()
    named = next(op for op in graph.ops() if op.op_type == "MatMul").name
    done = convert(graph, f'convert-float{{keep="{named}"}}')
    kept = next(op for op in done.graph.ops() if op.name == named)
    assert done.graph.constant(kept.inputs[1]).dtype is DataType.FLOAT32  # type: ignore[union-attr]
    assert reads(convert(graph, "convert-float{keep=MatMul}").graph, "MatMul") == {DataType.FLOAT32}
    with pytest.raises(RefusedError, match="keep=nothing"):
        convert(graph, "convert-float{keep=nothing}")


def test_the_signature_may_change_too() -> None:
    graph = tiny_graphs()["residual"]()
    done = convert(graph, "convert-float{signature=convert}").graph
    assert "Cast" not in kinds(done)
    for value in (*done.inputs, *done.outputs):
        assert isinstance(value.type, TensorType) and value.type.dtype is DataType.FLOAT16
    feeds = random_feeds(graph)
    (wanted,) = outputs(graph, feeds).values()
    (found,) = outputs(done, {name: array.astype(np.float16) for name, array in feeds.items()}).values()
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, wanted, rtol=2e-2, atol=5e-3)


def test_captured_values_reach_bodies_in_float32() -> None:
    graph = tiny_graphs()["if_captures"]()
    done = convert(graph).graph
    for condition in (True, False):
        feeds = {**random_feeds(graph), "condition": np.array(condition)}
        (wanted,), (found,) = outputs(graph, feeds).values(), outputs(done, feeds).values()
        np.testing.assert_allclose(found, wanted, rtol=1e-2, atol=2e-3)


# ---- quantized models ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", _HALF)
def test_scales_are_of_the_type_around_them(dtype: str) -> None:
    graph = tiny_graphs()["residual"]()
    feeds = [random_feeds(graph, seed) for seed in range(2)]
    done = convert(graph, f"quantize,convert-float{{dtype={dtype}}}", feeds).graph
    assert (done.header.opset() or 0) >= 19
    scales = [done.constant(op.inputs[1]) for op in done.ops() if op.op_type == "DequantizeLinear"]
    assert scales and {scale.dtype for scale in scales if scale} == {DataType.of(_HALF[dtype])}
    # The input is quantized as it comes, so that it needs no Cast.
    assert kinds(done)["Cast"] == 1
    if dtype == "float16":
        (wanted,), (found,) = outputs(graph, feeds[0]).values(), outputs(done, feeds[0]).values()
        assert np.abs(wanted - found).max() < 0.05 * np.abs(wanted).max()


def test_scales_that_lose_their_bits_stay() -> None:
    net = Net("tiny", graph=Graph("tiny", header=Header(ir_version=10, opsets=(("", 21),))))
    codes = net.constant("codes", np.ones((4, 4), np.int8))
    weight = net.op("DequantizeLinear", codes, net.constant("s", np.float32(1e-7)))
    graph = net.done((net.op("MatMul", net.input("x", 2, 4), weight), (2, 4)))
    result = convert(graph)
    assert any("a scale of" in str(row.get("reason")) for row in result.report.entries[0].rows)


def test_sparse_weights_stay_sparse() -> None:
    net = Net("sparse")
    graph = net.done((net.op("Relu", net.conv(net.input("x", 1, 16, 6, 6), "conv", 16, 16, 3, 3)), (1, 16, 4, 4)))
    done = convert(graph, "sparsify,convert-float", [random_feeds(graph, seed) for seed in range(2)]).graph
    (weight,) = (value for value in done.constants() if SparsityScheme.of(value))
    scheme = SparsityScheme.of(weight)
    assert scheme is not None and weight.const is not None and scheme.holds(weight.const)
    assert weight.const.dtype is DataType.FLOAT16


# ---- whole models ----------------------------------------------------------------------------------------------------

_SMALL = ["resnet50", "mobilenet-v2", "vit", "swin", "bert-dynamic", "llama-opset17", "llama-opset23", "t5", "mixtral"]


@pytest.mark.parametrize("name", _SMALL)
def test_models_stay_near(name: str) -> None:
    """Within 2 % of the largest output: float16 has 11 bits, and dozens of layers follow each other."""
    graph = zoo("small")[name]()
    result = run_pipeline(
        graph,
        parse_pipeline("convert-float"),
        Context(runner=_RUNNER, source=open_source([Batch(zoo_feeds(graph, 1))])),
    )
    feeds = zoo_feeds(graph, 2)
    wanted, found = outputs(graph, feeds), outputs(result.graph, feeds)
    for key, array in wanted.items():
        if array.dtype.kind == "f":
            assert np.abs(array - found[key]).max() <= 0.02 * np.abs(array).max()
    (row,) = [row for row in result.report.entries[0].rows if "lower" in row]
    assert row["lower"] > 0.4 * len(graph.ops())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", _HALF)
@pytest.mark.parametrize("name", ["resnet50", "vit", "bert", "llama"])
def test_kernels_read_sixteen_bits(name: str, dtype: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    from secateur.backends.tensorrt import BuildOptions, build, kernels_by_node

    graph = zoo("small")[name]()
    run = run_pipeline(graph, parse_pipeline(f"convert-float{{dtype={dtype}}}"), Context(runner=_RUNNER))
    run.graph.save(tmp_path / "model.onnx")
    options = BuildOptions(flavor="tensorrt-rtx", compute_capabilities=("8.9",))
    report = build(tmp_path / "model.onnx", tmp_path / "out.engine", options)
    found = [kernel for node in kernels_by_node(report.layers).values() for kernel in node if kernel.contracts]
    word = {"float16": "Half", "bfloat16": "BFloat16"}[dtype]
    assert found and all(kernel.reads == (word,) for kernel in found)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", _HALF)
def test_operators_stay_valid(dtype: str) -> None:
    """Each operator of onnx's own tests, all of whose floats become 16 bits: what was valid is, and nothing breaks."""
    converted = 0
    for path in onnx_testdata():
        graph = onnx_read.load(path)
        if (graph.header.opset() or 0) < 6 or _fault(graph):
            continue
        text = f"convert-float{{dtype={dtype}, signature=convert}}"
        result = run_pipeline(graph, parse_pipeline(text), Context(), settings=Settings(check=Check.HONEST))
        assert not _fault(result.graph), path
        converted += bool(result.report.rewrites)
    assert converted > 300


def _fault(graph: Graph) -> str | None:
    try:
        onnx.checker.check_model(to_bytes(graph), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return str(error)
    return None


def test_bfloat16_is_near_where_torch_runs_it() -> None:
    pytest.importorskip("torch")
    from secateur.backends.torch.runner import TorchRunner

    graph = tiny_graphs()["attention"]()
    done = convert(graph, "convert-float{dtype=bfloat16}").graph
    feeds = random_feeds(graph)
    with TorchRunner(done) as runner:
        (found,) = runner.run(feeds).values()
    (wanted,) = outputs(graph, feeds).values()
    assert np.abs(wanted - found).max() < 0.05 * np.abs(wanted).max()
