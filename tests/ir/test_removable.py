"""Blocks that can go: how many there are of known architectures, and what is one and what is not."""

from __future__ import annotations

from collections import Counter

import networkx as nx
import numpy as np
import pytest
from helpers.graphs import Net
from helpers.zoo import zoo

from secateur.ir import Graph, Value
from secateur.ir.onnx_shapes import infer
from secateur.ir.removable import Part, Removable, is_composite, removable_blocks
from secateur.ir.rules.known import Known

MODELS = zoo("small", "real")

EXPECTED: dict[str, tuple[int, int, int, int]] = {
    # attention, ffn, convolutions, layer: as the configurations in `zoo_transformers` and `zoo_unet` say
    **dict.fromkeys("vit vit-opset17 vit-packed vit-torch gpt2 gpt2-fused mixtral qwen-moe".split(), (2, 2, 0, 2)),
    **dict.fromkeys(
        "bert bert-opset17 bert-dynamic bert-dynamic-opset17 bert-opset23 bert-fused".split(), (2, 2, 0, 2)
    ),
    **dict.fromkeys("llama llama-opset17 llama-mqa llama-opset23 llama-dynamic llama-fused".split(), (2, 2, 0, 2)),
    "llama-dynamic-opset17": (2, 2, 0, 2),
    "swin": (4, 4, 0, 4),
    "t5": (2 + 2 * 3, 2 + 3, 0, 2 + 3),  # decoders attend to themselves and to the encoder
    "minilm": (6, 6, 0, 6),
    "resnet50": (0, 0, 2, 0),  # of 2 + 2 + 1, the first of each stage has a projection
    "convnext": (0, 0, 4, 0),
    "mobilenet-v2": (0, 0, 10, 0),
    "efficientnet-lite0": (0, 0, 9, 0),
    "unet": (4, 0, 3, 0),
    **dict.fromkeys("densenet121 shufflenet-v2 vgg16 lstm gru crepe mnist".split(), (0, 0, 0, 0)),
}


def found_in(graph: Graph) -> list[Removable]:
    return removable_blocks(Known(graph, infer(graph)))


def free(graph: Graph) -> list[Removable]:
    return [block for block in found_in(graph) if block.pin is None]


@pytest.mark.parametrize("name", EXPECTED)
def test_known_architectures(name: str) -> None:
    blocks = found_in(MODELS[name]())
    parts = Counter(block.part for block in blocks if block.pin is None)
    order = (Part.ATTENTION, Part.FFN, Part.CONVOLUTIONS, Part.LAYER)
    assert tuple(parts[part] for part in order) == EXPECTED[name]
    assert len({block.name for block in blocks}) == len(blocks)
    projections = [block for block in blocks if block.pin is not None]
    assert len(projections) == {"resnet50": 3, "unet": 5}.get(name, 0)
    assert all("shortcut is a projection" in str(block.pin) for block in projections)


@pytest.mark.parametrize("name", ["vit", "bert", "llama-dynamic", "t5", "unet", "gpt2-fused"])
def test_every_path_into_a_block_is_a_side_input_or_its_entry(name: str) -> None:
    """Single entry, single exit: cut at the entry, nothing of the block's data is left; it leads only to the exit."""
    graph = MODELS[name]()
    for block in free(graph):
        ops = set(block.ops)
        for op in ops:
            for value in op.outputs:
                readers = graph.consumers(value) if value is not None else []
                assert value is block.exit or value in block.terms or ops.issuperset(readers)
        for branch in block.branches:
            for value in {value for op in branch.inside for value in op.inputs if value is not None} - branch.data:
                if value not in branch.chosen and graph.constant(value) is None:
                    assert branch.trunk not in nx.ancestors(graph.nx, value) or _only_shapes(graph, value, branch.trunk)


def _only_shapes(graph: Graph, value: Value, trunk: Value) -> bool:
    """Without the ops that measure sizes, one does not lead to the other."""
    pruned = graph.nx.copy()
    pruned.remove_nodes_from([op for op in graph.ops() if op.op_type in ("Shape", "Size")])
    return trunk not in nx.ancestors(pruned, value)


@pytest.mark.parametrize("name", ["vit", "bert", "t5", "llama-fused", "swin"])
def test_layers_hold_their_parts_and_blocks_hold_nothing(name: str) -> None:
    blocks = free(MODELS[name]())
    for block in blocks:
        assert is_composite(block, blocks) == (block.part is Part.LAYER)
        inner = [other for other in blocks if block.holds(other)]
        if block.part is Part.LAYER:
            assert {one.part for one in inner} == {Part.ATTENTION, Part.FFN}
            assert inner[0].entry is block.entry
            assert sum(one.parameters for one in inner) <= block.parameters


def linear(net: Net, value: Value, to: str, width: int = 8) -> Value:
    inner = net.op("Relu", net.op("MatMul", value, net.weight(f"{to}_up", width, 16)))
    return net.op("MatMul", inner, net.weight(f"{to}_down", 16, width), to=to)


