"""Gradients: to every weight, through every rule; to masks and gates inside; across rounding where asked for."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from helpers.graphs import random_feeds as tiny_feeds
from helpers.graphs import tiny_graphs
from helpers.operator_cases import CASES
from helpers.operator_net import Case, Net
from helpers.zoo import random_feeds, zoo

from secateur.backends.torch import Program, compile_torch, gated
from secateur.ir import Graph
from secateur.ir.errors import DataError

torch = pytest.importorskip("torch")
STEP = 1e-6


def is_real(case: Case) -> bool:
    """Whether the whole graph can be computed in float64: it casts nothing and draws nothing."""
    ops = {op.op_type for op in case.make().graph.ops()}
    fixed = {"Cast", "CastLike", "BitCast", "ConstantOfShape", "ConvInteger", "MatMulInteger", "Multinomial"}
    rounded = {"QuantizeLinear", "QMoE", "Bernoulli", "RandomNormal", "RandomUniform", "NhwcMaxPool"}
    return not ops & (fixed | rounded) and case.title != "Dropout[training]"


REAL = [case for case in CASES if is_real(case)]


def doubled(feeds: dict[str, Any]) -> dict[str, Any]:
    found = {name: torch.from_numpy(array) for name, array in feeds.items()}
    return {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in found.items()}


def doubles(program: Program) -> dict[str, Any]:
    return {name: tensor.detach().double().requires_grad_() for name, tensor in program.parameters().items()}


def own(weights: dict[str, Any]) -> dict[str, Any]:
    """Those that `Net.weight` made: other constants are scales of sizes, bounds, values of pads."""
    return {name: weight for name, weight in weights.items() if name.startswith("w")}


@pytest.mark.parametrize("case", REAL, ids=lambda case: case.title)
def test_gradients_of_weights_are_those_of_finite_differences(case: Case) -> None:
    """In a random direction for each weight, of a random mixture of all outputs, in float64."""
    net = case.make()
    program, feeds = compile_torch(net.graph), doubled(net.feeds)
    weights = doubles(program)
    random = torch.Generator().manual_seed(0)
    made = program(feeds, weights)
    mixture = {
        name: torch.randn(tensor.shape, generator=random, dtype=torch.float64)
        for name, tensor in made.items()
        if tensor.requires_grad
    }

    def loss(moved: dict[str, Any]) -> Any:
        outputs = program(feeds, moved)
        return sum((outputs[name] * share).sum() for name, share in mixture.items())

    if not mixture:
        pytest.skip("nothing but positions comes out")
    gradients = torch.autograd.grad(loss(weights), list(own(weights).values()), allow_unused=True)
    for (name, weight), gradient in zip(own(weights).items(), gradients, strict=True):
        way = torch.randn(weight.shape, generator=random, dtype=torch.float64)
        with torch.no_grad():
            above, below = (loss({**weights, name: weight + sign * STEP * way}) for sign in (1, -1))
        slope = float(above - below) / (2 * STEP)
        found = 0.0 if gradient is None else float((gradient * way).sum())
        assert found == pytest.approx(slope, rel=1e-5, abs=1e-6), name


def test_most_rules_are_checked() -> None:
    assert len(REAL) > 250


@pytest.mark.parametrize("name", ["resnet50", "bert", "llama-opset23", "mixtral", "lstm"])
def test_gradients_reach_the_weights_of_real_models(name: str) -> None:
    graph = zoo("small")[name]()
    program = compile_torch(graph)
    weights = program.parameters(name for name, shape in program.weights.items() if len(shape) > 1)
    feeds = {name: torch.from_numpy(array) for name, array in random_feeds(graph).items()}
    made = program(feeds, weights)
    sum(one.square().mean() for one in made.values() if one.is_floating_point()).backward()
    reached = [name for name, weight in weights.items() if weight.grad is not None and weight.grad.abs().max() > 0]
    assert len(reached) > 0.9 * len(weights) > 3
    assert all(torch.isfinite(weights[name].grad).all() for name in reached)


def chain() -> Net:
    """x -> Relu(x W + b) = hidden -> hidden V."""
    net = Net(21)
    hidden = net.op("Relu", net.dense(net.input(3, 5, name="x"), 5, 7))
    net.graph.rename(hidden, "hidden")
    net.done(net.op("MatMul", hidden, net.weight(7, 2)))
    return net


def test_the_gradient_of_a_gate_is_the_analytic_one() -> None:
    """Of sum(y^2) with y = (hidden * gate) V, at gate 1: sum over samples of 2 y V' hidden."""
    net = chain()
    feeds = doubled(net.feeds)
    program = compile_torch(net.graph)
    weights = doubles(program)
    gate = torch.ones(7, dtype=torch.float64, requires_grad=True)
    (y,) = program(feeds, weights, {"hidden": gated(gate, -1)}).values()
    y.square().sum().backward()
    inner = compile_torch(net.graph, outputs=["hidden"])(feeds, {"w": weights["w"], "w_1": weights["w_1"]})["hidden"]
    expected = (2 * (y @ weights["w_2"].T) * inner).sum(0)
    torch.testing.assert_close(gate.grad, expected.detach())


