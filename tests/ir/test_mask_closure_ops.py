"""The closure's rules against onnxruntime: an op with what is removed cut out computes what it did with it zeroed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest
from helpers.closure_masks import Place
from helpers.mask_closure import Closure, MaskClosure
from numpy.typing import NDArray

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.ir import DataType, Graph, Header, Value
from secateur.ir.build import add_constant, add_input, emit

_RUNNER = partial(OnnxRuntimeRunner, optimize=False, threads=1)


@dataclass(frozen=True)
class Case:
    """One op. Inputs are shapes (random numbers), arrays (as they are) or None; the first is an input of the graph."""

    op: str
    inputs: Sequence[tuple[int, ...] | NDArray[Any] | None]
    seed: tuple[int, int, Sequence[int]]
    """Port, axis and indices; port -1 is the first output."""
    takes: Mapping[int, dict[int, list[int]]]
    """What else goes, by port: axes and indices."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)
    """The attributes that change when the slabs are cut out."""
    numbers: Mapping[int, NDArray[Any]] = field(default_factory=dict)
    """The inputs (sizes, bounds) that change."""
    outputs: int = 1
    opset: int = 22


def _ints(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, np.int64)


def _graph(case: Case, arrays: Sequence[NDArray[Any] | None], attributes: Mapping[str, Any]) -> Graph:
    graph = Graph("one", header=Header(opsets=(("", case.opset), ("com.microsoft", 1))))
    values: list[Value | None] = []
    for port, array in enumerate(arrays):
        if array is not None and port == 0:
            values.append(add_input(graph, "x", array.shape, DataType.of(array.dtype)))
        else:
            values.append(None if array is None else add_constant(graph, f"input{port}", array))
    op = emit(graph, case.op, values, attributes, outputs=[f"y{port}" for port in range(case.outputs)])
    outputs = [value for value in op.outputs if value is not None]
    graph.set_interface(outputs=outputs)
    return graph


def _arrays(case: Case) -> list[NDArray[Any] | None]:
    random = np.random.default_rng(3)
    return [
        random.uniform(0.5, 1.5, given).astype(np.float32) * (1 if len(given) == 1 else random.choice([-1, 1], given))
        if isinstance(given, tuple)
        else given
        for given in case.inputs
    ]


def _run(graph: Graph, x: NDArray[Any]) -> list[NDArray[Any]]:
    with _RUNNER(graph) as runner:
        made = runner.run({"x": x})
    return [made[value.name] for value in graph.outputs]


def _place(graph: Graph, port: int) -> Place:
    (op,) = graph.ops()
    if port < 0:
        return op.output
    return graph.inputs[0] if port == 0 else (op, port)


def _cut(array: NDArray[Any], removed: Mapping[int, Sequence[int]]) -> NDArray[Any]:
    for axis, indices in removed.items():
        array = np.delete(array, indices, axis)
    return array


def _zeroed(array: NDArray[Any], removed: Mapping[int, Sequence[int]]) -> NDArray[Any]:
    array = array.copy()
    for axis, indices in removed.items():
        np.moveaxis(array, axis, 0)[list(indices)] = 0
    return array


def _closed(case: Case) -> tuple[Graph, Closure]:
    arrays = [None if array is None else array.astype(_kind(array), copy=False) for array in _arrays(case)]
    graph = _graph(case, arrays, case.attributes)
    port, axis, indices = case.seed
    return graph, MaskClosure.of(graph).close(_place(graph, port), axis, indices)


def _kind(array: NDArray[Any]) -> Any:
    return np.float32 if array.dtype == np.float64 else array.dtype


_GROUPS = {"group": 3}
_Q8 = np.arange(24, dtype=np.int8).reshape(6, 4)

