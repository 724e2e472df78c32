"""The dense half of the mask oracle: a graph in which removed indices read as zero where something sums over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from secateur.ir import Graph, Op, Tensor, Value
from secateur.ir.build import emit
from secateur.ir.dims.algebra import Dim, Indices, Layout, expand, indices, size_of
from secateur.ir.dims.analysis import Dimensions
from secateur.ir.dims.axes import Layouts, Use
from secateur.ir.types import TensorType

Read: TypeAlias = tuple[int, int] | tuple[int, int, int]
"""(input port, axis) that an op sums over, and for quantized numbers the port of the zero point, their zero."""

Rule: TypeAlias = Callable[[Op, list[int]], list[Read]]
"""Given the ranks of the inputs (0 for those left out)."""


def _gemm(op: Op, ranks: list[int]) -> list[Read]:
    return [(0, 0 if op.attribute("transA", 0) else 1)]


def _fused_matmul(op: Op, ranks: list[int]) -> list[Read]:
    if not op.attribute("transA", 0):
        return [(0, ranks[0] - 1)]
    return [(0, 0 if op.attribute("transBatchA", 0) else ranks[0] - 2)]


def _reduced(op: Op, ranks: list[int]) -> list[Read]:
    value = op.input(1)
    given = op.attribute("axes") if value is None or value.const is None else value.const.numpy().reshape(-1).tolist()
    if not given:
        return [] if op.attribute("noop_with_empty_axes", 0) else [(0, axis) for axis in range(ranks[0])]
    return [(0, axis % ranks[0]) for axis in given]


def _along_axis(op: Op, ranks: list[int]) -> list[Read]:
    return [(0, op.attribute("axis", -1) % ranks[0])]


def _einsum(op: Op, ranks: list[int]) -> list[Read]:
    terms, arrow, made = op.attribute("equation").replace(" ", "").partition("->")
    if not arrow:
        made = "".join(letter for letter in terms if terms.count(letter) == 1)
    found: list[Read] = []
    for port, term in enumerate(terms.split(",")):
        before, _, behind = term.partition("...")
        places = [*enumerate(before), *enumerate(behind, start=ranks[port] - len(behind))]
        found += [(port, axis) for axis, letter in places if letter not in made]
    return found


def _multi_head(op: Op, ranks: list[int]) -> list[Read]:
    last = [(port, ranks[port] - 1) for port in (0, 1) if ranks[port]]
    return [*last, (3, 0)] if ranks[3] else last


def _group_query(op: Op, ranks: list[int]) -> list[Read]:
    return [(port, 2) for port in (0, 1) if ranks[port]]


def _packed_attention(op: Op, ranks: list[int]) -> list[Read]:
    return [(0, 2), (1, 1), (2, 0)] if ranks[2] else [(0, 2), (1, 1)]


def _linear_attention(op: Op, ranks: list[int]) -> list[Read]:
    return [(0, 2), (1, 2), (3, 2)] if ranks[3] else [(0, 2), (1, 2)]


def _picked(op: Op, ranks: list[int]) -> list[Read]:
    """One index by itself: nothing of it reads as zero, too."""
    index = op.input(1)
    is_one = index is not None and index.const is not None and not index.const.shape
    return [(0, op.attribute("axis", 0) % ranks[0])] if is_one else []


def _quantized_mixture(op: Op, ranks: list[int]) -> list[Read]:
    gates: list[Read] = [(3, 1), (4, 1)]  # neurons whose scale and bias are zero are zero
    return [(0, ranks[0] - 1), *(one for one in gates if ranks[one[0]])]


CONTRACTED: dict[str, Rule] = {
    **dict.fromkeys("Conv ConvTranspose DeformConv com.microsoft::FusedConv".split(), lambda op, ranks: [(0, 1)]),
    **dict.fromkeys(("ConvInteger", "QLinearConv"), lambda op, ranks: [(0, 1, 2)]),
    **dict.fromkeys(("MatMulInteger", "QLinearMatMul"), lambda op, ranks: [(0, ranks[0] - 1, 2)]),
    **dict.fromkeys(("Gemm", "com.microsoft::FusedGemm"), _gemm),
    **dict.fromkeys(("MatMul", "com.microsoft::MatMulNBits", "Attention"), lambda op, ranks: [(0, ranks[0] - 1)]),
    **dict.fromkeys(("com.microsoft::FusedMatMul", "com.microsoft::TransposeMatMul"), _fused_matmul),
    **dict.fromkeys("ReduceSum ReduceSumSquare ReduceL1 ReduceL2 ReduceLogSum CumSum".split(), _reduced),
    **dict.fromkeys(("LinearAttention", "com.microsoft::LinearAttention"), _linear_attention),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), lambda op, ranks: [(0, 2), (2, 2)]),
    "Gather": _picked,
    "LpNormalization": _along_axis,
    "Einsum": _einsum,
    "com.microsoft::MultiHeadAttention": _multi_head,
    "com.microsoft::GroupQueryAttention": _group_query,
    "com.microsoft::Attention": _packed_attention,
    "com.microsoft::MoE": lambda op, ranks: [(0, ranks[0] - 1), (4, 2)],
    "com.microsoft::QMoE": _quantized_mixture,
}
"""op type -> what it sums over. An op that only passes its axes on has no entry."""


def mask_readers(graph: Graph, dimensions: Dimensions, kept: Mapping[Dim, Indices]) -> int:
    """Replaces what contractions read by zeros at the removed indices; returns how many masks were put in."""
    count = 0
    for op in graph.ops():
        rule = CONTRACTED.get(f"{op.domain}::{op.op_type}" if op.domain else op.op_type)
        if rule is None or op in dimensions.boundaries:
            continue
        layouts = [[] if value is None else _layouts(dimensions, op, port) for port, value in enumerate(op.inputs)]
        ranks = [*map(len, layouts), *[0] * 8]
        for port, axis, *zero in rule(op, ranks):
            layout = layouts[port][axis]
            size = size_of(layout) or _size(dimensions, op, port, axis)
            stays = None if size is None else _stays(layout, kept, size)
            if stays is not None and size is not None and len(stays) < size:
                shape = [1] * len(layouts[port])
                shape[axis] = size
                mask = np.isin(np.arange(size), stays).reshape(shape)
                data = op.inputs[port]
                assert data is not None
                masked = _masked(graph, dimensions, data, mask, op.input(zero[0]) if zero else None)
                graph.set_inputs(op, [masked if at == port else old for at, old in enumerate(op.inputs)])
                count += 1
    return count


def _size(dimensions: Dimensions, op: Op, port: int, axis: int) -> int | None:
    """The size of an axis, if need be from the weight that it is multiplied with."""
    size = dimensions.known.size(op.inputs[port], axis)
    if size is None and op.op_type in ("MatMul", "Gemm") and port == 0:
        weight = dimensions.known.shape(op.inputs[1]) or ()
        turned = op.op_type == "Gemm" and op.attribute("transB", 0)
        size = weight[1 if turned or len(weight) == 1 else -2] if weight else None
    return size if isinstance(size, int) else None


def _stays(layout: Layout, kept: Mapping[Dim, Indices], size: int) -> Indices | None:
    """Which indices of an axis stay; one factor whose size is not known has what the others leave."""
    factors = expand(layout)
    unknown = [dim for dim in factors if dim.size is None]
    if not unknown:
        return indices(layout, kept)
    others = int(np.prod([dim.size for dim in factors if dim.size is not None], dtype=np.int64))
    if len(unknown) > 1 or size % others:
        return None
    filled = [Dim(size // others) if dim.size is None else dim for dim in factors]
    return indices(filled, kept)


def _masked(graph: Graph, dimensions: Dimensions, data: Value, mask: np.ndarray, zero: Value | None) -> Value:
    kind = dimensions.known.types.get(data, data.type)
    dtype = kind.dtype.numpy if isinstance(kind, TensorType) else np.dtype(np.float32)
    if dtype.kind not in "iu":
        constant = graph.add_constant("mask", Tensor(mask.astype(dtype)))
        return emit(graph, "Mul", [data, constant]).output
    stays = graph.add_constant("mask", Tensor(mask))
    return emit(graph, "Where", [stays, data, zero or graph.add_constant("zero", Tensor(np.zeros((), dtype)))]).output


def _layouts(dimensions: Dimensions, op: Op, port: int) -> Layouts:
    value = op.inputs[port]
    assert value is not None
    use = Use(op, port)
    return dimensions.layouts[use] if use in dimensions.layouts else dimensions.layouts.get(value, [])
