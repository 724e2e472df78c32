"""The clean-up passes: each on small graphs that show what it does and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest
from helpers import graphs
from helpers.graphs import Net

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.ir import DataType, FunctionKey, Graph, Op, Value
from secateur.ir.build import emit
from secateur.passes import Context, Effect, Facet, Facts, Pass, Result, fact, run_pipeline
from secateur.passes.cleanup.clean import Clean
from secateur.passes.cleanup.dead_code import RemoveDeadCode
from secateur.passes.cleanup.duplicates import MergeDuplicates
from secateur.passes.cleanup.identities import RemoveIdentities
from secateur.passes.fixpoint import run_inside
from secateur.passes.settings import Check, Settings

_RUNNER = partial(OnnxRuntimeRunner, optimize=False, threads=1)


def _run(graph: Graph, *passes: Pass, runner: Any = _RUNNER) -> Result:
    return run_pipeline(graph, passes, Context(runner=runner), settings=Settings(check=Check.FULL))


def _types(graph: Graph) -> list[str]:
    return [op.op_type for op in graph.ops()]


# ---- dead code ------------------------------------------------------------------------------------------------------


def test_dead_ops_and_constants_go() -> None:
    done = _run(graphs.unused_op(), RemoveDeadCode())
    assert _types(done.graph) == ["MatMul"]
    assert [value.name for value in done.graph.constants()] == ["w"]
    assert done.report.rewrites == 4


def test_unused_inputs_and_their_defaults_stay() -> None:
    net = Net("inputs")
    x, unused, default = net.input("x", 3), net.input("unused", 3), net.weight("default", 3)
    net.graph.set_interface(inputs=[x, unused, default])
    net.done((net.op("Neg", x), (3,)))
    done = _run(net.graph, RemoveDeadCode())
    assert [value.name for value in done.graph.inputs] == ["x", "unused", "default"]
    assert done.report.rewrites == 0


def test_what_only_a_body_reads_stays_and_dies_with_it() -> None:
    graph = graphs.nested_if()
    assert _run(graph, RemoveDeadCode()).report.rewrites == 0
    graph.set_interface(outputs=[emit(graph, "Neg", [graph["x"]]).output])
    graph.outputs[0].type = graph["x"].type
    done = _run(graph, RemoveDeadCode())
    assert _types(done.graph) == ["Neg"] and not list(done.graph.constants())


def test_functions_that_nobody_calls_go() -> None:
    graph = graphs.function_call()
    body = next(iter(graph.functions.values()))
    graph.functions[FunctionKey("example.functions", "Unused")] = body.clone()
    done = _run(graph, RemoveDeadCode())
    assert [key.name for key in done.graph.functions] == ["ScaledLeaky"]


# ---- identities -----------------------------------------------------------------------------------------------------


def _cast(net: Net, value: Value, kind: DataType) -> Value:
    return emit(net.graph, "Cast", [value], {"to": int(kind)}).output


def _unary(build: Callable[[Net, Value], Value], *shape: int | str, dtype: DataType = DataType.FLOAT32) -> Graph:
    """x -> Neg -> what is built -> Abs."""
    net = Net("unary")
    inner = build(net, net.op("Neg", net.input("x", *shape, dtype=dtype)))
    return net.done((net.op("Abs", inner, to="y"), shape), dtype=dtype)


def _numbers(*items: int) -> np.ndarray[Any, Any]:
    return np.array(items, np.int64)


@pytest.mark.parametrize(
    "build",
    [
        lambda net, x: net.op("Identity", x),
        lambda net, x: net.op("Dropout", x),
        lambda net, x: net.op("Dropout", x, net.constant("ratio", np.float32(0.5)), net.constant("t", np.bool_(False))),
        lambda net, x: net.op("Reshape", x, net.constant("to", _numbers(4, 6))),
        lambda net, x: net.op("Reshape", x, net.constant("to", _numbers(0, -1))),
        lambda net, x: net.op("Flatten", net.op("Reshape", x, net.constant("a", _numbers(-1, 6))), axis=-1),
        lambda net, x: net.op("Flatten", x),
        lambda net, x: net.op("Squeeze", x),
        lambda net, x: net.op("Expand", x, net.constant("to", _numbers(1, 6))),
        lambda net, x: net.op("Tile", x, net.constant("repeats", _numbers(1, 1))),
        lambda net, x: net.op("Transpose", x, perm=[0, 1]),
        lambda net, x: _cast(net, x, DataType.FLOAT32),
        lambda net, x: net.op("CastLike", x, net.weight("like", 2)),
        lambda net, x: net.op("Pad", x, net.constant("pads", _numbers(0, 0, 0, 0))),
        lambda net, x: net.op("Slice", x, net.constant("from", _numbers(0)), net.constant("to", _numbers(1 << 40))),
        lambda net, x: net.op("Concat", x, axis=0),
        lambda net, x: net.op("Max", x),
        lambda net, x: net.op("Split", x, num_outputs=1),
    ],
)  # fmt: skip
def test_what_does_nothing_goes(build: Callable[[Net, Value], Value]) -> None:
    done = _run(_unary(build, 4, 6), RemoveIdentities())
    assert _types(done.graph) == ["Neg", "Abs"]
    assert not list(done.graph.constants())


@pytest.mark.parametrize(
    "build",
    [
        lambda net, x: net.op("Dropout", x, net.constant("ratio", np.float32(0.0)), net.constant("t", np.bool_(True))),
        lambda net, x: net.op("Reshape", x, net.constant("to", _numbers(2, 8))),
        lambda net, x: net.op("Transpose", x),
        lambda net, x: net.op("Transpose", x, perm=[1, 0]),
        lambda net, x: net.op("Pad", x, net.constant("pads", _numbers(1, 0, -1, 0))),
        lambda net, x: net.op(
            "Slice", x, *(net.constant(n, _numbers(v)) for n, v in zip("abcd", (-1, -9, 0, -1), strict=True))
        ),
        lambda net, x: net.op("Slice", x, net.constant("from", _numbers(1)), net.constant("to", _numbers(9))),
    ],
)
def test_what_does_something_stays(build: Callable[[Net, Value], Value]) -> None:
    graph = _unary(build, 4, 4)
    assert _run(graph, RemoveIdentities()).report.rewrites == 0


def test_names_of_axes_prove_a_shape_too_and_unknown_axes_do_not() -> None:
    flat = _unary(lambda net, x: net.op("Flatten", x), "batch", 6)
    assert _types(_run(flat, RemoveIdentities()).graph) == ["Neg", "Abs"]
    unknown = _unary(lambda net, x: net.op("Flatten", x), None, 6)  # type: ignore[arg-type]
    unknown["x"].type = None
    assert _run(unknown, RemoveIdentities(), runner=None).report.rewrites == 0


def test_an_identity_between_an_input_and_an_output_name_stays() -> None:
    net = Net("between")
    x, weight = net.input("x", 3), net.weight("w", 3)
    made = net.op("Neg", x, to="n")
    outputs = [
        net.op("Identity", value, to=name) for value, name in ((x, "a"), (weight, "b"), (made, "c"), (made, "d"))
    ]
    net.done(*((value, (3,)) for value in outputs))
    done = _run(net.graph, RemoveIdentities())
    assert [value.name for value in done.graph.outputs] == ["a", "b", "c", "d"]
    # One of c and d is what Neg makes now; the other cannot be the same value.
    assert sorted(_types(done.graph)) == ["Identity", "Identity", "Identity", "Neg"]


def test_an_identity_chain_keeps_the_output_name() -> None:
    done = _run(graphs.identity_chain(), RemoveIdentities())
    assert _types(done.graph) == ["MatMul"]
    assert [value.name for value in done.graph.outputs] == ["y"]
    assert "w" in [value.name for value in done.graph.constants()]


def test_old_dropout_is_training_unless_it_says_otherwise() -> None:
    for opset, attributes, left in ((6, {}, 1), (6, {"is_test": 1}, 0), (7, {}, 0)):
        graph = _unary(lambda net, x, said=attributes: net.op("Dropout", x, **said), 4)  # type: ignore[misc]
        graph.header = graph.header.with_opset("", opset)
        done = _run(graph, RemoveIdentities(), runner=None)
        assert _types(done.graph).count("Dropout") == left


def test_a_dropout_whose_mask_is_read_stays() -> None:
    net = Net("mask")
    op = emit(net.graph, "Dropout", [net.input("x", 4)], outputs=["y", "mask"])
    data, mask = op.outputs
    assert data is not None and mask is not None
    made = net.op("Where", mask, net.op("Neg", data), data, to="z")
    assert _run(net.done((made, (4,))), RemoveIdentities()).report.rewrites == 0


# ---- duplicates -----------------------------------------------------------------------------------------------------


def test_equal_ops_become_one_through_equal_constants() -> None:
    done = _run(graphs.duplicated_subexpressions(), MergeDuplicates())
    assert _types(done.graph) == ["MatMul", "Relu", "Sum"]
    relu = done.graph.ops()[1].output
    assert done.graph.ops()[2].inputs == (relu, relu, relu)


@pytest.mark.parametrize(
    "build",
    [
        lambda net, x: [net.op("RandomUniformLike", x, seed=1.0) for _ in range(2)],
        lambda net, x: [net.op("com.microsoft::Gelu", x) for _ in range(2)],
        lambda net, x: [net.op("LeakyRelu", x, alpha=alpha) for alpha in (0.1, 0.2)],
        lambda net, x: [net.op("LeakyRelu", x), net.op("Relu", x)],
        lambda net, x: [_cast(net, x, kind) for kind in (DataType.FLOAT16, DataType.FLOAT64)],
        lambda net, x: [net.op("Add", x, net.constant("c", zero)) for zero in (np.float32(0), np.float32(-0.0))],
    ],
)
def test_ops_that_differ_stay_apart(build: Callable[[Net, Value], list[Value]]) -> None:
    net = Net("apart")
    net.graph.header = net.graph.header.with_opset("com.microsoft", 1)
    made = build(net, net.input("x", 3))
    net.done(*((_cast(net, value, DataType.FLOAT32), (3,)) for value in made))
    assert _run(net.graph, MergeDuplicates(), runner=None).report.rewrites == 0


def test_two_outputs_of_the_model_stay_two_values() -> None:
    net = Net("outputs")
    x = net.input("x", 3)
    made = [net.op("Neg", x, to=name) for name in "abc"]
    net.done((made[1], (3,)), (made[2], (3,)))
    net.graph.set_interface(outputs=[*net.graph.outputs, net.op("Exp", made[0], to="d")])
    net.graph.outputs[2].type = net.graph.outputs[0].type
    done = _run(net.graph, MergeDuplicates())
    assert [value.name for value in done.graph.outputs] == ["b", "c", "d"]
    assert sorted(_types(done.graph)) == ["Exp", "Neg", "Neg"]


def test_bodies_do_not_share_with_each_other() -> None:
    net = Net("bodies")
    condition, x = net.input("condition", dtype=DataType.BOOL), net.input("x", 3)
    bodies = []
    for name in ("then", "else"):
        body = net.body(name)
        twice = [body.op("Exp", x, to=f"{name}_exp") for _ in range(2)]
        bodies.append(body.done((body.op("Add", *twice, to=f"{name}_sum"), (3,))))
    net.done((net.op("If", condition, then_branch=bodies[0], else_branch=bodies[1]), (3,)))
    done = _run(net.graph, MergeDuplicates())
    assert [_types(body) for body in done.graph.ops()[0].bodies()] == [["Exp", "Add"]] * 2


@pytest.mark.parametrize(("min_bytes", "left"), [(1600, 1), (1601, 2)])
def test_large_equal_constants_become_one_small_ones_stay(min_bytes: int, left: int) -> None:
    net = Net("tied")
    weight = net.weight("w", 20, 20)
    assert weight.const is not None
    twin = net.constant("twin", weight.const.numpy().copy())
    almost = weight.const.numpy().copy()
    almost[10, 10] += 1
    made = net.op("MatMul", net.op("MatMul", net.input("x", 2, 20), weight), twin)
    net.done((net.op("MatMul", made, net.constant("almost", almost)), (2, 20)))
    done = _run(net.graph, MergeDuplicates(min_bytes=min_bytes))
    assert len(list(done.graph.constants())) == left + 1
    assert "almost" in [value.name for value in done.graph.constants()]


def test_a_constant_that_is_an_output_keeps_its_name() -> None:
    net = Net("outputs")
    weight = net.weight("w", 3)
    assert weight.const is not None
    twin = net.constant("twin", weight.const.numpy())
    net.done((net.op("Mul", net.op("Add", net.input("x", 3), weight), twin), (3,)), (twin, (3,)))
    done = _run(net.graph, MergeDuplicates(min_bytes=0))
    assert [value.name for value in done.graph.outputs] == ["mul", "twin"]


# ---- all together ---------------------------------------------------------------------------------------------------


def test_clean_reaches_a_fixed_point_and_says_so() -> None:
    net = Net("together")
    x = net.input("x", 1, 3, 6, 6)
    made = net.batch_norm(net.conv(net.op("Identity", x), "conv", 4, 3, 1, 1), "bn", 4)
    shape = net.op("Concat", net.op("Shape", made, end=2), net.constant("rest", _numbers(-1)), axis=0)
    same = net.op("Concat", net.op("Shape", made, end=2), net.constant("rest2", _numbers(-1)), axis=0)
    total = net.op("Add", net.op("Reshape", made, shape), net.op("Reshape", made, same))
    net.op("Exp", total)
    net.done((net.op("Dropout", total), (1, 4, 36)))
    done = _run(net.graph, Clean())
    assert _types(done.graph) == ["Conv", "Reshape", "Add"]
    assert done.report.entries[0].notes == ["ended because nothing is left to do"]
    assert {row["pass"] for row in done.report.entries[0].rows} >= {"fold-batchnorm", "fold-constants"}
    exact = _run(net.graph, Clean(batchnorm=False))
    assert _types(exact.graph) == ["Conv", "BatchNormalization", "Reshape", "Add"]


def test_clean_stops_at_its_limit_and_says_so() -> None:
    done = _run(graphs.identity_chain(), Clean(limit=1))
    assert done.report.entries[0].notes == [
        "ended because the limit of rounds was reached, and something may be left to do"
    ]
    with pytest.raises(ValueError, match="at least 1"):
        Clean(limit=0)


def test_facts_are_fresh_for_each_pass_inside() -> None:
    counts: list[int] = []

    @fact(reads=Facet.TOPOLOGY)
    def op_count(graph: Graph, facts: Facts) -> int:
        return len(graph.ops())

    @dataclass(frozen=True)
    class Count(Pass):
        """Counts ops."""

        name: ClassVar[str] = "count"
        changes: ClassVar[Facet] = Facet.TOPOLOGY
        effect: ClassVar[Effect] = Effect.EXACT

        def run(self, graph: Graph, context: Context) -> int:
            counts.append(context.facts.get(op_count))
            return 0

    graph = graphs.unused_op()
    context = Context(facts=Facts(graph))
    assert run_inside([Count(), RemoveDeadCode(), Count()], graph, context) == 4
    assert counts == [3, 1]
    assert context.report.rows == [{"pass": "remove-dead-code", "ops": 2, "constants": 2, "functions": 0}]


def test_fuel_zero_changes_nothing() -> None:
    def none(rule: str, op: Op) -> bool:
        return False

    for build in graphs.tiny_graphs().values():
        graph = build()
        for value in list(graph.constants()):
            if not graph.is_used(value) and value not in graph.inputs:
                graph.remove(value)
        context = replace(Context(runner=_RUNNER), fuel=none)
        done = run_pipeline(graph, [Clean(), MergeDuplicates()], context, settings=Settings(check=Check.FULL))
        assert done.report.rewrites == 0
        assert str(done.graph) == str(graph)