CASES = {
    "conv out": Case("Conv", [(1, 3, 5, 4), (6, 3, 3, 2), (6,)], (1, 0, [2, 4]), {2: {0: [2, 4]}, -1: {1: [2, 4]}}),
    "conv in": Case("Conv", [(1, 3, 5, 4), (6, 3, 3, 2), (6,)], (1, 1, [2]), {0: {1: [2]}}),
    "conv batch": Case("Conv", [(3, 2, 5, 4), (6, 2, 3, 2)], (0, 0, [1]), {-1: {0: [1]}}),
    "conv 1d": Case("Conv", [(1, 3, 7), (6, 3, 3)], (-1, 1, [5]), {1: {0: [5]}}),
    "conv grouped offset out": Case(
        "Conv",
        [(1, 6, 5, 4), (12, 2, 3, 3), (12,)],
        (-1, 1, [1, 5, 9]),
        {1: {0: [1, 5, 9]}, 2: {0: [1, 5, 9]}},
        _GROUPS,
    ),
    "conv grouped offset in": Case(
        "Conv", [(1, 6, 5, 4), (12, 2, 3, 3), (12,)], (0, 1, [1, 3, 5]), {1: {1: [1]}}, _GROUPS
    ),
    "conv whole group": Case(
        "Conv",
        [(1, 6, 5, 4), (12, 2, 3, 3), (12,)],
        (0, 1, [2, 3]),
        {1: {0: [4, 5, 6, 7]}, 2: {0: [4, 5, 6, 7]}, -1: {1: [4, 5, 6, 7]}},
        _GROUPS,
        {"group": 2},
    ),
    "conv depthwise": Case(
        "Conv", [(1, 5, 5, 4), (5, 1, 3, 3)], (0, 1, [3]), {1: {0: [3]}, -1: {1: [3]}}, {"group": 5}, {"group": 4}
    ),
    "conv transposed": Case(
        "ConvTranspose", [(1, 3, 4, 5), (3, 6, 2, 2), (6,)], (2, 0, [1]), {1: {1: [1]}, -1: {1: [1]}}
    ),
    "conv transposed group": Case(
        "ConvTranspose",
        [(1, 6, 4, 5), (6, 4, 2, 2), (12,)],
        (1, 0, [2, 3]),
        {0: {1: [2, 3]}, 2: {0: [4, 5, 6, 7]}, -1: {1: [4, 5, 6, 7]}},
        _GROUPS,
        {"group": 2},
    ),
    "conv transposed offset": Case(
        "ConvTranspose",
        [(1, 6, 4, 5), (6, 4, 2, 2), (12,)],
        (1, 1, [3]),
        {2: {0: [3, 7, 11]}, -1: {1: [3, 7, 11]}},
        _GROUPS,
    ),
    "gemm": Case("Gemm", [(4, 3), (3, 6), (6,)], (1, 1, [2]), {2: {0: [2]}, -1: {1: [2]}}),
    "gemm transposed": Case(
        "Gemm",
        [(3, 4), (6, 3), (4, 1)],
        (0, 1, [2]),
        {2: {0: [2]}, -1: {0: [2]}},
        {"transA": 1, "transB": 1, "alpha": 0.5},
    ),
    "gemm inner": Case("Gemm", [(3, 4), (6, 3), (4, 6)], (0, 0, [1]), {1: {1: [1]}}, {"transA": 1, "transB": 1}),
    "matmul inner": Case("MatMul", [(2, 4, 3), (3, 5)], (1, 0, [2]), {0: {2: [2]}}),
    "matmul batch": Case("MatMul", [(2, 1, 4, 3), (5, 3, 6)], (1, 0, [2, 3]), {-1: {1: [2, 3]}}),
    "matmul batch both": Case("MatMul", [(2, 5, 4, 3), (5, 3, 6)], (1, 0, [2]), {0: {1: [2]}, -1: {1: [2]}}),
    "matmul rows": Case("MatMul", [(2, 4, 3), (2, 3, 5)], (-1, 1, [0]), {0: {1: [0]}}),
    "matmul vector": Case("MatMul", [(3,), (2, 3, 5)], (0, 0, [1]), {1: {1: [1]}}),
    "einsum": Case(
        "Einsum", [(2, 3, 4), (5, 3, 4)], (-1, 1, [3]), {1: {0: [3]}}, {"equation": "b h d, k h d -> b k h"}
    ),
    "einsum inner": Case("Einsum", [(2, 3, 4), (5, 4)], (0, 2, [1]), {1: {1: [1]}}, {"equation": "...d,kd->...k"}),
    "batch norm": Case(
        "BatchNormalization",
        [(1, 4, 3, 2), (4,), (4,), (4,), (4,)],
        (3, 0, [1]),
        {0: {1: [1]}, 1: {0: [1]}, 2: {0: [1]}, 4: {0: [1]}, -1: {1: [1]}},
    ),
    "instance norm": Case(
        "InstanceNormalization", [(2, 4, 5), (4,), (4,)], (1, 0, [1]), {0: {1: [1]}, 2: {0: [1]}, -1: {1: [1]}}
    ),
    "group norm": Case(
        "GroupNormalization",
        [(1, 6, 5), (6,), (6,)],
        (0, 1, [2, 3]),
        {1: {0: [2, 3]}, 2: {0: [2, 3]}, -1: {1: [2, 3]}},
        {"num_groups": 3},
        {"num_groups": 2},
    ),
    "layer norm": Case("LayerNormalization", [(2, 4, 5), (5,), (5,)], (0, 1, [2]), {-1: {1: [2]}}),
    "rms norm": Case("RMSNormalization", [(2, 4, 5), (5,)], (0, 1, [2]), {-1: {1: [2]}}, opset=23),
    "skip layer norm": Case(
        "com.microsoft::SkipLayerNormalization",
        [(2, 4, 5), (2, 4, 5), (5,), (5,), (5,)],
        (0, 1, [2]),
        {1: {1: [2]}, -1: {1: [2]}},
    ),
    "layer norm inside": Case(
        "LayerNormalization", [(2, 4, 5), (5,), (5,)], (0, 2, [3]), {1: {0: [3]}, 2: {0: [3]}, -1: {2: [3]}}
    ),
    "local response norm": Case("LRN", [(1, 4, 3, 2)], (0, 1, [0]), {-1: {1: [0]}}, {"size": 3}),
    "lp norm": Case("LpNormalization", [(3, 4)], (0, 0, [1]), {-1: {0: [1]}}),
    "lstm": Case(
        "LSTM",
        [(4, 2, 3), (1, 20, 3), (1, 20, 5), (1, 40), None, (1, 2, 5), (1, 2, 5), (1, 15)],
        (5, 2, [2]),
        {
            1: {1: [2, 7, 12, 17]},
            2: {1: [2, 7, 12, 17], 2: [2]},
            3: {1: [2, 7, 12, 17, 22, 27, 32, 37]},
            6: {2: [2]},
            7: {1: [2, 7, 12]},
            -1: {3: [2]},
        },
        {"hidden_size": 5},
        {"hidden_size": 4},
        outputs=3,
    ),
    "gru": Case(
        "GRU",
        [(4, 2, 3), (2, 12, 3), (2, 12, 4), (2, 24)],
        (-1, 3, [1]),
        {1: {1: [1, 5, 9]}, 2: {1: [1, 5, 9], 2: [1]}, 3: {1: [1, 5, 9, 13, 17, 21]}},
        {"hidden_size": 4, "direction": "bidirectional"},
        {"hidden_size": 3},
        outputs=2,
    ),
    "rnn input": Case("RNN", [(4, 2, 3), (1, 5, 3), (1, 5, 5)], (1, 2, [0]), {0: {2: [0]}}, {"hidden_size": 5}),
    "attention head": Case(
        "Attention",
        [(1, 4, 24), (1, 5, 8), (1, 5, 6)],
        (1, 2, [4, 5, 6, 7]),
        {0: {2: list(range(12, 24))}, 2: {2: [3, 4, 5]}, -1: {2: list(range(9, 18))}},
        {"q_num_heads": 6, "kv_num_heads": 2, "scale": 0.4},
        {"q_num_heads": 3, "kv_num_heads": 1},
        opset=23,
    ),
    "attention repeat": Case(
        "Attention",
        [(1, 4, 24), (1, 5, 8), (1, 5, 6)],
        (0, 2, [4, 5, 6, 7, 16, 17, 18, 19]),
        {-1: {2: [3, 4, 5, 12, 13, 14]}},
        {"q_num_heads": 6, "kv_num_heads": 2, "scale": 0.4},
        {"q_num_heads": 4},
        opset=23,
    ),
    "attention width": Case(
        "Attention", [(1, 2, 4, 6), (1, 2, 5, 6), (1, 2, 5, 3)], (0, 3, [1]), {1: {3: [1]}}, {"scale": 0.4}, opset=23
    ),
    "attention depth": Case(
        "Attention", [(1, 2, 4, 6), (1, 2, 5, 6), (1, 2, 5, 3)], (2, 3, [1]), {-1: {3: [1]}}, {"scale": 0.4}, opset=23
    ),
    "multi-head attention": Case(
        "com.microsoft::MultiHeadAttention",
        [(1, 4, 6), (1, 5, 6), (1, 5, 12), (24,)],
        (1, 2, [2, 3]),
        {0: {2: [2, 3]}, 2: {2: [4, 5, 6, 7]}, 3: {0: [2, 3, 8, 9, 16, 17, 18, 19]}, -1: {2: [4, 5, 6, 7]}},
        {"num_heads": 3, "scale": 0.4},
        {"num_heads": 2},
    ),
    "fused attention": Case(
        "com.microsoft::Attention",
        [(1, 4, 5), (5, 24), (24,)],
        (-1, 2, [4, 5, 6, 7]),
        {1: {1: [2, 3, 8, 9, 16, 17, 18, 19]}, 2: {0: [2, 3, 8, 9, 16, 17, 18, 19]}},
        {"num_heads": 3, "qkv_hidden_sizes": [6, 6, 12], "scale": 0.4},
        {"num_heads": 2, "qkv_hidden_sizes": [4, 4, 8]},
    ),
    "embeddings": Case(
        "com.microsoft::EmbedLayerNormalization",
        [np.array([[1, 3, 0]], np.int32), None, (5, 4), (6, 4), None, (4,), (4,)],
        (3, 1, [2]),
        {2: {1: [2]}, 5: {0: [2]}, 6: {0: [2]}, -1: {2: [2]}},
        outputs=2,
    ),
    "gather elements": Case(
        "GatherElements", [(4, 3), np.array([[3, 0, 1], [2, 2, 0]])], (0, 1, [1]), {1: {1: [1]}, -1: {1: [1]}}
    ),
    "scatter elements": Case(
        "ScatterElements",
        [(4, 3), np.array([[3, 0, 1], [2, 2, 0]]), (2, 3)],
        (-1, 1, [2]),
        {0: {1: [2]}, 1: {1: [2]}, 2: {1: [2]}},
    ),
    "group query attention": Case(
        "com.microsoft::GroupQueryAttention",
        [(1, 3, 48), (1, 3, 16), (1, 3, 16), None, None, np.array([2], np.int32), np.array(3, np.int32)],
        (1, 2, list(range(8, 16))),
        {0: {2: list(range(24, 48))}, 2: {2: list(range(8, 16))}, -1: {2: list(range(24, 48))}},
        {"num_heads": 6, "kv_num_heads": 2, "scale": 0.4},
        {"num_heads": 3, "kv_num_heads": 1},
    ),
    "matmul of blocks": Case(
        "com.microsoft::MatMulNBits",
        [(5, 48), np.arange(96, dtype=np.uint8).reshape(4, 3, 8), (12,)],
        (0, 1, list(range(16, 32))),
        {1: {1: [1]}, 2: {0: [1, 4, 7, 10]}},
        {"K": 48, "N": 4, "bits": 4, "block_size": 16},
        {"K": 32},
    ),
    "matmul of blocks out": Case(
        "com.microsoft::MatMulNBits",
        [(5, 48), np.arange(96, dtype=np.uint8).reshape(4, 3, 8), (12,)],
        (1, 0, [2]),
        {2: {0: [6, 7, 8]}, -1: {1: [2]}},
        {"K": 48, "N": 4, "bits": 4, "block_size": 16},
        {"N": 3},
    ),
    "rotary embedding": Case(
        "RotaryEmbedding",
        [(1, 2, 4, 6), (8, 3), (8, 3), np.arange(4).reshape(1, 4)],
        (1, 1, [1]),
        {0: {3: [1, 4]}, 2: {1: [1]}, -1: {3: [1, 4]}},
        opset=23,
    ),
    "rotary embedding interleaved": Case(
        "RotaryEmbedding",
        [(1, 4, 12), (8, 3), (8, 3), np.arange(4).reshape(1, 4)],
        (0, 2, [2, 3, 8, 9]),
        {1: {1: [1]}, 2: {1: [1]}, -1: {2: [2, 3, 8, 9]}},
        {"num_heads": 2, "interleaved": 1},
        opset=23,
    ),
    "dequantize": Case(
        "DequantizeLinear", [_Q8, (4,), np.zeros(4, np.int8)], (1, 0, [3]), {0: {1: [3]}, 2: {0: [3]}, -1: {1: [3]}}
    ),
    "dequantize blocks": Case(
        "DequantizeLinear",
        [_Q8, (2, 4)],
        (1, 0, [1]),
        {0: {0: [3, 4, 5]}, -1: {0: [3, 4, 5]}},
        {"axis": 0, "block_size": 3},
    ),
    "prelu": Case("PRelu", [(2, 3, 4), (3, 1)], (1, 0, [1]), {0: {1: [1]}, -1: {1: [1]}}),
    "where": Case("Where", [np.ones((3, 1), np.bool_), (2, 3, 4), (4,)], (1, 1, [2]), {0: {0: [2]}, -1: {1: [2]}}),
    "mul scalar": Case("Mul", [(2, 3), ()], (0, 1, [0]), {-1: {1: [0]}}),
    "softmax": Case("Softmax", [(2, 3, 4)], (0, 1, [2]), {-1: {1: [2]}}),
    "pool": Case("MaxPool", [(1, 3, 4, 4)], (-1, 1, [0]), {0: {1: [0]}}, {"kernel_shape": [2, 2]}),
    "global pool": Case("GlobalAveragePool", [(1, 3, 4, 4)], (0, 1, [0]), {-1: {1: [0]}}),
    "resize": Case(
        "Resize",
        [(1, 3, 2, 2), None, np.array([1, 1, 2, 2], np.float32)],
        (0, 1, [1]),
        {-1: {1: [1]}},
        {"mode": "nearest"},
    ),
    "reduce sum": Case("ReduceSum", [(2, 3, 4), _ints(1)], (0, 1, [1]), {}, {"keepdims": 0}),
    "reduce mean": Case("ReduceMean", [(2, 3, 4), _ints(-1)], (-1, 1, [1]), {0: {1: [1]}}, {"keepdims": 0}),
    "cumulative sum": Case("CumSum", [(2, 5), _ints(1)], (0, 1, [2]), {-1: {1: [2]}}),
    "top": Case("TopK", [(4, 5), _ints(2)], (0, 0, [1]), {-1: {0: [1]}}, outputs=2),
    "triangle": Case("Trilu", [(3, 4, 4)], (0, 0, [1]), {-1: {0: [1]}}),
    "gather table": Case("Gather", [(7, 5), np.array([[1, 4, 1]])], (0, 1, [3]), {-1: {2: [3]}}),
    "gather permutes": Case(
        "Gather", [(2, 4, 3), _ints(3, 1, 0, 2)], (0, 1, [1]), {-1: {1: [1]}}, {"axis": 1}, numbers={1: _ints(2, 0, 1)}
    ),
    "gather nd": Case("GatherND", [(4, 5, 3), np.array([[0, 1], [3, 2]])], (0, 2, [1]), {-1: {1: [1]}}),
    "scatter nd": Case("ScatterND", [(4, 3), np.array([[0], [2]]), (2, 3)], (2, 1, [1]), {0: {1: [1]}, -1: {1: [1]}}),
    "tile": Case("Tile", [(2, 3), _ints(1, 2)], (0, 1, [1]), {-1: {1: [1, 4]}}),
    "tile repeats": Case("Tile", [(2, 3), _ints(1, 2)], (-1, 1, [0, 1, 2]), {}, numbers={1: _ints(1, 1)}),
    "expand": Case(
        "Expand", [(2, 1, 3), _ints(4, 2, 5, 3)], (-1, 1, [1]), {0: {0: [1]}}, numbers={1: _ints(4, 1, 5, 3)}
    ),
    "expand repeats": Case("Expand", [(2, 1, 3), _ints(2, 5, 3)], (-1, 1, [1]), {}, numbers={1: _ints(2, 4, 3)}),
    "pad": Case("Pad", [(2, 3), _ints(0, 1, 0, 2)], (0, 1, [1]), {-1: {1: [2]}}),
    "slice": Case("Slice", [(4, 6), _ints(1), _ints(5), _ints(1)], (-1, 1, [2]), {0: {1: [3]}}, numbers={2: _ints(4)}),
    "slice passes": Case("Slice", [(4, 6), _ints(1), _ints(5), _ints(1)], (-1, 0, [2]), {0: {0: [2]}}),
    "slice steps": Case(
        "Slice",
        [(4, 6), _ints(5), _ints(-7), _ints(1), _ints(-2)],
        (0, 1, [2, 3]),
        {-1: {1: [1]}},
    ),
    "concat": Case("Concat", [(2, 3), (2, 4)], (-1, 1, [4]), {1: {1: [1]}}, {"axis": 1}),
    "concat passes": Case("Concat", [(2, 3), (2, 4)], (0, 0, [1]), {1: {0: [1]}, -1: {0: [1]}}, {"axis": 1}),
    "split": Case(
        "Split", [(2, 5), _ints(2, 3)], (-1, 1, [1]), {0: {1: [1]}}, {"axis": 1}, numbers={1: _ints(1, 3)}, outputs=2
    ),
    "flatten": Case("Flatten", [(2, 3, 4)], (0, 1, [1]), {-1: {1: [4, 5, 6, 7]}}),
    "reshape": Case(
        "Reshape", [(2, 12), _ints(0, 3, 4)], (-1, 2, [1]), {0: {1: [1, 5, 9]}}, numbers={1: _ints(0, 3, 3)}
    ),
    "transpose": Case("Transpose", [(2, 3, 4)], (0, 1, [1]), {-1: {2: [1]}}, {"perm": [2, 0, 1]}),
    "depth to space": Case("DepthToSpace", [(1, 12, 2, 3)], (-1, 1, [1]), {0: {1: [1, 4, 7, 10]}}, {"blocksize": 2}),
    "depth to space crd": Case(
        "DepthToSpace", [(1, 12, 2, 3)], (-1, 1, [1]), {0: {1: [4, 5, 6, 7]}}, {"blocksize": 2, "mode": "CRD"}
    ),
    "space to depth": Case("SpaceToDepth", [(1, 3, 4, 6)], (0, 1, [1]), {-1: {1: [1, 4, 7, 10]}}, {"blocksize": 2}),
}

