"""The table of what absorbs zeros, held against a runtime: what it says of an op is what the op makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from helpers.onnxruntime_runs import session
from numpy.typing import NDArray

from secateur.ir import DataType, Graph, Header, Tensor, TensorType, Value
from secateur.ir.build import emit
from secateur.ir.dims import rules
from secateur.ir.dims.axes import dims_rules
from secateur.ir.dims.rules.pointwise import BROADCAST, ONE_OPERAND
from secateur.ir.dims.vanish import Fading, Fate, vanish_rules
from secateur.ir.onnx_shapes import infer
from secateur.ir.onnx_write import to_bytes
from secateur.ir.rules.known import Known

Array = NDArray[Any]
_RANDOM = np.random.default_rng(0)


def _some(*shape: int) -> Array:
    return _RANDOM.normal(size=shape).astype(np.float32) + 2


def _none(*shape: int) -> Array:
    return np.zeros(shape, np.float32)


@dataclass(frozen=True)
class Case:
    """An op with inputs; those at `gone` are zero or empty. `outcome` is what the table has to say."""

    op: str
    inputs: Sequence[Array]
    gone: tuple[int, ...]
    outcome: Fate | int | None
    """An input port where it makes the same as this input."""
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        made = self.outcome.name if isinstance(self.outcome, Fate) else self.outcome
        return f"{self.op} {self.gone} {made}"


def _numbers(*numbers: int) -> Array:
    return np.array(numbers, np.int64)


_WHERE = _numbers(0, 2).reshape(2, 1)
_NOWHERE = np.zeros((0, 1), np.int64)
CASES = [
    *(Case(op, [_none(3, 4), _some(4)], (0,), Fate.ZERO) for op in ("Mul", "Div")),
    Case("Mul", [_some(1, 4), _none(3, 1)], (1,), Fate.ZERO),
    Case("Mul", [_some(1, 4), _none(0, 1)], (1,), Fate.EMPTY),
    Case("Div", [_some(3, 4), _none(3, 4) + 1], (1,), None),
    Case("And", [np.zeros((3, 4), np.bool_), np.ones((3, 4), np.bool_)], (0,), Fate.ZERO),
    *(Case("Add", [_some(3, 4), _none(*shape)], (1,), 0) for shape in ((3, 4), (4,), (3, 1))),
    Case("Add", [_none(3, 4), _some(3, 4)], (0,), 1),
    Case("Add", [_none(3, 4), _some(4)], (0,), None),
    Case("Add", [_none(3, 4), _none(4)], (0, 1), Fate.ZERO),
    Case("Add", [_some(1, 4), _none(0, 4)], (1,), Fate.EMPTY),
    Case("Sub", [_some(3, 4), _none(3, 4)], (1,), 0),
    Case("Sub", [_none(3, 4), _some(3, 4)], (0,), None),
    Case("Sum", [_none(3, 4), _some(3, 4), _none(4)], (0, 2), 1),
    Case("Max", [_none(3, 4), _some(3, 4)], (0,), None),
    Case("MatMul", [_none(3, 4), _some(4, 2)], (0,), Fate.ZERO),
    Case("MatMul", [_some(3, 4), _none(4, 2)], (1,), Fate.ZERO),
    Case("MatMul", [_none(0, 4), _some(4, 2)], (0,), Fate.EMPTY),
    Case("Gemm", [_none(3, 4), _some(4, 2)], (0,), Fate.ZERO),
    Case("Gemm", [_none(3, 4), _some(4, 2), _none(2)], (0,), Fate.ZERO),
    Case("Gemm", [_none(3, 4), _some(4, 2), _some(2)], (0,), None),
    Case("Gemm", [_none(0, 4), _some(4, 2), _some(2)], (0,), Fate.EMPTY),
    Case("Gemm", [_none(4, 0), _some(2, 4), _some(2)], (0,), Fate.EMPTY, {"transA": 1, "transB": 1}),
    Case("ReduceSum", [_none(3, 4), _numbers(0)], (0,), Fate.ZERO),
    Case("ReduceSum", [_none(0, 4), _numbers(0)], (0,), None),
    Case("NonZero", [_none(3, 4)], (0,), Fate.EMPTY),
    Case("NonZero", [_none(0, 4)], (0,), Fate.EMPTY),
    Case("Compress", [_some(3, 4), np.zeros(3, np.bool_)], (1,), Fate.EMPTY, {"axis": 0}),
    Case("Where", [np.zeros((3, 1), np.bool_), _some(3, 4), _some(3, 4)], (0,), 2),
    Case("Where", [np.zeros((3, 4), np.bool_), _some(3, 4), _some(4)], (0,), None),
    Case("Where", [np.zeros((3, 4), np.bool_), _some(3, 4), _none()], (0,), Fate.ZERO),
    Case("Where", [np.eye(3, 4, dtype=np.bool_), _none(3, 4), _none(4)], (1, 2), Fate.ZERO),
    Case("Concat", [_none(3, 4), _none(3, 2)], (0, 1), Fate.ZERO, {"axis": 1}),
    Case("Concat", [_none(0, 4), _none(0, 2)], (0, 1), Fate.EMPTY, {"axis": 1}),
    Case("Concat", [_none(3, 4), _some(3, 2)], (0,), None, {"axis": 1}),
    Case("Shape", [_none(0, 4)], (0,), Fate.SIZES),
    Case("Size", [_none(3, 4)], (0,), Fate.SIZES),
    Case("Gather", [_none(3, 4), _numbers(1)], (0,), Fate.ZERO),
    Case("Gather", [_some(3, 4), _numbers()], (1,), Fate.EMPTY),
    Case("Gather", [_some(3, 4), _numbers(0)], (1,), None),
    Case("GatherND", [_some(3, 4), _NOWHERE], (1,), Fate.EMPTY),
    Case("GatherND", [_none(3, 4), _WHERE], (0,), Fate.ZERO),
    Case("GatherElements", [_some(3, 4), np.zeros((0, 4), np.int64)], (1,), Fate.EMPTY, {"axis": 0}),
    *(
        Case(op, [_some(3, 4), where, updates], (1, 2), 0, {"reduction": kind})
        for kind in ("none", "add")
        for op, where, updates in (
            ("ScatterND", _NOWHERE, _none(0, 4)),
            ("ScatterElements", np.zeros((0, 4), np.int64), _none(0, 4)),
        )
    ),
    Case("ScatterND", [_some(3, 4), _WHERE, _none(2, 4)], (2,), 0, {"reduction": "add"}),
    Case("ScatterND", [_some(3, 4), _WHERE, _none(2, 4)], (2,), None, {"reduction": "none"}),
    Case("ScatterND", [_none(3, 4), _WHERE, _some(2, 4)], (0,), None, {"reduction": "add"}),
    *(
        Case(op, [_none(rows, 4), *others], (0,), fate)
        for rows, fate in ((3, Fate.ZERO), (0, Fate.EMPTY))
        for op, others in (
            ("Reshape", [_numbers(-1, 2) if rows else _numbers(0, 4)]),
            ("Flatten", []),
            ("Transpose", []),
            ("Unsqueeze", [_numbers(1)]),
            ("Expand", [_numbers(rows, 4)]),
            ("Slice", [_numbers(1), _numbers(3), _numbers(1)]),
            ("Tile", [_numbers(2, 1)]),
        )
    ),
    Case("Split", [_none(3, 4), _numbers(1, 2)], (0,), Fate.ZERO),
    Case("Squeeze", [_none(3, 1), _numbers(1)], (0,), Fate.ZERO),
    Case("com.microsoft::FastGelu", [_none(3, 4)], (0,), Fate.ZERO),
    Case("com.microsoft::FastGelu", [_none(3, 4), _some(4)], (0,), None),
    Case("com.microsoft::FastGelu", [_none(0, 4), _some(4)], (0,), Fate.EMPTY),
    Case("Softmax", [_none(0, 4)], (0,), Fate.EMPTY),
    Case("Softmax", [_none(3, 4)], (0,), None),
    Case("LogSoftmax", [_none(0, 4)], (0,), Fate.EMPTY),
    Case("LayerNormalization", [_none(0, 4), _some(4), _some(4)], (0,), Fate.EMPTY),
    Case("LayerNormalization", [_none(3, 4), _some(4), _some(4)], (0,), None),
    Case("QuantizeLinear", [_none(0, 4), np.float32(0.5)], (0,), Fate.EMPTY),
    Case("DequantizeLinear", [np.zeros((0, 4), np.uint8), np.float32(0.5)], (0,), Fate.EMPTY),
]


def _build(op: str, arrays: Sequence[Array], attributes: Mapping[str, Any], opset: int = 21) -> Graph:
    graph = Graph("one", header=Header(ir_version=10, opsets=(("", opset), ("com.microsoft", 1))))
    inputs = [Value(f"i{port}", TensorType(DataType.of(one.dtype), one.shape)) for port, one in enumerate(arrays)]
    graph.set_interface(inputs=inputs)
    names = ["y", "z"] if op == "Split" else ["y"]
    made = emit(graph, op, inputs, attributes, outputs=names)
    graph.set_interface(outputs=[value for value in made.outputs if value is not None])
    return graph


def _constants(graph: Graph, arrays: Sequence[Array], gone: Sequence[int]) -> None:
    """What lives on is constant, as the table may look at it."""
    for port, value in enumerate(graph.inputs):
        if port not in gone:
            value.set_const(Tensor(np.asarray(arrays[port])))


def _outcome(case: Case) -> tuple[Any, Graph]:
    graph = _build(case.op, case.inputs, case.attributes)
    _constants(graph, case.inputs, case.gone)
    (op,) = graph.ops()
    fates = {
        value: Fate.ZERO if case.inputs[port].size else Fate.EMPTY
        for port, value in enumerate(graph.inputs)
        if port in case.gone
    }
    given = tuple(value for value in graph.inputs if value.const is None)
    graph.set_interface(inputs=given)
    rule = vanish_rules.get(op)
    assert rule is not None
    return rule(Fading(Known(graph, infer(graph)), op, fates)), graph


def _run(graph: Graph, case: Case) -> list[Array]:
    feeds = {f"i{port}": case.inputs[port] for port in case.gone}
    return [np.asarray(one) for one in session(to_bytes(graph)).run(None, feeds)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_table_says_what_happens(case: Case) -> None:
    found, graph = _outcome(case)
    if isinstance(case.outcome, int):
        assert found == (graph[f"i{case.outcome}"],)
    else:
        assert found is case.outcome
    for made in _run(graph, case):
        if found is Fate.ZERO:
            assert made.size and not made.any()
        elif found is Fate.EMPTY:
            assert not made.size
        elif isinstance(found, tuple):
            assert made.shape == case.inputs[case.outcome].shape  # type: ignore[index,call-overload]
            assert (made == case.inputs[case.outcome]).all()  # type: ignore[index,call-overload]


_NEEDS: Mapping[str, Mapping[str, Any]] = {"Cast": {"to": 7}, "BitShift": {"direction": "LEFT"}, "Mod": {"fmod": 1}}
"""Attributes that ops cannot do without."""

_TYPES = {
    **dict.fromkeys(("And", "Or", "Xor", "Not"), np.bool_),
    **dict.fromkeys(("BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor"), np.int32),
    "BitShift": np.uint8,
}
"""What ops take that do not take floats."""

_ELEMENTWISE = sorted({*ONE_OPERAND, *BROADCAST, "Equal"})
_UNKNOWN = {
    *("BitCast", "SwiGLU", "Swish", "com.microsoft::BiasAdd", "com.microsoft::BiasGelu", "com.microsoft::GatedAdd"),
    "com.microsoft::ScaledSiLU",
}
"""Ops that the runtime does not have on a CPU, has not yet, or has for other shapes only."""


def _operands(op: str, rows: int) -> list[Array]:
    dtype = _TYPES.get(op, np.float32)
    first: list[Array] = [np.ones((rows, 4), np.bool_)] if op == "Where" else []
    beside: list[Array] = [] if op in ONE_OPERAND else [np.ones((1, 4), dtype)]
    return [*first, np.zeros((rows, 4), dtype), *beside]


def _said(op: str, rows: int) -> tuple[Any, list[Array]]:
    """What the table says of an op whose elements are zero, or that has none, and what it makes."""
    arrays = _operands(op, rows)
    graph = _build(op, arrays, _NEEDS.get(op, {}))
    gone = dict.fromkeys(graph.inputs[op == "Where" :][:1], Fate.ZERO if rows else Fate.EMPTY)
    rule = vanish_rules.find(op)
    assert rule is not None
    said = rule(Fading(Known(graph), graph.ops()[0], gone))
    feeds = {value.name: array for value, array in zip(graph.inputs, arrays, strict=True)}
    made = [] if op in _UNKNOWN else session(to_bytes(graph)).run(None, feeds)
    return said, [np.asarray(one) for one in made]


@pytest.mark.parametrize("op", _ELEMENTWISE)
def test_elementwise_ops_make_nothing_of_nothing(op: str) -> None:
    said, made = _said(op, 0)
    assert said is Fate.EMPTY
    assert not any(one.size for one in made)


@pytest.mark.parametrize("op", _ELEMENTWISE)
def test_elementwise_ops_make_zeros_of_zeros_where_the_table_says_so(op: str) -> None:
    said, made = _said(op, 3)
    assert said in (None, Fate.ZERO) or op in ("Add", "Sum")
    assert said is not Fate.ZERO or not any(one.any() for one in made)


def test_every_rule_is_of_an_op_whose_axes_are_known_and_is_tried() -> None:
    rules.load()
    assert set(vanish_rules) <= set(dims_rules)
    tried = {case.op for case in CASES} | {*_ELEMENTWISE}
    assert set(vanish_rules) - tried == {"RMSNormalization", "Scatter", "com.microsoft::MatMulNBits"}