@pytest.mark.parametrize("place", ["x", "w_1", "hidden"])
def test_a_mask_may_lie_on_inputs_weights_and_what_is_computed(place: str) -> None:
    net = chain()
    program = compile_torch(net.graph)
    feeds = {name: torch.from_numpy(array) for name, array in net.feeds.items()}
    mask = torch.ones({"x": 5, "w_1": 7, "hidden": 7}[place])
    whole, same = program(feeds), program(feeds, taps={place: gated(mask, -1)})
    mask[2:] = 0
    masked = program(feeds, taps={place: gated(mask, -1)})
    seen: list[str] = []
    program(feeds, taps={place: partial(noted, seen, place)})
    assert seen == [place]
    ((name, before),) = whole.items()
    assert torch.equal(before, same[name]) and not torch.equal(before, masked[name])


def noted(seen: list[str], name: str, value: Any) -> Any:
    seen.append(name)
    return value


def test_gates_reach_into_bodies() -> None:
    for name, make in tiny_graphs().items():
        graph = make()
        inner = [body for op in graph.ops() for body in op.bodies()]
        inside = [op.output.name for body in inner for op in body.ops()]
        if not inside:
            continue
        seen: list[str] = []
        taps = {one: partial(noted, seen, one) for one in inside}
        program = compile_torch(graph)
        program({key: torch.from_numpy(array) for key, array in tiny_feeds(graph).items()}, taps=taps)
        assert seen and set(seen) <= set(inside), name


def test_a_block_by_itself_gives_the_gradient_that_it_has_in_the_whole() -> None:
    net = chain()
    feeds = {name: torch.from_numpy(array) for name, array in net.feeds.items()}
    whole, part = compile_torch(net.graph), compile_torch(net.graph, inputs=["hidden"])
    ours, theirs = whole.parameters(["w_2"]), part.parameters(["w_2"])
    (one,) = whole(feeds, ours).values()
    with torch.no_grad():
        entry = compile_torch(net.graph, outputs=["hidden"])(feeds)
    assert not entry["hidden"].requires_grad
    (other,) = part(entry, theirs).values()
    assert torch.equal(one, other)
    for made in (one, other):
        made.square().sum().backward()
    assert torch.equal(ours["w_2"].grad, theirs["w_2"].grad)


def fake_quantized(dtype: type) -> Graph:
    net = Net(21)
    x, scale, zero = net.input(4, 6, name="x"), net.const(0.05, np.float32), net.const(3, dtype)
    net.graph.rename(scale, "scale")
    net.done(net.op("DequantizeLinear", net.op("QuantizeLinear", x, scale, zero), scale, zero))
    return net.graph


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_gradients_pass_rounding_where_they_are_asked_to(dtype: type) -> None:
    graph = fake_quantized(dtype)
    x = torch.linspace(-30, 30, 24, dtype=torch.float32).reshape(4, 6).requires_grad_()
    (plain,) = compile_torch(graph)({"x": x}).values()
    assert not plain.requires_grad
    (through,) = compile_torch(graph, straight_through=True)({"x": x}).values()
    torch.testing.assert_close(through, plain)
    through.sum().backward()
    low, high = (0.05 * (limit - 3) for limit in (np.iinfo(dtype).min, np.iinfo(dtype).max))
    assert torch.equal(x.grad == 1, (x >= low) & (x <= high)) and 0 < (x.grad == 0).sum() < 24


def test_a_scale_learns_across_rounding() -> None:
    program = compile_torch(fake_quantized(np.int8), straight_through=True)
    weights = program.parameters(["scale"])
    (made,) = program({"x": torch.randn(4, 6)}, weights).values()
    made.square().sum().backward()
    assert weights["scale"].grad is not None and weights["scale"].grad != 0


def test_a_program_that_ran_without_gradients_gives_them_later() -> None:
    net = chain()
    program = compile_torch(net.graph)
    feeds = {name: torch.from_numpy(array) for name, array in net.feeds.items()}
    with torch.inference_mode():
        (before,) = program(feeds).values()
    x = feeds["x"].requires_grad_()
    (after,) = program({"x": x}).values()
    after.sum().backward()
    assert torch.equal(before, after) and x.grad is not None and x.grad.abs().max() > 0


def test_what_the_part_does_not_have_is_refused_by_name() -> None:
    program = compile_torch(chain().graph)
    x = torch.zeros(3, 5)
    with pytest.raises(DataError, match="no weight nothing"):
        program.parameters(["nothing"])
    with pytest.raises(DataError, match="no weight nothing") as caught:
        program({"x": x}, {"nothing": x})
    assert "w_1" in (caught.value.hint or "")
    with pytest.raises(DataError, match="no value nothing"):
        program({"x": x}, taps={"nothing": gated(x, 0)})
    with pytest.raises(DataError, match="lack x"):
        program({})
    with pytest.raises(DataError, match="no input z"):
        program({"x": x, "z": x})


def test_parameters_are_copies_and_weights_stay() -> None:
    program = compile_torch(chain().graph)
    x = torch.ones(3, 5)
    (before,) = program({"x": x}).values()
    weights = program.parameters()
    with torch.no_grad():
        for weight in weights.values():
            weight.zero_()
    (changed,), (after,) = program({"x": x}, weights).values(), program({"x": x}).values()
    assert torch.equal(before, after) and not changed.any()
