"""What Q/DQ ops say of number formats: read back, printed, and refused where their scales do not fit."""

from __future__ import annotations

import numpy as np
import pytest

from secateur.ir import DataType, Graph
from secateur.ir.build import add_constant, add_input, emit
from secateur.ir.errors import GraphError
from secateur.ir.schemes import Scheme, schemes
from secateur.ir.text_parse import parse_graph
from secateur.ir.text_print import digests


def _quantized(scale: np.ndarray, block: int = 0, axis: int = 1) -> Graph:
    """x [4, 8] through Q and DQ to int8, by a weight [8, 64] of codes."""
    graph = Graph()
    x = add_input(graph, "x", [4, 8])
    pair = [add_constant(graph, "s", np.float32(0.1)), add_constant(graph, "z", np.int8(0))]
    data = emit(graph, "DequantizeLinear", [emit(graph, "QuantizeLinear", [x, *pair]).output, *pair]).output
    codes = add_constant(graph, "w", np.ones((8, 64), np.int8))
    attributes = {"axis": axis, "block_size": block} if block else {"axis": axis}
    weight = emit(graph, "DequantizeLinear", [codes, add_constant(graph, "ws", scale)], attributes).output
    graph.set_interface(outputs=[emit(graph, "MatMul", [data, weight]).output])
    return graph


def test_schemes_are_read_off_the_ops() -> None:
    found = dict(schemes(_quantized(np.ones(64, np.float32))))
    assert list(map(str, found.values())) == ["i8", "i8 axis 1"]
    (_, blocked) = schemes(_quantized(np.ones((2, 64), np.float32), block=4, axis=0))
    assert blocked[1] == Scheme(DataType.INT8, 0, 4)
    assert str(blocked[1]) == "i8 axis 0 block 4"


def test_the_text_says_so_and_parses_back() -> None:
    graph = _quantized(np.ones(64, np.float32))
    text = str(graph)
    assert "// i8 axis 1" in text
    assert str(parse_graph(text, digests(graph))) == text


@pytest.mark.parametrize(
    ("scale", "block", "axis", "message"),
    [
        (np.ones(8, np.float32), 0, 1, r"scales of shape \[8\], expected \[64\]"),
        (np.ones((3, 64), np.float32), 4, 0, r"expected \[2, 64\]"),
        (np.ones(64, np.float32), 0, 2, "axis 2"),
        (np.zeros(64, np.float32), 0, 1, "scale of 0"),
        (np.full(64, np.nan, np.float32), 0, 1, "scale of nan"),
    ],
)
def test_scales_that_do_not_fit_are_refused(scale: np.ndarray, block: int, axis: int, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        _quantized(scale, block, axis).verify()
