"""Which products make queries, keys and values as TensorRT matches them; `tests/backends` asks TensorRT itself."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
from helpers.tensorrt_packed import MATCHED, MISSED

from secateur.ir import onnx_read
from secateur.ir.onnx_shapes import infer
from secateur.ir.rules.known import Known
from secateur.ir.rules.packed_heads import is_packed

Make = Callable[[], onnx.ModelProto]


def _says(make: Make, *, typed: bool) -> bool:
    graph = onnx_read.from_bytes(make().SerializeToString())
    known = Known(graph, infer(graph)) if typed else Known(graph)
    product = next(op for op in graph.ops() if op.op_type in ("Gemm", "MatMul"))
    return is_packed(known, product)


@pytest.mark.parametrize("typed", [True, False])
@pytest.mark.parametrize("name", MATCHED)
def test_what_is_matched_with_shapes_and_without(name: str, typed: bool) -> None:
    assert _says(MATCHED[name], typed=typed)


@pytest.mark.parametrize("typed", [True, False])
@pytest.mark.parametrize("name", [name for name in MISSED if "one scale" not in name])
def test_what_differs_by_one_op_is_not(name: str, typed: bool) -> None:
    assert not _says(MISSED[name], typed=typed)