def parallel() -> Graph:
    """Two branches of one norm, summed with the trunk at once, as in GPT-J."""
    net = Net("parallel")
    trunk = net.op("MatMul", net.input("x", 2, 5, 8), net.weight("stem", 8, 8), to="trunk")
    normed = net.op("LayerNormalization", trunk, net.weight("gamma", 8), to="normed")
    scores = net.op("MatMul", normed, net.op("Transpose", normed, perm=[0, 2, 1]))
    attention = net.op("MatMul", net.op("Softmax", scores, axis=-1), linear(net, normed, "values"), to="attention")
    both = net.op("Add", attention, linear(net, normed, "ffn"), to="both")
    total = net.op("Add", both, trunk, to="total")
    return net.done((net.op("MatMul", total, net.weight("head", 8, 3)), (2, 5, 3)))


def test_branches_of_one_sum_are_blocks_of_their_own_and_a_layer_together() -> None:
    attention, ffn, layer = free(parallel())
    assert (attention.part, ffn.part, layer.part) == (Part.ATTENTION, Part.FFN, Part.LAYER)
    assert attention.terms == attention.terms and {*attention.terms, *ffn.terms} == set(layer.terms)
    # The norm goes with the layer only: either branch needs it.
    assert layer.parameters == attention.parameters + ffn.parameters + 8


def test_a_mask_that_all_layers_add_is_no_trunk() -> None:
    """The second scores + mask does compute itself from the mask, through the first."""
    net = Net("masked")
    mask = net.op("Relu", net.input("mask", 2, 5, 5), to="bias")
    value = net.op("Relu", net.input("x", 2, 5, 8))
    for index in range(3):
        scores = net.op("MatMul", value, net.op("Transpose", value, perm=[0, 2, 1]))
        weights = net.op("Softmax", net.op("Add", scores, mask, to=f"masked_{index}"), axis=-1)
        mixed = net.op("MatMul", weights, value)
        value = net.op("Add", value, net.op("MatMul", mixed, net.weight(f"out_{index}", 8, 8), to=f"f_{index}"))
    graph = net.done((net.op("Relu", value), (2, 5, 8)))
    assert [block.name for block in found_in(graph)] == ["f_0", "f_1", "f_2"]


def test_positions_that_each_layer_adds_are_a_side_input() -> None:
    net = Net("positions")
    place = net.op("Relu", net.input("place", 2, 5, 8))
    value = net.op("Relu", net.input("x", 2, 5, 8))
    for index in range(3):
        moved = net.op("Add", value, place, to=f"moved_{index}")
        value = net.op("Add", value, linear(net, moved, f"f_{index}"), to=f"y_{index}")
    graph = net.done((net.op("Relu", value), (2, 5, 8)))
    assert [block.name for block in found_in(graph)] == ["f_0", "f_1", "f_2"]


def test_what_adds_nothing_linear_is_no_block() -> None:
    """GELU by tanh adds a cube; a gate adds what it scales."""
    net = Net("pointwise")
    value = net.input("x", 2, 8)
    cube = net.op("Mul", net.op("Pow", value, net.constant("three", np.float32(3))), net.scale("c", 1))
    gelu = net.op("Add", value, cube)
    graph = net.done((net.op("Add", gelu, net.op("Mul", gelu, net.op("Sigmoid", gelu))), (2, 8)))
    assert not found_in(graph)


def test_what_is_read_elsewhere_stays_and_says_so() -> None:
    net = Net("tapped")
    trunk = net.op("Relu", net.input("x", 2, 8))
    inner = net.op("MatMul", trunk, net.weight("up", 8, 16), to="tapped_here")
    total = net.op("Add", trunk, net.op("MatMul", net.op("Relu", inner), net.weight("down", 16, 8), to="f"))
    other = net.op("MatMul", inner, net.weight("aside", 16, 3), to="aside_out")
    (block,) = found_in(net.done((net.op("Relu", total), (2, 8)), (other, (2, 3))))
    assert block.name == "f" and "'tapped_here', made inside of it, is read by MatMul '/aside_out'" in str(block.pin)


def test_a_sum_that_grows_is_no_block() -> None:
    net = Net("broadcast")
    row = net.op("Relu", net.input("x", 1, 8))
    many = net.op("Mul", net.op("MatMul", row, net.weight("w", 8, 8)), net.op("Relu", net.input("z", 5, 8)), to="f")
    (block,) = found_in(net.done((net.op("Relu", net.op("Add", row, many)), (5, 8))))
    assert block.pin == "its exit is larger than its entry: [1, 8] + [5, 8]"


def test_a_long_shortcut_holds_the_blocks_inside() -> None:
    net = Net("nested")
    start = net.op("Relu", net.input("x", 2, 8))
    value = start
    for index in range(2):
        value = net.op("Add", value, linear(net, value, f"f_{index}"), to=f"y_{index}")
    end = net.op("Add", start, net.op("MatMul", value, net.weight("back", 8, 8), to="all"))
    blocks = free(net.done((net.op("Relu", end), (2, 8))))
    assert [block.name for block in blocks] == ["f_0", "f_1", "all"]
    assert [is_composite(block, blocks) for block in blocks] == [False, False, True]
