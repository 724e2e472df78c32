"""The dense half of the mask oracle: a graph in which removed indices read as zero wherever something sums over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from secateur.ir import Graph, Op, Tensor
from secateur.ir.build import emit
from secateur.ir.dims.algebra import Dim, Indices, indices
from secateur.ir.dims.analysis import Dimensions
from secateur.ir.dims.axes import Layouts, Use


def _conv(op: Op, rank: int) -> list[tuple[int, int]]:
    return [(0, 1)]


def _gemm(op: Op, rank: int) -> list[tuple[int, int]]:
    return [(0, 0 if op.attribute("transA", 0) else 1)]


def _matmul(op: Op, rank: int) -> list[tuple[int, int]]:
    return [(0, rank - 1)]


def _reduce_sum(op: Op, rank: int) -> list[tuple[int, int]]:
    return [(0, axis) for axis in range(rank)]


def _attention(op: Op, rank: int) -> list[tuple[int, int]]:
    return [(0, rank - 1)]


CONTRACTED: dict[str, Callable[[Op, int], list[tuple[int, int]]]] = {
    "Conv": _conv,
    "ConvTranspose": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "ReduceSum": _reduce_sum,
    "Attention": _attention,
}
"""op type -> the (input port, axis) pairs that it sums over, given the rank of its first input."""


def mask_readers(graph: Graph, dimensions: Dimensions, kept: Mapping[Dim, Indices]) -> int:
    """Multiplies what contractions read by zeros at the removed indices; returns how many masks were put in."""
    count = 0
    for op in graph.ops():
        rule = CONTRACTED.get(op.op_type)
        if rule is None:
            continue
        layouts = _layouts(dimensions, op, 0)
        for port, axis in rule(op, len(layouts)):
            layout = layouts[axis]
            if any(dim.size is None for dim in layout):
                continue
            size = int(np.prod([dim.size for dim in layout], dtype=np.int64))
            stays = indices(layout, kept)
            if len(stays) < size:
                shape = [1] * len(layouts)
                shape[axis] = size
                mask = np.zeros(size, np.float32)
                mask[stays] = 1
                data = op.inputs[port]
                assert data is not None
                constant = graph.add_constant("mask", Tensor(mask.reshape(shape)))
                masked = emit(graph, "Mul", [data, constant]).output
                graph.set_inputs(op, [masked if at == port else old for at, old in enumerate(op.inputs)])
                count += 1
    return count


def _layouts(dimensions: Dimensions, op: Op, port: int) -> Layouts:
    value = op.inputs[port]
    assert value is not None
    use = Use(op, port)
    return dimensions.layouts[use if use in dimensions.layouts else value]
