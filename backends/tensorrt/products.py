"""One matrix product as a graph, in each number format that has sparse kernels, with dense or with 2:4 weights."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.ir import DataType, Graph, Header, TensorType
from secateur.ir.build import add_constant, add_input, emit
from secateur.ir.rules.sparse_kernels import INPUTS
from secateur.ir.runner import Feeds
from secateur.ir.targets import Format

_TYPES = {
    Format.FP16: DataType.FLOAT16,
    Format.BF16: DataType.BFLOAT16,
    Format.INT8: DataType.INT8,
    Format.FP8: DataType.FLOAT8E4M3FN,
}
FORMATS = tuple(form for form in _TYPES if form in INPUTS)
"""The formats that products can be asked for."""
_OPSET = 19  # the first that has FP8
_SPREAD = {DataType.INT8: 30.0}
"""What numbers of a normal distribution are multiplied by where a type takes whole ones only."""
_SCALE = 0.05


def product(form: Format, rows: int, inputs: int, outputs: int, *, sparse: bool) -> tuple[Graph, Feeds]:
    """[rows, inputs] x [inputs, outputs] with constant weights, and what to feed; the same numbers every time.

    Narrow operands are dequantized explicitly, weights by a scale for each output, and the result is FP16. The left
    one comes in as narrow as the layer before gives it: quantizing it is a part of that layer.

    Args:
        form: one of `FORMATS`.
        rows, inputs, outputs: sizes, at least 1.
        sparse: whether of any 4 weights along the inputs 2 are zero; inputs must be a multiple of 4 then.
    """
    random, kind = np.random.default_rng(0), _TYPES[form]
    title = f"{form} {rows} x {inputs} x {outputs}, {'2:4' if sparse else 'dense'}"
    graph = Graph(title, header=Header(opsets=(("", _OPSET),)))
    weights = _drawn(random, (inputs, outputs), kind)
    if sparse:
        weights = np.where(_mask(random, inputs, outputs), weights, np.zeros((), kind.numpy))
    data = add_input(graph, "x", (rows, inputs), kind)
    weight = add_constant(graph, "weight", weights, kind)
    result = kind
    if kind.bits == 8:
        result = DataType.FLOAT16
        scale = add_constant(graph, "scale", np.array(_SCALE, result.numpy))
        scales = add_constant(graph, "scales", np.full(outputs, _SCALE, result.numpy))
        data = emit(graph, "DequantizeLinear", [data, scale]).output
        weight = emit(graph, "DequantizeLinear", [weight, scales], {"axis": 1}).output
    made = emit(graph, "MatMul", [data, weight], outputs=["y"]).output
    made.type = TensorType(result, (rows, outputs))
    graph.set_interface(outputs=[made])
    return graph, {"x": _drawn(random, (rows, inputs), kind)}


def _drawn(random: np.random.Generator, shape: tuple[int, int], kind: DataType) -> NDArray[Any]:
    """Normally distributed; whole numbers are never zero."""
    array = random.standard_normal(shape, np.float32)
    if kind.is_float:
        return array.astype(kind.numpy)
    whole = np.rint(array * _SPREAD[kind]).clip(-127, 127)
    return np.where(whole == 0, 1, whole).astype(kind.numpy)


def _mask(random: np.random.Generator, inputs: int, outputs: int) -> NDArray[np.bool_]:
    """Any two of each four along the inputs."""
    order = random.random((inputs // 4, 4, outputs), np.float32).argsort(axis=1)
    return (order < 2).reshape(inputs, outputs)
