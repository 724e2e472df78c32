"""Random residual networks: each block of each, and random sets of them, against branches multiplied by zero."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.dropping import SIMPLIFIED, check_alike, dropped, found_in, run
from helpers.graphs import Net

from secateur.ir import Graph, Header, Value
from secateur.ir.errors import RefusedError
from secateur.ir.removable import Part

WIDTH = 6


class Nets:
    """Draws a network: norms before or after, one to three branches a sum, detours, masks, shortcuts over all."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.net = Net("random", seed)
        self.count = 0

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}_{self.count}"

    def chance(self, probability: float) -> bool:
        return bool(self.random.random() < probability)

    def linear(self, value: Value, inputs: int = WIDTH, outputs: int = WIDTH) -> Value:
        made = self.net.op("MatMul", value, self.net.weight(self.name("w"), inputs, outputs), to=self.name("linear"))
        return self.net.op("Add", made, self.net.weight(self.name("b"), outputs)) if self.chance(0.5) else made

    def norm(self, value: Value) -> Value:
        return self.net.op("LayerNormalization", value, self.net.scale(self.name("gamma"), WIDTH))

    def attention(self, value: Value, mask: Value) -> Value:
        query, key, content = (self.linear(value) for _ in range(3))
        scores = self.net.op("MatMul", query, self.net.op("Transpose", key, perm=[0, 2, 1]))
        weights = self.net.op("Softmax", self.net.op("Add", scores, mask), axis=-1)
        return self.linear(self.net.op("MatMul", weights, content))

    def ffn(self, value: Value) -> Value:
        up = self.net.op("Relu", self.linear(value, WIDTH, 9))
        if self.chance(0.3):
            up = self.net.op("Mul", up, self.net.op("Sigmoid", self.linear(value, WIDTH, 9)))
        return self.linear(up, 9, WIDTH)

    def step(self, value: Value, mask: Value, before: bool) -> Value:
        """One sum."""
        start = self.norm(value) if before else value
        trunk = self.net.op("Identity", value) if self.chance(0.2) else value
        count = int(self.random.integers(1, 4))
        terms = [self.attention(start, mask) if self.chance(0.5) else self.ffn(start) for _ in range(count)]
        terms.insert(int(self.random.integers(count + 1)), trunk)
        if self.chance(0.3):
            total = self.net.op("Sum", *terms)
        else:
            total = terms[0]
            for term in terms[1:]:
                total = self.net.op("Add", total, term)
        return total if before else self.norm(total)

    def draw(self) -> Graph:
        mask = self.net.op("Relu", self.net.input("mask", 2, 5, 5))
        first = value = self.linear(self.net.input("x", 2, 5, WIDTH))
        before = self.chance(0.5)
        for _ in range(int(self.random.integers(2, 5))):
            value = self.step(value, mask, before)
        if self.chance(0.4):
            value = self.net.op("Add", first, self.linear(value))
        return self.net.done((self.net.op("Relu", value), (2, 5, WIDTH)))


@pytest.mark.parametrize("seed", range(16))
def test_random_networks(seed: int) -> None:
    graph = Nets(seed).draw()
    blocks = found_in(graph)
    assert blocks and all(block.pin is None for block in blocks), [block.pin for block in blocks]
    random = np.random.default_rng(seed)
    names = [block.name for block in blocks]
    choices = [[name] for name in names] + [[name for name in names if random.random() < 0.5] for _ in range(2)]
    for chosen in choices:
        if chosen:
            held = [b.name for b in blocks if any(o.holds(b) for o in blocks if o.name in chosen)]
            check_alike("", graph, dropped(graph, chosen), [name for name in chosen if name not in held])


def fused(opset: int, *, simplified: bool) -> Graph:
    """Two feed-forward branches in ops that add and normalize, as onnxruntime fuses them, and a plain one."""
    net = Net("fused", graph=Graph("fused", header=Header(opsets=(("", opset), ("com.microsoft", 1)))))
    kind = f"com.microsoft::Skip{'Simplified' if simplified else ''}LayerNormalization"
    trunk = net.op("Relu", net.input("x", 2, 5, 6), to="trunk")
    value = trunk
    for index in range(2):
        inner = net.op("Relu", net.op("MatMul", value, net.weight(f"up_{index}", 6, 9)))
        branch = net.op("MatMul", inner, net.weight(f"down_{index}", 9, 6), to=f"branch_{index}")
        norm = [net.scale(f"gamma_{index}", 6)] + ([] if simplified else [net.weight(f"beta_{index}", 6)])
        inputs = [branch, trunk, *norm, net.weight(f"bias_{index}", 6)]
        outputs = (Value(f"normed_{index}"), None, None, Value(f"sum_{index}"))
        op = net.graph.add_op(
            type(net.graph.ops()[0])(kind.partition("::")[2], tuple(inputs), outputs, domain="com.microsoft")
        )
        value, trunk = op.output, net.graph[f"sum_{index}"]
    head = net.op("MatMul", value, net.weight("head", 6, 6), to="branch_2")
    return net.done((net.op("Add", head, trunk), (2, 5, 6)))


@pytest.mark.parametrize(("opset", "simplified"), [(17, False), (17, True), (23, False), (23, True)])
def test_a_fused_sum_and_norm_goes_on_as_the_norm(opset: int, simplified: bool) -> None:
    graph = fused(opset, simplified=simplified)
    blocks = found_in(graph)
    assert [block.name for block in blocks] == ["branch_0", "branch_1", "branch_2"]
    assert all(block.part is Part.FFN and block.pin is None for block in blocks)
    for names in (["branch_0"], ["branch_1"], ["branch_0", "branch_1"], ["branch_1", "branch_2"]):
        small = dropped(graph, names)
        check_alike(SIMPLIFIED, graph, small, names)
        kinds = {op.op_type for op in small.ops()}
        plain = "RMSNormalization" if opset == 23 else "SimplifiedLayerNormalization"
        assert "branch_2" in names or (plain if simplified else "LayerNormalization") in kinds


def test_without_a_norm_to_become_a_fused_sum_stays() -> None:
    graph = fused(16, simplified=False)
    with pytest.raises(RefusedError, match="LayerNormalization, which opset 16 does not have"):
        dropped(graph, ["branch_0"])
    assert run(graph, {"x": np.ones((2, 5, 6), np.float32)})