INEXACT = {"embeddings", "layer norm inside", "local response norm"}


@pytest.mark.parametrize("name", CASES)
def test_what_goes_together(name: str) -> None:
    case = CASES[name]
    graph, closure = _closed(case)
    port, axis, indices = case.seed
    wanted: dict[Place, dict[int, list[int]]] = {_place(graph, port): {axis: sorted(indices)}}
    for other, axes in case.takes.items():
        wanted.setdefault(_place(graph, other), {}).update(axes)
    found = {place: axes for place, axes in closure.removed.items() if place not in graph.outputs[1:]}
    assert found == wanted
    assert not closure.misaligned and not closure.emptied
    assert bool(closure.inexact) is (name in INEXACT)


@pytest.mark.parametrize("name", sorted(CASES.keys() - INEXACT))
def test_cut_out_is_as_good_as_zero(name: str) -> None:
    case = CASES[name]
    graph, closure = _closed(case)
    (op,) = graph.ops()
    removed = [closure.removed.get(_place(graph, port), {}) for port in range(len(case.inputs))]
    arrays = [None if array is None else array.astype(_kind(array)) for array in _arrays(case)]
    zeroed = [None if array is None else _zeroed(array, gone) for array, gone in zip(arrays, removed, strict=True)]
    cut = [None if array is None else _cut(array, gone) for array, gone in zip(arrays, removed, strict=True)]
    for port, array in case.numbers.items():
        cut[port] = array
    dense = _run(_graph(case, zeroed, case.attributes), np.asarray(zeroed[0]))
    small = _run(_graph(case, cut, {**case.attributes, **case.after}), np.asarray(cut[0]))
    for value, before, after in zip(op.outputs, dense, small, strict=True):
        assert value is not None
        np.testing.assert_allclose(after, _cut(before, closure.removed.get(value, {})), rtol=1e-5, atol=1e-6)


