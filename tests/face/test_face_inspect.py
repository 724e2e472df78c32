"""`inspect` on every tiny graph: figures that can be counted otherwise, and a reason for all that it leaves aside."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.face_models import make_graph
from helpers.graphs import tiny_graphs

import secateur as sc
from secateur.ir.build import add_constant, add_input, emit
from secateur.ir.rules.weights import weight_rules

GRAPHS = tiny_graphs()


@pytest.mark.parametrize("name", GRAPHS)
def test_every_tiny_graph_can_be_inspected(name: str) -> None:
    graph = GRAPHS[name]()
    found = sc.inspect(graph)
    ops = [op for whole in (graph, *graph.functions.values()) for part in whole.graphs() for op in part.ops()]
    assert sum(found.ops.values()) == found.size.ops == len(ops)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["macs"] == found.macs
    assert str(found)
    # An op is a boundary or it is not, and what is none has a rule somewhere or reads constants only.
    assert sum(boundary.count for boundary in found.boundaries) <= len(graph.ops())
    for row in found.weights:
        assert row.prunable == (row.reason is None)
        assert 0 <= row.zeros <= 1


def test_boundaries_say_why() -> None:
    reasons = {b.op_type: b.reason for name in GRAPHS for b in sc.inspect(GRAPHS[name]()).boundaries}
    assert "control flow" in reasons["If"]
    assert "control flow" in reasons["Loop"]
    assert any("a function of the model" in reason for reason in reasons.values())
    graph = make_graph()
    graph.header = graph.header.with_opset("com.example", 1)
    emit(graph, "com.example::Swirl", [graph["fc"]])
    assert {b.op_type: b.reason for b in sc.inspect(graph).boundaries}["com.example::Swirl"] == (
        "no rule for operators of the domain com.example"
    )


def test_what_lies_in_bodies_is_said() -> None:
    assert any("bodies or functions" in remark for remark in sc.inspect(GRAPHS["if_captures"]()).remarks)
    assert any("bodies or functions" in remark for remark in sc.inspect(GRAPHS["function_call"]()).remarks)


def test_sizes_that_the_model_leaves_open_are_said() -> None:
    graph = sc.Graph("open")
    x = add_input(graph, "x", ("N", "T", 8))
    graph.set_interface(outputs=[emit(graph, "MatMul", [x, add_constant(graph, "w", np.ones((8, 4), "f4"))]).output])
    found = sc.inspect(graph)
    assert found.macs == 32
    assert any("leaves open" in remark and "in x" in remark for remark in found.remarks)
    assert not any("leaves open" in remark for remark in sc.inspect(make_graph()).remarks)


@pytest.mark.parametrize(("zeros", "pattern"), [("first half", None), ("every second", "2:4"), ("none", None)])
def test_patterns_run_along_the_contracted_axis(zeros: str, pattern: str | None) -> None:
    graph = make_graph()
    weight = graph["fc.weight"]
    assert weight.const is not None
    array = weight.const.numpy().copy()  # [10, 32], contracted along axis 1
    masks = {"first half": np.s_[:, :16], "every second": np.s_[:, ::2], "none": np.s_[:0]}
    array[masks[zeros]] = 0
    weight.set_const(sc.Tensor(array))
    [row] = [row for row in sc.inspect(graph).weights if row.name == "fc.weight"]
    assert row.pattern == pattern
    assert row.zeros == pytest.approx(float(np.mean(array == 0)))


@pytest.mark.parametrize(
    ("scale", "attributes", "expected"),
    [((), {}, "i8 per tensor"), ((1,), {}, "i8 per tensor"), ((10,), {"axis": 0}, "i8 per channel")],
)
def test_formats_of_quantized_weights(scale: tuple[int, ...], attributes: dict[str, int], expected: str) -> None:
    graph = make_graph()
    codes = add_constant(graph, "codes", np.ones((10, 32), np.int8))
    restored = emit(graph, "DequantizeLinear", [codes, add_constant(graph, "s", np.ones(scale, "f4"))], attributes)
    [fc] = [op for op in graph.ops() if op.op_type == "Gemm"]
    graph.set_inputs(fc, [fc.inputs[0], restored.output, fc.inputs[2]])
    rows = {row.name: row for row in sc.inspect(graph).weights}
    assert rows["codes"].quantized == expected
    assert (rows["codes"].prunable, "quantized" in (rows["codes"].reason or "")) == (False, True)


def test_every_weight_that_the_rules_see_is_listed() -> None:
    graph = make_graph()
    named = {row.op for row in sc.inspect(graph).weights}
    assert named == {op.title for op in graph.ops() if weight_rules.get(op) is not None}
