"""Units found by masks, cut out of real weights: the graph computes what it did with them zeroed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from helpers import graphs
from helpers.mask_closure import MaskClosure, Unit
from helpers.structure_units import UNITS, named_unit
from helpers.structures import structures

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.ir import Graph, Tensor, Value

_RUNNER = partial(OnnxRuntimeRunner, optimize=False, threads=1)
SHAPES: dict[tuple[str, str], dict[str, Any]] = {
    ("attention", "head"): {f"{name}_heads.shape": [0, 0, 2, 4] for name in ("query", "key")}
    | {"value_heads.shape": [0, 0, 2, 7]},
    ("attention", "query and key width"): {f"{name}_heads.shape": [0, 0, 3, 3] for name in ("query", "key")},
    ("attention", "value width"): {"value_heads.shape": [0, 0, 3, 6]},
    ("grouped_query_attention", "pair"): {
        "query_heads.shape": [0, 0, 3, 4],
        "key_heads.shape": [0, 0, 1, 4],
        "value_heads.shape": [0, 0, 1, 5],
        "key.expand": [1, 1, 3, 7, 4],
        "value.expand": [1, 1, 3, 7, 5],
        "key_repeated.shape": [1, 3, 7, 4],
        "value_repeated.shape": [1, 3, 7, 5],
    },
    ("grouped_query_attention", "repeat"): {
        "query_heads.shape": [0, 0, 4, 4],
        "key.expand": [1, 2, 2, 7, 4],
        "value.expand": [1, 2, 2, 7, 5],
        "key_repeated.shape": [1, 4, 7, 4],
        "value_repeated.shape": [1, 4, 7, 5],
    },
    ("fused_qkv_split", "head"): {
        "parts": [8, 8, 10],
        "query_heads.shape": [0, 0, 2, 4],
        "key_heads.shape": [0, 0, 2, 4],
        "value_heads.shape": [0, 0, 2, 5],
    },
    ("packed_qkv", "width"): {"apart.shape": [1, 6, 3, 2, 4]},
    ("packed_qkv", "head"): {"apart.shape": [1, 6, 3, 1, 5]},
    ("rotary", "rotated pair"): {
        "query_heads.shape": [0, 0, 2, 4],
        "key_heads.shape": [0, 0, 2, 4],
        **{f"bound_{number}": [2] for number in (1, 3, 7, 9)},
        **{f"bound_{number}": [4] for number in (4, 10)},
    },
    ("split_shuffle", "near"): {"apart.shape": [0, 2, 3, 5, 7], "shuffled.shape": [0, 6, 5, 7], "halves": [2, 4]},
    ("channel_shuffle", "offset in both"): {
        "apart.shape": [0, 3, 3, 5, 7],
        "shuffled.shape": [0, 9, 5, 7],
        "/depthwise": {"group": 9},
    },
    ("channel_shuffle", "group before"): {
        "apart.shape": [0, 2, 6, 5, 7],
        "shuffled.shape": [0, 12, 5, 7],
        "/narrow": {"group": 2},
        "/depthwise": {"group": 12},
    },
    ("grouped_conv", "group"): {"/grouped": {"group": 2}},
    ("depthwise", "channel"): {"/depthwise": {"group": 6}},
    ("depthwise_multiplier", "channel"): {"/depthwise": {"group": 4}},
    ("group_norm", "group"): {"grouped.shape": [0, 1, -1], "ungrouped.shape": [1, 4, 3, 5]},
    ("recurrent", "cell"): {"/lstm": {"hidden_size": 4}},
    ("conv_bn_relu_conv", "channel"): {},
    ("residual_trunk", "trunk"): {},
    ("dense_concat", "one"): {},
    ("depthwise_multiplier", "every second"): {},
    ("grouped_conv", "offset in"): {},
    ("grouped_conv", "offset out"): {},
    ("flatten_gemm", "channel"): {},
    ("upsampling", "channel"): {},
    ("upsampling", "depth"): {},
    ("gated_ffn", "neuron"): {},
    ("embedded_trunk", "neuron"): {},
}
"""How the numbers that spell sizes change, by the name of the constant; attributes, by the name of the op."""


def _with_constants(graph: Graph, unit: Unit, change: Callable[[np.ndarray, Mapping[int, Sequence[int]]], Any]) -> None:
    """Each use of a constant in the unit gets a changed constant of its own."""
    for place, axes in unit.items():
        assert not isinstance(place, Value)
        op, port = place
        before = op.inputs[port]
        assert before is not None and before.const is not None
        changed = Tensor(np.ascontiguousarray(change(before.const.numpy(), axes)))
        own = graph.add_constant(f"{before.name}_changed", changed)
        graph.set_inputs(op, [own if at == port else value for at, value in enumerate(op.inputs)])


def _cut(array: np.ndarray, axes: Mapping[int, Sequence[int]]) -> np.ndarray:
    for axis, indices in axes.items():
        array = np.delete(array, indices, axis)
    return array


def _zeroed(array: np.ndarray, axes: Mapping[int, Sequence[int]]) -> np.ndarray:
    array = array.copy()
    for axis, indices in axes.items():
        np.moveaxis(array, axis, 0)[list(indices)] = 0
    return array


def _outputs(graph: Graph) -> list[np.ndarray]:
    with _RUNNER(graph) as runner:
        return list(runner.run(graphs.random_feeds(graph)).values())


@pytest.mark.parametrize(("name", "kind"), SHAPES)
def test_cut_out_is_as_good_as_zero(name: str, kind: str) -> None:
    dense, small = structures()[name](), structures()[name]()
    for graph, change in ((dense, _zeroed), (small, _cut)):
        closure = MaskClosure.of(graph)
        _with_constants(graph, closure.close_all(named_unit(closure, UNITS[name][kind])).of_constants, change)
    ops = {op.name: op for op in small.ops()}
    for changed, numbers in SHAPES[name, kind].items():
        if changed in ops:
            for attribute, number in numbers.items():
                small.set_attribute(ops[changed], attribute, number)
        else:
            small[changed].set_const(Tensor(np.array(numbers)))
    for value in small.values():
        if small.producer(value) is not None and value not in small.outputs:
            value.type = None
    for one, other in zip(_outputs(dense), _outputs(small), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)