def test_every_rule_is_tried() -> None:
    """Elementwise ops share one rule; the others are among the cases, or share the rule of one that is."""
    from helpers.closure_rules import ELEMENTWISE, rules

    like = {  # op -> the case whose rule it shares
        **dict.fromkeys(("AveragePool", "GlobalMaxPool", "LpPool", "GlobalLpPool"), "MaxPool"),
        **dict.fromkeys((op for op in rules if op.startswith("Reduce")), "ReduceSum"),
        **dict.fromkeys(("Squeeze", "Unsqueeze"), "Flatten"),
        **dict.fromkeys(("ArgMax", "ArgMin", "Hardmax", "OneHot"), "TopK"),
        **dict.fromkeys(("Shape", "Size", "ConstantOfShape"), "Expand"),
        "LogSoftmax": "Softmax",
        "CastLike": "Mul",
        "Upsample": "Resize",
        "MatMulInteger": "MatMul",
        "com.microsoft::FusedMatMul": "Gemm",
        "com.microsoft::FusedConv": "Conv",
        "MeanVarianceNormalization": "LpNormalization",
        "QuantizeLinear": "DequantizeLinear",
        "SimplifiedLayerNormalization": "RMSNormalization",
        "com.microsoft::SimplifiedLayerNormalization": "RMSNormalization",
        "com.microsoft::SkipSimplifiedLayerNormalization": "com.microsoft::SkipLayerNormalization",
    }
    tried = {case.op for case in CASES.values()}
    untried = {op for op in rules if op not in tried and op not in ELEMENTWISE and like.get(op) not in tried}
    assert not untried
