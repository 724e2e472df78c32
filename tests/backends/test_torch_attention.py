"""Attention with all that may come beside it: pasts, masks of every form, windows, sinks, caches of uneven length."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.operator_net import Net
from helpers.torch_runs import distances

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.backends.torch import TorchRunner
from secateur.ir import Value

torch = pytest.importorskip("torch")
BATCH, LENGTH, PAST, HEADS, WIDTH = 2, 3, 4, 2, 8
HIDDEN = HEADS * WIDTH
MICROSOFT = "com.microsoft::"


def agree(net: Net, *outputs: Value) -> None:
    net.done(*outputs)
    with OnnxRuntimeRunner(net.graph) as one, TorchRunner(net.graph) as other:
        apart = distances(one.run(net.feeds), other.run(net.feeds))
    assert max(apart.values()) <= 1e-5, apart


MASKS: dict[str, Any] = {
    "none": None,
    "lengths": [5, 7],
    "ends and starts": [6, 7, 1, 0],
    "rows": np.array([[1, 1, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0]]),
    "pairs": np.random.default_rng(0).integers(0, 2, (BATCH, LENGTH, PAST + LENGTH)) | (np.arange(7) < 2),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("causal", [0, 1])
def test_packed_attention_with_a_past(mask: str, causal: int) -> None:
    net = Net(21)
    given = None if MASKS[mask] is None else net.const(MASKS[mask], np.int32)
    inputs = [net.input(BATCH, LENGTH, 5), net.weight(5, 3 * HIDDEN), net.weight(3 * HIDDEN), given]
    past = net.input(2, BATCH, HEADS, PAST, WIDTH)
    agree(net, *net.ops(f"{MICROSOFT}Attention", 2, *inputs, past, num_heads=HEADS, unidirectional=causal))


@pytest.mark.parametrize("mask", ["none", "lengths", "rows", "pairs"])
@pytest.mark.parametrize("past", [False, True])
def test_multi_head_attention_with_masks(mask: str, past: bool) -> None:
    net = Net(21)
    query, memory = net.input(BATCH, LENGTH, HIDDEN), LENGTH if past else PAST + LENGTH
    inputs = [query, net.input(BATCH, memory, HIDDEN), net.input(BATCH, memory, HIDDEN), net.weight(3 * HIDDEN)]
    inputs.append(None if MASKS[mask] is None else net.const(MASKS[mask], np.int32))
    inputs.append(net.weight(1, HEADS, LENGTH, PAST + LENGTH))
    inputs += [net.input(BATCH, HEADS, PAST, WIDTH) for _ in range(2)] if past else []
    made = net.ops(f"{MICROSOFT}MultiHeadAttention", 3 if past else 1, *inputs, num_heads=HEADS, scale=0.2)
    agree(net, *made)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"do_rotary": 1},
        {"do_rotary": 1, "rotary_interleaved": 1},
        {"local_window_size": 2},
        {"softcap": 3.0},
        {"smooth_softmax": 1},
        {"scale": 0.3, "sinks": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("length", [1, LENGTH])
def test_group_query_attention_writes_behind_each_past(options: dict[str, Any], length: int) -> None:
    """A cache with more room than is used; with one new position, samples have pasts of their own."""
    net, heads, batch = Net(21), 4, 2 if length == 1 else 1
    room = PAST + length + 2
    lasts = [PAST + length - 1, PAST + length - 2][:batch]
    inputs = [net.input(batch, length, heads * 16)] + [net.input(batch, length, HEADS * 16) for _ in range(2)]
    inputs += [net.input(batch, HEADS, room, 16) for _ in range(2)]
    inputs += [net.const(lasts, np.int32), net.const(room, np.int32)]
    inputs += [net.weight(room, 8), net.weight(room, 8)] if "do_rotary" in options else [None, None]
    inputs += [None, None, net.weight(heads)] if "sinks" in options else []
    said = {name: value for name, value in options.items() if name != "sinks"}
    made = net.ops(f"{MICROSOFT}GroupQueryAttention", 3, *inputs, num_heads=heads, kv_num_heads=HEADS, **said)
    agree(net, *made)


@pytest.mark.parametrize("options", [{}, {"transA": 1}, {"transBatchA": 1}, {"transBatchB": 1, "transB": 1}], ids=str)
def test_fused_products(options: dict[str, int]) -> None:
    net = Net(21)
    shape = {"transA": (2, 4, 3), "transBatchA": (3, 2, 4)}.get(next(iter(options), ""), (2, 3, 4))
    other = (5, 2, 4) if "transBatchB" in options else (2, 4, 5)
    agree(net, net.op(f"{MICROSOFT}FusedMatMul", net.input(*shape), net.input(*other), alpha=0.5, **options))


@pytest.mark.parametrize("activation", ["Relu", "Sigmoid", "Tanh", "LeakyRelu", "Clip", "HardSigmoid"])
def test_fused_convolutions(activation: str) -> None:
    net = Net(21)
    parameters = {"LeakyRelu": [0.1], "Clip": [-0.5, 0.5], "HardSigmoid": [0.2, 0.6]}.get(activation, [])
    said = {"activation": activation, **({"activation_params": parameters} if parameters else {})}
    made = net.op(f"{MICROSOFT}FusedConv", net.input(2, 3, 5, 5), net.weight(4, 3, 3, 3), net.weight(4), **said)
    agree(net, made)


def test_embeddings_count_what_the_mask_lets_through() -> None:
    net = Net(21)
    words, segments = net.input(2, 5, dtype=np.int32, most=9), net.input(2, 5, dtype=np.int32)
    tables = [net.weight(rows, 8) for rows in (9, 5, 2)]
    mask = net.const([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]], np.int32)
    inputs = [words, segments, *tables, net.weight(8), net.weight(8), mask]
    agree(net, *net.ops(f"{MICROSOFT}EmbedLayerNormalization", 3, *inputs))
