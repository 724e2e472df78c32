"""Whether all numbers of a value are of one sign, as the ops before it say."""

from __future__ import annotations

from secateur.ir.graph import Graph
from secateur.ir.node import Op, Value

_MADE = frozenset({"Abs", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Softplus"})
_KEPT = frozenset(
    "AveragePool Concat Flatten GlobalAveragePool GlobalMaxPool Identity MaxPool Reshape Slice Squeeze Transpose "
    "Unsqueeze".split()
)


def is_not_negative(graph: Graph, value: Value | None) -> bool:
    """True where no number of a value can be below zero: behind a ReLU, say, pooled or padded."""
    maker = graph.producer(value) if value is not None and value in graph else None
    if maker is None or maker.domain:
        return False
    if maker.op_type in _MADE:
        return True
    if maker.op_type == "Clip":
        least = graph.constant(maker.input(1))
        return least is not None and float(least.numpy().min(initial=0.0)) >= 0
    if maker.op_type in _KEPT or (maker.op_type == "Pad" and _adds_no_negative(graph, maker)):
        data = maker.inputs if maker.op_type == "Concat" else maker.inputs[:1]
        return all(is_not_negative(graph, one) for one in data)
    return False


def _adds_no_negative(graph: Graph, op: Op) -> bool:
    if op.attribute("mode", "constant") != "constant" or op.input(2) is None:
        return True
    filled = graph.constant(op.input(2))
    return filled is not None and float(filled.numpy()) >= 0
