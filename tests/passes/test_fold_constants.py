"""Folding constants: what is folded, what stays, and how large a constant may get."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from helpers import graphs
from helpers.graphs import Net

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.ir import DataType, Graph, Tensor, Value
from secateur.ir.build import emit
from secateur.passes import Context, Pass, Result, run_pipeline
from secateur.passes.cleanup.constants import FoldConstants
from secateur.passes.settings import Check, Settings

_RUNNER = partial(OnnxRuntimeRunner, optimize=False, threads=1)


def _run(graph: Graph, *passes: Pass, runner: Any = _RUNNER) -> Result:
    return run_pipeline(graph, passes, Context(runner=runner), settings=Settings(check=Check.FULL))


def _types(graph: Graph) -> list[str]:
    return [op.op_type for op in graph.ops()]


def _numbers(*items: int) -> np.ndarray[Any, Any]:
    return np.array(items, np.int64)


def _cast(net: Net, value: Value, kind: DataType) -> Value:
    return emit(net.graph, "Cast", [value], {"to": int(kind)}).output


def _weighted(build: Callable[[Net], Value]) -> Graph:
    net = Net("weighted")
    return net.done((net.op("Mul", net.input("x", 2, 3), build(net), to="y"), (2, 3)))


@pytest.mark.parametrize(
    "build",
    [
        lambda net: net.op("ConstantOfShape", net.constant("s", _numbers(2, 3)), value=Tensor(np.ones(1, np.float32))),
        lambda net: net.op("Transpose", net.op("Exp", net.op("Add", net.weight("a", 3, 2), net.weight("b", 2)))),
        lambda net: _cast(net, net.op("Range", *(net.constant(n, np.int64(n)) for n in "031")), DataType.FLOAT32),
        lambda net: net.op("Identity", net.weight("a", 2, 3)),
    ],
)  # fmt: skip
def test_what_depends_on_constants_becomes_one(build: Callable[[Net], Value]) -> None:
    graph = _weighted(build)
    done = _run(graph, FoldConstants())
    assert _types(done.graph) == ["Mul"]
    assert len(list(done.graph.constants())) == 1
    # The constant has the name of the value that it stands for.
    assert {value.name for value in done.graph.constants()} <= {value.name for value in graph.values()}


@pytest.mark.parametrize(
    "build",
    [
        lambda net: net.op("RandomNormal", shape=[2, 3]),
        lambda net: net.op("RandomUniformLike", net.weight("a", 2, 3)),
        lambda net: net.op(
            "DequantizeLinear", net.constant("q", np.ones((2, 3), np.int8)), net.constant("s", np.float32(0.5))
        ),
    ],
)
def test_random_numbers_and_quantized_weights_stay(build: Callable[[Net], Value]) -> None:
    graph = _weighted(build)
    before = _types(graph)
    assert _types(_run(graph, FoldConstants()).graph) == before


def test_ops_of_other_domains_are_not_run() -> None:
    graph = _weighted(lambda net: net.op("com.microsoft::Gelu", net.weight("a", 2, 3)))
    graph.header = graph.header.with_opset("com.microsoft", 1)
    assert _run(graph, FoldConstants()).report.rewrites == 0


def test_a_default_that_a_caller_may_override_is_not_folded() -> None:
    net = Net("default")
    x, gain = net.input("x", 3), net.weight("gain", 3)
    net.graph.set_interface(inputs=[x, gain])
    net.done((net.op("Mul", x, net.op("Exp", gain)), (3,)))
    assert _run(net.graph, FoldConstants()).report.rewrites == 0


@pytest.mark.parametrize(("limit", "folded"), [(47, 0), (48, 1)])
def test_the_size_limit(limit: int, folded: int) -> None:
    graph = _weighted(lambda net: net.op("Expand", net.weight("a", 3), net.constant("s", _numbers(2, 2, 3))))
    assert _run(graph, FoldConstants(max_bytes=limit)).report.rewrites == folded


def test_a_large_constant_may_take_the_place_of_another_but_not_stand_beside_it() -> None:
    net = Net("transposed")
    weight, x = net.weight("w", 6, 6), net.input("x", 2, 6)
    made = net.op("MatMul", x, net.op("Transpose", weight, to="turned"))
    alone = net.graph.clone()
    alone.set_interface(outputs=[alone[made.name]])
    assert _run(alone, FoldConstants(max_bytes=0), runner=_RUNNER).report.rewrites == 1
    net.done((net.op("MatMul", made, weight), (2, 6)))
    assert _run(net.graph, FoldConstants(max_bytes=0)).report.rewrites == 0
    assert _run(net.graph, FoldConstants()).report.rewrites == 1


@pytest.mark.parametrize(("limit", "folded"), [(191, 0), (192, 1)])
def test_the_limit_holds_for_sizes_that_only_the_run_shows(limit: int, folded: int) -> None:
    net = Net("places")
    places = net.op("NonZero", net.constant("a", np.ones((3, 4), np.float32)))
    net.done((net.op("Add", places, net.input("x", dtype=DataType.INT64)), (2, None)), dtype=DataType.INT64)
    assert _run(net.graph, FoldConstants(max_bytes=limit)).report.rewrites == folded


def test_what_would_be_too_large_is_not_even_computed() -> None:
    def never(graph: Graph, **part: object) -> Any:
        raise AssertionError("a runner was made")

    graph = _weighted(lambda net: net.op("ConstantOfShape", net.constant("s", _numbers(1 << 20, 1 << 20))))
    run_pipeline(graph, [FoldConstants()], Context(runner=never), settings=Settings(check=Check.HONEST))


def test_static_shapes_fold_without_a_runtime() -> None:
    net = Net("shapes")
    x = net.input("x", "batch", 3, 4)
    last = net.op("Gather", net.op("Shape", x), net.constant("i", np.int64(-1)))
    tail = net.op("Shape", x, start=1)
    size = net.op("Size", net.weight("w", 5, 2))
    batch = net.op("Gather", net.op("Shape", x), net.constant("z", _numbers(0)))
    outputs = [(last, ()), (tail, (2,)), (size, ()), (batch, (1,))]
    net.done(*outputs, dtype=DataType.INT64)
    done = _run(net.graph, FoldConstants(), runner=None)
    found = {value.name: None if value.const is None else value.const.numpy().tolist() for value in done.graph.outputs}
    assert found == {"gather": 4, "shape_1": [3, 4], "size": 10, "gather_1": None}
    assert _types(done.graph) == ["Shape", "Gather"]
    again = _run(net.graph, FoldConstants())
    assert again.report.rewrites == 3


def test_shapes_make_further_shapes_known() -> None:
    net = Net("reshape")
    x = net.input("x", 2, 3, 4)
    target = net.op("Concat", net.op("Shape", x, end=1), net.constant("rest", _numbers(-1)), axis=0)
    flat = net.op("Reshape", x, target)
    net.done((net.op("Mul", flat, _cast(net, net.op("Size", flat), DataType.FLOAT32)), (2, 12)))
    done = _run(net.graph, FoldConstants())
    assert _types(done.graph) == ["Reshape", "Mul"]
    assert done.graph.constant(done.graph.ops()[0].inputs[1]).numpy().tolist() == [2, -1]  # type: ignore[union-attr]


def test_a_shape_that_becomes_known_by_folding_is_folded_too() -> None:
    net = Net("computed")
    wanted = _cast(net, net.op("Exp", net.constant("zero", np.zeros(2, np.float32))), DataType.INT64)
    tiled = net.op("Tile", net.input("x", 2, 3), wanted)
    net.done((net.op("Shape", tiled), (2,)), dtype=DataType.INT64)
    done = _run(net.graph, FoldConstants())
    assert _types(done.graph) == [] and done.graph.outputs[0].const is not None
    assert done.graph.outputs[0].const.numpy().tolist() == [2, 3]


def test_an_output_of_unknown_type_may_become_a_constant() -> None:
    net = Net("untyped")
    net.graph.set_interface(outputs=[net.op("Neg", net.weight("a", 3), to="y")])
    done = _run(net.graph, FoldConstants())
    assert _types(done.graph) == [] and done.graph.outputs[0].const is not None


def test_without_a_runtime_the_report_says_so() -> None:
    done = _run(graphs.constant_of_shape(), FoldConstants(), runner=None)
    assert done.report.rewrites == 0
    assert done.report.entries[0].notes == ["no runtime was given, so only shapes were folded"]


def test_constants_in_bodies_fold_there() -> None:
    net = Net("bodies")
    condition, x = net.input("condition", dtype=DataType.BOOL), net.input("x", 2, 3)
    outer = net.weight("outer", 3)
    then, other = net.body("then"), net.body("else")
    then.done((then.op("Mul", x, then.op("Exp", outer)), (2, 3)))
    other.done((other.op("Mul", x, other.op("Neg", other.op("Exp", other.weight("inner", 3)))), (2, 3)))
    net.done((net.op("If", condition, then_branch=then.graph, else_branch=other.graph), (2, 3)))
    done = _run(net.graph, FoldConstants())
    assert [_types(body) for body in done.graph.ops()[0].bodies()] == [["Mul"], ["Mul"]]
    assert not list(done.graph.constants())


def test_an_op_that_the_runtime_refuses_stays_and_the_others_fold() -> None:
    net = Net("refused")
    broken = net.op("Reshape", net.weight("a", 2, 3), net.constant("to", _numbers(5, 7)))
    fine = net.op("Neg", net.weight("b", 5, 7))
    net.done((net.op("Sum", net.input("x", 5, 7), broken, fine), (5, 7)))
    done = _run(net.graph, FoldConstants(), runner=None)
    run = run_pipeline(net.graph, [FoldConstants()], Context(runner=_RUNNER), settings=Settings(check=Check.HONEST))
    assert done.report.rewrites == 0
    assert _types(run.graph) in (["Reshape", "Sum"], ["Sum"]) and "Neg" not in _types(run.graph)
    assert any("was not folded" in note for note in run.report.entries[0].notes)
